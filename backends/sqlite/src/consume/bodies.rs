//! The events of positions below the frontier: from the tail, else from the log, else, where a dead
//! letter is delivered again, from the letter, which may be edited and may outlive the log.

use std::collections::BTreeMap;

use fanfare_core::Result;
use fanfare_core::event::Event;
use rusqlite::{Connection, OptionalExtension};

use crate::backend::Inner;
use crate::error;
use crate::names::Names;
use crate::row::{self, integer};
use crate::subscription::Live;

/// Events by position.
pub(crate) type Bodies = BTreeMap<u64, Event>;

/// What is still to be read from disk: positions, with their letter where they have one.
pub(crate) type Missing = Vec<(u64, Option<i64>)>;

/// The events of `positions` that are in memory, and those that are not.
pub(crate) fn in_memory(inner: &Inner, live: &Live, positions: &[u64]) -> (Bodies, Missing) {
    let (mut bodies, mut missing) = (Bodies::new(), Missing::new());
    for position in positions.iter().copied() {
        let letter = live.redriven.get(&position).copied();
        let entry = match letter {
            Some(_) => None,
            None => inner.stream.tail.get(position),
        };
        match entry {
            Some(entry) => {
                bodies.insert(position, entry.event);
            }
            None => missing.push((position, letter)),
        }
    }
    (bodies, missing)
}

/// Reads the missing ones; those that are gone are left out.
pub(crate) async fn from_disk(inner: &Inner, missing: Missing) -> Result<Bodies> {
    if missing.is_empty() {
        return Ok(Bodies::new());
    }
    let stream = std::sync::Arc::clone(&inner.stream);
    let read = move |db: &Connection| {
        let mut bodies = Bodies::new();
        for (position, letter) in missing {
            if let Some(event) = read_one(db, &stream.names, position, letter)? {
                bodies.insert(position, event);
            }
        }
        Ok(bodies)
    };
    inner.readers.read(read).await
}

fn read_one(
    db: &Connection,
    names: &Names,
    position: u64,
    letter: Option<i64>,
) -> Result<Option<Event>> {
    let sql = match letter {
        None => "SELECT pos, id, source, type, time, attrs, data FROM log WHERE pos = ?1",
        Some(_) => "SELECT pos, id, source, type, 0, attrs, data FROM dead WHERE letter = ?1",
    };
    let mut statement = db.prepare_cached(sql).map_err(error::sqlite)?;
    statement
        .query_row([letter.unwrap_or(integer(position))], |row| {
            Ok(row::read(row, names))
        })
        .optional()
        .map_err(error::sqlite)?
        .transpose()
        .map(|entry| entry.map(|entry| entry.event))
}
