//! Publishing: checks limits and names in the caller's task, and hands the rows to the writer.

use fanfare_core::backend::Published;
use fanfare_core::event::Event;
use fanfare_core::{Error, ErrorKind, Result};

use crate::backend::Inner;
use crate::config::SqliteConfig;
use crate::few::Few;
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
    if let [event] = events {
        return match prepare(inner, event) {
            Ok(row) => Ok(inner.queue.append(Few::One(row)).await?.into_list(Ok)),
            Err(refused) => Ok(vec![Err(refused)]),
        };
    }
    let mut rows = Vec::with_capacity(events.len());
    let mut refused = Vec::new();
    for (index, event) in events.iter().enumerate() {
        match prepare(inner, event) {
            Ok(row) => rows.push(row),
            Err(error) => refused.push((index, error)),
        }
    }
    let mut answers = if rows.is_empty() {
        Vec::new()
    } else {
        inner.queue.append(Few::Many(rows)).await?.into_list(Ok)
    };
    for (index, error) in refused {
        answers.insert(index, Err(error));
    }
    Ok(answers)
}

fn prepare(inner: &Inner, event: &Event) -> Result<Row> {
    check(&inner.stream.config, event)?;
    Row::new(event, &inner.stream.names)
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
