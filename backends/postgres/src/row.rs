//! A row of the log: how an event becomes columns and comes back.

use std::borrow::Cow;

use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::id::EventId;
use fanfare_core::record;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::Slot;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use crate::names::Tables;

/// The columns that [`read`] wants, in its order, for a statement.
macro_rules! columns {
    () => {
        "pos, recorded, source, type, id, attrs, data"
    };
}
pub(crate) use columns;

/// From 1970 to the year that the server's times are counted from.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// One row of the log.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) position: i64,
    pub(crate) recorded: Timestamp,
    pub(crate) slot: Slot,
    /// About its bytes.
    pub(crate) size: usize,
}

/// An id as the log keeps it, see `ff.id_bytes`.
pub(crate) fn id_bytes(id: &EventId) -> Cow<'_, [u8]> {
    match id {
        EventId::Uuid(uuid) => Cow::Borrowed(uuid.as_bytes()),
        EventId::Text(text) if text.len() == 15 => [b"\0\0", text.as_bytes()].concat().into(),
        EventId::Text(text) => [b"\0", text.as_bytes()].concat().into(),
    }
}

/// What [`id_bytes`] wrote.
pub(crate) fn read_id(bytes: &[u8]) -> Option<EventId> {
    if let Ok(uuid) = Uuid::from_slice(bytes) {
        return Some(EventId::Uuid(uuid));
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let text = bytes.get(zeros..).filter(|_| zeros > 0)?;
    EventId::parse(std::str::from_utf8(text).ok()?).ok()
}

/// A row with the columns of [`columns`]. What is no event keeps its data.
pub(crate) fn read(row: &tokio_postgres::Row, names: &Tables) -> Result<Row> {
    let (attributes, data): (&[u8], &[u8]) = (get(row, 5)?, get(row, 6)?);
    let id: &[u8] = get(row, 4)?;
    let event = || {
        let source = names.source(get(row, 2).ok()?)?;
        let event_type = names.event_type(get(row, 3).ok()?)?;
        let data = Bytes::copy_from_slice(data);
        record::decode(read_id(id)?, source, event_type, attributes, data).ok()
    };
    Ok(Row {
        position: get(row, 0)?,
        recorded: get::<Micros>(row, 1)?.into(),
        slot: event().map_or_else(|| Slot::Raw(Bytes::copy_from_slice(data)), Slot::Event),
        size: id.len() + attributes.len() + data.len() + 64,
    })
}

/// A column, where the answer has the shape that was asked for.
pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a tokio_postgres::Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "unexpected answer of postgres").because(error)
    })
}

/// A `timestamptz`; `infinity` is the last time there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Micros(i64);

impl From<Micros> for Timestamp {
    fn from(micros: Micros) -> Self {
        Self::from_micros(micros.0)
    }
}

impl<'a> FromSql<'a> for Micros {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let since_2000 = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(since_2000.saturating_add(EPOCH_MICROS)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_comes_back() {
        let ids = [
            "1",
            "0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a",
            "fifteen letters",
            "sixteen letters!",
        ];
        for text in ids {
            let id = EventId::parse(text).unwrap();
            assert_eq!(read_id(&id_bytes(&id)), Some(id));
        }
        assert_eq!(read_id(b""), None);
        assert_eq!(read_id(b"no zero"), None);
    }
}
