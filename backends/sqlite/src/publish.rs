//! Publishing: checks limits, encodes in the caller's task, and hands the rows to the writer.

use fanfare_core::backend::Published;
use fanfare_core::event::Event;
use fanfare_core::{Error, ErrorKind, Result};

use crate::backend::Inner;
use crate::config::SqliteConfig;
use crate::row::Row;

/// Answers per event, in order, after all that is stored is durable.
pub(crate) async fn publish(inner: &Inner, events: &[Event]) -> Result<Vec<Result<Published>>> {
    inner.stream.check()?;
    let config = &inner.stream.config;
    if events.len() > config.batch_events {
        let (given, most) = (events.len(), config.batch_events);
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{given} events in one publish, at most {most} are taken"),
        ));
    }
    let mut rows = Vec::with_capacity(events.len());
    let mut refused = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let row = check(config, event).and_then(|()| Row::new(event, &inner.stream.names));
        match row {
            Ok(row) => rows.push(row),
            Err(error) => refused.push((index, error)),
        }
    }
    let stored = if rows.is_empty() {
        Vec::new()
    } else {
        inner.queue.append(rows).await?
    };
    let mut answers: Vec<_> = stored.into_iter().map(Ok).collect();
    for (index, error) in refused {
        answers.insert(index, Err(error));
    }
    Ok(answers)
}

fn check(config: &SqliteConfig, event: &Event) -> Result<()> {
    let (given, most) = (event.bytes().len(), config.data_bytes);
    if given <= most {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        format!("the data are {given} bytes, at most {most} are taken"),
    ))
}
