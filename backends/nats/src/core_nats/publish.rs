//! Publishing: the events of a call, and behind them a question to nobody. When the server answers that
//! nobody is there, it has handed on what came before.

use bytes::Bytes;
use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;

use crate::connect::{Failed, Wire};

/// Answers per event. What may have been sent is not sent again.
pub(super) async fn publish(wire: &Wire, events: &[Event]) -> Result<Vec<Result<Published>>> {
    let most = wire.most_data();
    let mut answers = Vec::with_capacity(events.len());
    let mut messages = Vec::with_capacity(events.len());
    for event in events {
        if event.bytes().len() > most {
            let text = format!("data above {most} bytes");
            answers.push(Err(Error::new(ErrorKind::TooLarge, text)));
            continue;
        }
        let frame = fanfare_fleet::encode(std::slice::from_ref(event));
        messages.push((wire.names.live_event(event.event_type()), frame));
        answers.push(Ok(Published {
            position: None,
            duplicate: false,
        }));
    }
    if !messages.is_empty() {
        let sent = send(wire, messages).await;
        sent.map_err(|failed| failed.error().during("publish"))?;
    }
    Ok(answers)
}

async fn send(wire: &Wire, messages: Vec<(String, Vec<u8>)>) -> Result<(), Failed> {
    let config = &wire.config;
    let until = config.clock.now() + config.publish_timeout;
    if !wire.connected(until).await {
        let text = "there is no connection to nats";
        return Err(Failed::NotSent(Error::new(ErrorKind::Unavailable, text)));
    }
    let connection = wire.connection();
    for (subject, frame) in messages {
        let sent = wire.client.publish(subject, frame.into()).await;
        sent.map_err(|_| Failed::Broken)?;
    }
    let nobody = wire.names.nobody();
    wire.ask_once(&nobody, None, &Bytes::new(), until).await?;
    if wire.connection() != connection {
        return Err(Failed::Broken);
    }
    Ok(())
}
