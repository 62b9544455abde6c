//! A durable backend that keeps no history and starts nowhere but now, as RabbitMQ does: SQLite, and
//! who asks it for the past is told that there is none.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare::core::admin::Admin;
use fanfare::core::backend::{Backend, Published};
use fanfare::core::capability::{Capabilities, HistoryKind, Starts};
use fanfare::core::consumer::{Consumer, Member};
use fanfare::core::dead_letter::DeadLetters;
use fanfare::core::error::{Error, ErrorKind, Result};
use fanfare::core::event::Event;
use fanfare::core::history::History;
use fanfare::core::state::State;
use fanfare::core::subscription::SubscriptionName;

#[derive(Debug)]
pub(crate) struct Hidden(pub(crate) Arc<dyn Backend>);

#[async_trait]
impl Backend for Hidden {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            history: HistoryKind::None,
            start: Starts {
                earliest: false,
                time: false,
                position: false,
            },
            seek: false,
            audit: false,
            ..self.0.capabilities()
        }
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        self.0.publish(events).await
    }

    async fn consume(&self, name: &SubscriptionName, member: Member) -> Result<Arc<dyn Consumer>> {
        self.0.consume(name, member).await
    }

    fn admin(&self) -> &dyn Admin {
        self.0.admin()
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self.0.dead_letters()
    }

    fn history(&self) -> Result<&dyn History> {
        Err(Error::new(ErrorKind::Unsupported, "no past here"))
    }

    fn state(&self) -> &dyn State {
        self.0.state()
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}
