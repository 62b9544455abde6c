//! Core NATS: at most once, for whoever asks for it. The server hands an event to who listens at that
//! moment and keeps nothing: each process has each event of its subscriptions, or never will.
//!
//! ```text
//!  publish ---> nats-server ---> ear of this process --.---> queue of `a` ---> members of `a` here
//!                         \                             `--> queue of `b` ---> ..
//!                          `---> ear of another process ---> ..
//! ```
//!
//! A process hears the whole stream once and matches here, as it does where the stream is kept.
//! Queues, leases, retries and dead letters are this process's and die with it; shared values are the
//! server's, where it has JetStream.

mod admin;
mod config;
mod consume;
mod dead_letters;
mod ear;
mod publish;
mod room;
mod subscription;

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::admin::Admin;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::{
    Capabilities, Dedup, Fencing, HistoryKind, Known, Limits, Order, SettleFrom, Starts,
};
use fanfare_core::consumer::{Consumer, Member};
use fanfare_core::dead_letter::DeadLetters;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::state::State;
use fanfare_core::subscription::SubscriptionName;

pub use self::config::CoreConfig;
use self::consume::CoreConsumer;
use self::room::Room;
use crate::connect::{Failed, Wire};
use crate::state::Values;

/// The most events in one publish.
const MAX_BATCH: usize = 10_000;
const NO_VALUES: &str = "shared values need JetStream, and this nats-server has none";

/// One stream's subjects on one server or cluster.
#[derive(Debug)]
pub struct NatsCore {
    room: Arc<Room>,
    values: Values,
}

impl NatsCore {
    /// Connects, and hears the stream from now on. Needs no JetStream.
    pub async fn open(config: CoreConfig) -> Result<Arc<Self>> {
        let wire = Wire::open(config.server.clone()).await?;
        let room = Arc::new(Room::new(&config, wire.clone()));
        let values = Values::new(wire.clone(), room.closed.subscribe());
        let values = match wire.check_jetstream().await {
            Ok(()) => {
                wire.make_state(false).await?;
                values
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => values.refusing(NO_VALUES),
            Err(error) => return Err(error),
        };
        let core = Arc::new(Self { room, values });
        let mut line = wire.line();
        ear::start(&core.room).await?;
        let all = wire.names.live();
        tokio::select! {
            heard = core.room.caught_up() => heard?,
            failed = line.fails(&all) => return Err(Failed::harmless(failed)),
        }
        Ok(core)
    }
}

#[async_trait]
impl Backend for NatsCore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "nats",
            power_safe: Known::No,
            durable: false,
            at_most_once: true,
            dedup: Dedup::None,
            fencing: Fencing::Backend,
            start: Starts {
                earliest: false,
                time: false,
                position: false,
            },
            order: Order::Lanes,
            park: false,
            history: HistoryKind::None,
            delay_precision_millis: 2,
            settle_from: SettleFrom::Node,
            atomic_batch: false,
            pause: true,
            seek: false,
            audit: false,
            foreign_input: true,
            shared: true,
            limits: Limits {
                data_bytes: self.room.wire.most_data(),
                batch_events: MAX_BATCH,
                delay_millis: 365 * 86_400_000,
            },
        }
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        self.room.check_open()?;
        if events.len() > MAX_BATCH {
            let text = format!("at most {MAX_BATCH} events in one publish");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        publish::publish(&self.room.wire, events).await
    }

    async fn consume(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Result<Arc<dyn Consumer>> {
        self.room.check_open()?;
        let subscription = self.room.subscription(subscription)?;
        let consumer = CoreConsumer::join(self.room.clone(), subscription, &member);
        Ok(Arc::new(consumer))
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }

    fn history(&self) -> Result<&dyn History> {
        let text = "nats keeps no events in the mode core";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    fn state(&self) -> &dyn State {
        &self.values
    }

    async fn close(&self) -> Result<()> {
        self.room.close();
        Ok(())
    }
}

impl Drop for NatsCore {
    fn drop(&mut self) {
        self.room.close();
    }
}
