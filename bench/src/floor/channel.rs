//! Publish to handler through a bare tokio channel.

use std::hint::black_box;

use fanfare::core::event::Event;
use tokio::sync::mpsc;

use crate::Outcome;
use crate::load::callers;
use crate::measure::{Run, Sample};

/// The capacity of the channel, in events.
const CAPACITY: usize = 1_024;

/// `publishers` tasks send, one task receives and looks at the data.
pub(crate) async fn run(publishers: usize, events: Vec<Event>) -> Outcome<Sample> {
    let (sender, mut receiver) = mpsc::channel::<Event>(CAPACITY);
    let count = events.len();
    let handler = tokio::spawn(async move {
        while let Some(event) = receiver.recv().await {
            black_box(event.bytes().len());
        }
    });
    let run = Run::begin();
    let sent = callers(publishers, events, move |event| {
        let sender = sender.clone();
        async move { Ok(sender.send(event).await?) }
    })
    .await?;
    handler.await?;
    Ok(run.end(count, sent.latencies))
}
