//! One row of the log: how an event becomes columns and comes back. Types and sources are numbers, the
//! other attributes one blob, the data their own column.

use bytes::Bytes;
use fanfare_core::event::Event;
use fanfare_core::history::Recorded;
use fanfare_core::id::EventId;
use fanfare_core::timestamp::Timestamp;
use fanfare_core::{Result, record};
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::error;
use crate::names::Names;
use crate::tail::Entry;

/// The columns that [`read`] wants, in its order.
pub(crate) const COLUMNS: &str = "pos, id, source, type, time, attrs, data";

/// An event ready to be inserted.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) event: Event,
    /// The number of its type.
    pub(crate) kind: u32,
    pub(crate) source: u32,
}

impl Row {
    /// Looks the names up, in the publisher's task. The attributes are encoded by the writer: that
    /// is cheaper than to carry a dozen bytes on the heap from one thread to another.
    pub(crate) fn new(event: &Event, names: &Names) -> Result<Self> {
        let (kind, source) = names.numbers(event)?;
        Ok(Self {
            event: event.clone(),
            kind,
            source,
        })
    }
}

/// An id as a column: 16 bytes where it is a canonical UUID, text otherwise.
pub(crate) fn id_column(id: &EventId) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match id {
        EventId::Uuid(uuid) => ValueRef::Blob(uuid.as_bytes()),
        EventId::Text(text) => ValueRef::Text(text.as_bytes()),
    })
}

/// A position as SQLite's integer; positions never reach its sign.
pub(crate) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// An integer of SQLite that is never negative.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Reads an event from [`COLUMNS`].
pub(crate) fn read(row: &rusqlite::Row<'_>, names: &Names) -> Result<Entry> {
    let position = unsigned(row.get(0).map_err(error::sqlite)?);
    let kind: u32 = row.get(3).map_err(error::sqlite)?;
    let source: u32 = row.get(2).map_err(error::sqlite)?;
    let event = decode(row, 1, names, kind, source)
        .map_err(|e| error::corrupt(format!("the event at {position} does not read: {e}")))?;
    Ok(Entry {
        position,
        recorded: row.get(4).map_err(error::sqlite)?,
        kind,
        event,
    })
}

/// An event as history shows it.
pub(crate) fn recorded(entry: Entry) -> Recorded {
    Recorded {
        position: entry.position(),
        recorded: Timestamp::from_micros(entry.recorded),
        event: entry.event,
    }
}

/// The event whose id is in column `id`, attributes and data in the columns 5 and 6.
fn decode(
    row: &rusqlite::Row<'_>,
    id: usize,
    names: &Names,
    kind: u32,
    source: u32,
) -> Result<Event> {
    let id = match row.get_ref(id).map_err(error::sqlite)? {
        ValueRef::Blob(bytes) => EventId::Uuid(
            uuid::Uuid::from_slice(bytes).map_err(|e| error::corrupt(format!("id: {e}")))?,
        ),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|e| error::corrupt(format!("id: {e}")))?;
            EventId::Text(text.into())
        }
        _ => return Err(error::corrupt("id: neither bytes nor text")),
    };
    let attrs = row.get_ref(5).map_err(error::sqlite)?;
    let attrs = attrs
        .as_blob()
        .map_err(|e| error::corrupt(format!("attributes: {e}")))?;
    let data = row.get_ref(6).map_err(error::sqlite)?;
    let data = data
        .as_blob_or_null()
        .map_err(|e| error::corrupt(format!("data: {e}")))?;
    let data = data.map(Bytes::copy_from_slice).unwrap_or_default();
    record::decode(
        id,
        names.source(source)?,
        names.event_type(kind)?,
        attrs,
        data,
    )
}
