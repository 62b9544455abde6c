//! Publishing: one round trip for a call, and the connection is shared by all. Redis answers how many
//! heard an event; that nobody did is no error.

use std::time::Duration;

use bytes::Bytes;
use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;

use super::message;
use super::stream::Stream;
use crate::error::map_write;

/// Between attempts to reach a server that is gone.
const RETRY: Duration = Duration::from_millis(100);

type Answers = Vec<Result<Published>>;

/// The answer to each event, and how many of them had no receiver.
pub(super) async fn publish(stream: &Stream, events: &[Event]) -> Result<(Answers, u64)> {
    let messages: Vec<_> = events.iter().map(|event| encode(stream, event)).collect();
    let mut pipeline = redis::pipe();
    let mut sent = 0;
    for (event, message) in events.iter().zip(&messages) {
        if let Ok(message) = message {
            let channel = stream.channels.of(event.event_type());
            pipeline.cmd("PUBLISH").arg(channel).arg(&message[..]);
            sent += 1;
        }
    }
    let receivers = if sent == 0 {
        Vec::new()
    } else {
        send(stream, &pipeline).await?
    };
    let unheard = receivers.iter().filter(|count| **count == 0).count() as u64;
    if unheard > 0 {
        tracing::debug!(unheard, "nobody hears what was published");
    }
    let answer = |message: Result<Bytes>| {
        message.map(|_| Published {
            position: None,
            duplicate: false,
        })
    };
    Ok((messages.into_iter().map(answer).collect(), unheard))
}

fn encode(stream: &Stream, event: &Event) -> Result<Bytes> {
    let limit = stream.wire.config.max_data_bytes;
    if event.bytes().len() > limit {
        let text = format!("data above {limit} bytes");
        return Err(Error::new(ErrorKind::TooLarge, text));
    }
    message::write(stream.form(), event).map(Bytes::from)
}

/// Waits for a server that cannot be reached; what may have been sent is not sent again.
async fn send(stream: &Stream, pipeline: &redis::Pipeline) -> Result<Vec<u64>> {
    let (wire, clock) = (&stream.wire, &stream.wire.config.clock);
    let deadline = clock.now() + wire.config.publish_timeout;
    loop {
        let error = match wire.try_run_all(pipeline).await.map_err(map_write) {
            Ok(receivers) => return Ok(receivers),
            Err(error) => error,
        };
        if error.kind() != ErrorKind::Unavailable || clock.now() + RETRY >= deadline {
            return Err(error.during("publish"));
        }
        clock.sleep(RETRY).await;
    }
}
