//! Appending: many rows in few statements, positions of our own, and who was there already.

use std::sync::LazyLock;

use fanfare_core::backend::Published;
use fanfare_core::position::Position;
use fanfare_core::record;
use rusqlite::{CachedStatement, Connection, OptionalExtension};

use crate::row::{Row, id_column, integer, unsigned};

/// How many rows one statement inserts, the most first.
const SIZES: [usize; 3] = [64, 16, 1];
/// The columns of a row.
const WIDTH: usize = 7;

static INSERTS: LazyLock<[String; 3]> = LazyLock::new(|| SIZES.map(insert));

/// Inserts `rows` from position `next` on, recorded at `time`; answers in order and leaves the next
/// free position in `next`. A duplicate leaves a gap where it would have stood.
pub(crate) fn append(
    tx: &Connection,
    rows: &[&Row],
    next: &mut u64,
    time: i64,
) -> rusqlite::Result<Vec<Published>> {
    let mut published = Vec::with_capacity(rows.len());
    let mut rest = rows;
    for (size, sql) in SIZES.iter().zip(INSERTS.iter()) {
        if rest.len() < *size {
            continue;
        }
        let mut statement = tx.prepare_cached(sql)?;
        while let Some((chunk, after)) = rest.split_at_checked(*size) {
            insert_chunk(tx, &mut statement, chunk, next, time, &mut published)?;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }
    Ok(published)
}

fn insert_chunk(
    tx: &Connection,
    statement: &mut CachedStatement<'_>,
    chunk: &[&Row],
    next: &mut u64,
    time: i64,
    published: &mut Vec<Published>,
) -> rusqlite::Result<()> {
    let mut attrs = Vec::with_capacity(64);
    let first = *next;
    for (row, (position, base)) in chunk.iter().zip((first..).zip((1..).step_by(WIDTH))) {
        statement.raw_bind_parameter(base, integer(position))?;
        statement.raw_bind_parameter(base + 1, id_column(row.event.id()))?;
        statement.raw_bind_parameter(base + 2, row.source)?;
        statement.raw_bind_parameter(base + 3, row.kind)?;
        statement.raw_bind_parameter(base + 4, time)?;
        attrs.clear();
        record::write_attributes(&row.event, &mut attrs);
        statement.raw_bind_parameter(base + 5, attrs.as_slice())?;
        let data = row.event.data().map(|data| &data.bytes()[..]);
        statement.raw_bind_parameter(base + 6, data)?;
    }
    let inserted = statement.raw_execute()?;
    if inserted == chunk.len() {
        published.extend((first..).zip(chunk).map(|(position, _)| Published {
            position: Some(Position::from(position)),
            duplicate: false,
        }));
        *next = first + chunk.len() as u64;
        return Ok(());
    }
    for (row, position) in chunk.iter().zip(first..) {
        let stands = find(tx, row)?.unwrap_or(position);
        let duplicate = stands != position;
        if !duplicate {
            *next = position + 1;
        }
        published.push(Published {
            position: Some(Position::from(stands)),
            duplicate,
        });
    }
    Ok(())
}

/// Where the event stands already.
fn find(tx: &Connection, row: &Row) -> rusqlite::Result<Option<u64>> {
    tx.prepare_cached("SELECT pos FROM log WHERE id = ?1 AND source = ?2")?
        .query_row((id_column(row.event.id()), row.source), |row| row.get(0))
        .optional()
        .map(|found| found.map(unsigned))
}

fn insert(rows: usize) -> String {
    let row = "(?,?,?,?,?,?,?)";
    let values = vec![row; rows].join(",");
    format!(
        "INSERT INTO log (pos, id, source, type, time, attrs, data) VALUES {values} \
         ON CONFLICT (id, source) DO NOTHING"
    )
}
