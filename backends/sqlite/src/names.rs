//! The dictionaries: event types and sources as small numbers, so that log and index stay small.
//!
//! A number is given when a name is first published and never changes, even if the commit that was to
//! store it fails: then the next one stores it. So every row's numbers are on disk with it or before.

use std::hash::Hash;
use std::sync::Arc;

use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::{Error, ErrorKind, Result};
use hashbrown::HashMap;
use parking_lot::RwLock;
use rusqlite::Connection;

use crate::error;

/// The most types, and the most sources: they stay in memory.
const MAX_NAMES: usize = 1_000_000;

/// Both dictionaries.
#[derive(Debug, Default)]
pub(crate) struct Names(RwLock<Tables>);

#[derive(Debug, Default)]
struct Tables {
    types: Table<EventType>,
    sources: Table<Arc<str>>,
}

/// Names by number, from 1, and numbers by name.
#[derive(Debug)]
struct Table<T> {
    names: Vec<T>,
    numbers: HashMap<T, u32>,
    /// How many of the names are on disk.
    stored: usize,
}

/// How many names of each dictionary a transaction stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    types: usize,
    sources: usize,
}

impl Names {
    /// Reads both dictionaries.
    pub(crate) fn load(db: &Connection) -> Result<Self> {
        let types = load(
            db,
            "SELECT number, name FROM type ORDER BY number",
            |name| EventType::parse(&name),
        )?;
        let sources = load(
            db,
            "SELECT number, name FROM source ORDER BY number",
            |name| Ok(Arc::from(name)),
        )?;
        Ok(Self(RwLock::new(Tables { types, sources })))
    }

    /// The numbers of an event's type and source.
    pub(crate) fn numbers(&self, event: &Event) -> Result<(u32, u32)> {
        let known = {
            let tables = self.0.read();
            (
                tables.types.number(event.event_type()),
                tables.sources.number(event.source()),
            )
        };
        if let (Some(kind), Some(source)) = known {
            return Ok((kind, source));
        }
        let mut tables = self.0.write();
        let kind = tables
            .types
            .number_or_add(event.event_type(), "event types")?;
        let source = tables.sources.number_or_add(event.source(), "sources")?;
        Ok((kind, source))
    }

    /// The number of a source, if it was ever published.
    pub(crate) fn source_number(&self, source: &str) -> Option<u32> {
        self.0.read().sources.number(&Arc::from(source))
    }

    /// The type with this number.
    pub(crate) fn event_type(&self, number: u32) -> Result<EventType> {
        let tables = self.0.read();
        tables
            .types
            .name(number)
            .ok_or_else(|| error::corrupt(format!("event type number {number} is not known")))
    }

    /// The source with this number.
    pub(crate) fn source(&self, number: u32) -> Result<Arc<str>> {
        let tables = self.0.read();
        tables
            .sources
            .name(number)
            .ok_or_else(|| error::corrupt(format!("source number {number} is not known")))
    }

    /// The numbers of all types that `wanted` accepts.
    pub(crate) fn types_where(&self, wanted: impl Fn(&EventType) -> bool) -> Vec<u32> {
        let tables = self.0.read();
        let numbered = tables.types.names.iter().zip(1..);
        numbered
            .filter(|(name, _)| wanted(name))
            .map(|(_, number)| number)
            .collect()
    }

    /// Writes the names that are not on disk yet; tell [`Names::stored`] once that is committed.
    pub(crate) fn store(&self, tx: &Connection) -> rusqlite::Result<Stored> {
        let tables = self.0.read();
        let insert = |sql: &str, number: usize, name: &str| {
            tx.prepare_cached(sql)?
                .execute((i64::try_from(number).unwrap_or(i64::MAX), name))
        };
        for (index, name) in tables.types.unstored() {
            insert(
                "INSERT INTO type (number, name) VALUES (?1, ?2)",
                index,
                name.as_str(),
            )?;
        }
        for (index, name) in tables.sources.unstored() {
            insert(
                "INSERT INTO source (number, name) VALUES (?1, ?2)",
                index,
                name,
            )?;
        }
        Ok(Stored {
            types: tables.types.names.len(),
            sources: tables.sources.names.len(),
        })
    }

    /// The transaction that [`Names::store`] wrote to is committed.
    pub(crate) fn stored(&self, stored: Stored) {
        let unchanged = {
            let tables = self.0.read();
            tables.types.stored == stored.types && tables.sources.stored == stored.sources
        };
        if !unchanged {
            let mut tables = self.0.write();
            tables.types.stored = stored.types;
            tables.sources.stored = stored.sources;
        }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            numbers: HashMap::new(),
            stored: 0,
        }
    }
}

impl<T: Clone + Eq + Hash> Table<T> {
    fn number(&self, name: &T) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    fn name(&self, number: u32) -> Option<T> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.names.get(index).cloned()
    }

    fn number_or_add(&mut self, name: &T, what: &str) -> Result<u32> {
        if let Some(number) = self.number(name) {
            return Ok(number);
        }
        if self.names.len() >= MAX_NAMES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the stream has {MAX_NAMES} different {what}, no more are taken"),
            ));
        }
        self.names.push(name.clone());
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.numbers.insert(name.clone(), number);
        Ok(number)
    }

    /// Numbers and names that are not on disk.
    fn unstored(&self) -> impl Iterator<Item = (usize, &T)> {
        let new = self.names.get(self.stored..).unwrap_or_default();
        (self.stored + 1..).zip(new)
    }
}

fn load<T: Clone + Eq + Hash>(
    db: &Connection,
    sql: &str,
    read: impl Fn(String) -> Result<T>,
) -> Result<Table<T>> {
    let mut statement = db.prepare(sql).map_err(error::sqlite)?;
    let mut rows = statement.query([]).map_err(error::sqlite)?;
    let mut table = Table::default();
    while let Some(row) = rows.next().map_err(error::sqlite)? {
        let number: u32 = row.get(0).map_err(error::sqlite)?;
        let name = read(row.get(1).map_err(error::sqlite)?)
            .map_err(|e| error::corrupt(format!("a stored name does not read: {e}")))?;
        if table.number_or_add(&name, "names")? != number {
            return Err(error::corrupt(format!(
                "the dictionary has a gap before {number}"
            )));
        }
    }
    table.stored = table.names.len();
    Ok(table)
}
