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
pub(crate) struct Names(RwLock<Tables>);

#[derive(Debug, Default)]
struct Tables {
    sources: HashMap<i32, Arc<str>>,
    types: HashMap<i32, EventType>,
}

impl Names {
    pub(crate) fn source(&self, number: i32) -> Option<Arc<str>> {
        self.0.read().sources.get(&number).cloned()
    }

    pub(crate) fn event_type(&self, number: i32) -> Option<EventType> {
        self.0.read().types.get(&number).cloned()
    }

    /// Makes every name in these rows known that there is.
    pub(crate) async fn learn(
        &self,
        database: &Database,
        rows: &[tokio_postgres::Row],
    ) -> Result<()> {
        let (mut sources, mut types) = (Vec::new(), Vec::new());
        {
            let tables = self.0.read();
            for row in rows {
                let (source, kind): (i32, i32) = (get(row, 2)?, get(row, 3)?);
                if !tables.sources.contains_key(&source) && !sources.contains(&source) {
                    sources.push(source);
                }
                if !tables.types.contains_key(&kind) && !types.contains(&kind) {
                    types.push(kind);
                }
            }
        }
        if !sources.is_empty() {
            let text = "SELECT number, name FROM ff.source WHERE number = ANY($1)";
            for row in database.read(text, &[&sources]).await? {
                let name: String = get(&row, 1)?;
                self.0.write().sources.insert(get(&row, 0)?, name.into());
            }
        }
        if !types.is_empty() {
            let text = "SELECT number, name FROM ff.type WHERE number = ANY($1)";
            for row in database.read(text, &[&types]).await? {
                if let Ok(name) = EventType::parse(get(&row, 1)?) {
                    self.0.write().types.insert(get(&row, 0)?, name);
                }
            }
        }
        Ok(())
    }

    /// Forgets everything: the server may be another one, or have another past.
    pub(crate) fn forget(&self) {
        *self.0.write() = Tables::default();
    }
}
