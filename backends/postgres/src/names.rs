//! The names behind the numbers of the log, read when they are first met.

use std::collections::HashMap;
use std::sync::Arc;

use fanfare_core::error::Result;
use fanfare_core::event_type::EventType;
use parking_lot::RwLock;

use crate::connect::Database;
use crate::row::get;

/// Both dictionaries, as far as known here.
#[derive(Debug, Default)]
pub(crate) struct Names(RwLock<Arc<Tables>>);

/// What was known at one moment.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tables {
    sources: HashMap<i32, Arc<str>>,
    types: HashMap<i32, EventType>,
}

impl Tables {
    pub(crate) fn source(&self, number: i32) -> Option<Arc<str>> {
        self.sources.get(&number).cloned()
    }

    pub(crate) fn event_type(&self, number: i32) -> Option<EventType> {
        self.types.get(&number).cloned()
    }
}

impl Names {
    /// Every name in these rows that there is. What is forgotten meanwhile is still in the answer: a
    /// row must not seem undecodable because of that.
    pub(crate) async fn of(
        &self,
        database: &Database,
        rows: &[tokio_postgres::Row],
    ) -> Result<Arc<Tables>> {
        let before = self.0.read().clone();
        let (mut sources, mut types) = (Vec::new(), Vec::new());
        for row in rows {
            let (source, kind): (i32, i32) = (get(row, 2)?, get(row, 3)?);
            if !before.sources.contains_key(&source) && !sources.contains(&source) {
                sources.push(source);
            }
            if !before.types.contains_key(&kind) && !types.contains(&kind) {
                types.push(kind);
            }
        }
        if sources.is_empty() && types.is_empty() {
            return Ok(before);
        }
        let mut known = Tables::clone(&before);
        if !sources.is_empty() {
            let text = "SELECT number, name FROM ff.source WHERE number = ANY($1)";
            for row in database.read(text, &[&sources]).await? {
                let name: String = get(&row, 1)?;
                known.sources.insert(get(&row, 0)?, name.into());
            }
        }
        if !types.is_empty() {
            let text = "SELECT number, name FROM ff.type WHERE number = ANY($1)";
            for row in database.read(text, &[&types]).await? {
                if let Ok(name) = EventType::parse(get(&row, 1)?) {
                    known.types.insert(get(&row, 0)?, name);
                }
            }
        }
        let known = Arc::new(known);
        let mut now = self.0.write();
        if Arc::ptr_eq(&now, &before) {
            *now = known.clone();
        }
        Ok(known)
    }

    /// Forgets everything: the server may be another one, or have another past.
    pub(crate) fn forget(&self) {
        *self.0.write() = Arc::default();
    }
}
