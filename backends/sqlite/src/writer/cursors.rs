//! The rows of a subscription's cursor: what a commit writes for it, and how it is read back. Times are
//! microseconds, rounded up where something must not happen too early.

use std::sync::Arc;

use fanfare_core::consumer::MemberKind;
use fanfare_core::dead_letter::fingerprint;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::changes::{LeaseRow, NewDead, Place, Rows};
use fanfare_cursor::{Exception, Standing, Tally};
use rusqlite::Connection;

use crate::row::{integer, unsigned};
use crate::subscription::Taken;

const EMBEDDED: i64 = 0;
const EXTERNAL: i64 = 1;

const LEASED: i64 = 0;
const WAITING: i64 = 1;
const READY: i64 = 2;
const SUSPECT: i64 = 3;
const BLOCKED: i64 = 4;

/// Writes what changed of the subscription with this number.
pub(crate) fn write(tx: &Connection, sub: i64, taken: &Taken) -> rusqlite::Result<()> {
    let changes = &taken.changes;
    if changes.rewrite {
        for table in ["lease", "exception", "block"] {
            tx.execute(&format!("DELETE FROM {table} WHERE sub = ?1"), [sub])?;
        }
    }
    write_place(tx, sub, changes.place)?;
    for (epoch, lease) in &changes.leases {
        write_lease(tx, sub, *epoch, lease.as_ref())?;
    }
    for (position, exception) in &changes.exceptions {
        write_exception(tx, sub, *position, exception.as_ref())?;
    }
    for (block, tally) in &changes.blocks {
        write_block(tx, sub, *block, tally.as_ref())?;
    }
    for (dead, from) in changes.dead.iter().zip(&taken.died_again) {
        write_dead(tx, sub, dead, *from)?;
    }
    let settled = taken.letters_gone.iter();
    for letter in settled.chain(taken.died_again.iter().flatten()) {
        tx.prepare_cached("DELETE FROM dead WHERE letter = ?1")?
            .execute([letter])?;
    }
    Ok(())
}

/// Reads the rows of the subscription with this number.
pub(crate) fn read(db: &Connection, sub: i64) -> rusqlite::Result<Rows> {
    let place = db.query_row(
        "SELECT base, frontier, generation, acknowledged, dropped, dead, extra
         FROM place WHERE sub = ?1",
        [sub],
        read_place,
    )?;
    let leases = collect(
        db,
        "SELECT epoch, kind, until, positions FROM lease WHERE sub = ?1",
        sub,
        read_lease,
    )?;
    let exceptions = collect(
        db,
        "SELECT pos, standing, at, attempts, charged, first_failure, error, key
         FROM exception WHERE sub = ?1",
        sub,
        |row| Ok((unsigned(row.get(0)?), read_exception(row)?)),
    )?;
    let blocks = collect(
        db,
        "SELECT block, acknowledged, dropped, dead, extra FROM block WHERE sub = ?1",
        sub,
        |row| Ok((unsigned(row.get(0)?), read_tally(row, 1)?)),
    )?;
    // A letter whose redrive or discarding is not in the cursor yet still parks its key.
    let parked = collect(
        db,
        "SELECT pos, parks FROM dead AS d WHERE sub = ?1 AND parks IS NOT NULL AND (standing <> 1
         OR NOT EXISTS (SELECT 1 FROM exception AS e WHERE e.sub = d.sub AND e.pos = d.pos))",
        sub,
        |row| Ok((unsigned(row.get(0)?), Arc::from(row.get::<_, String>(1)?))),
    )?;
    Ok(Rows {
        place,
        leases,
        exceptions,
        blocks,
        parked,
    })
}

fn write_place(tx: &Connection, sub: i64, place: Place) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO place (sub, base, frontier, generation, acknowledged, dropped, dead, extra)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (sub) DO UPDATE SET base = ?2, frontier = ?3, generation = ?4,
         acknowledged = ?5, dropped = ?6, dead = ?7, extra = ?8",
    )?
    .execute((
        sub,
        integer(place.base),
        integer(place.frontier),
        integer(place.generation),
        integer(place.closed.acknowledged),
        integer(place.closed.dropped),
        integer(place.closed.dead),
        integer(place.closed.extra),
    ))?;
    Ok(())
}

fn write_lease(
    tx: &Connection,
    sub: i64,
    epoch: u64,
    lease: Option<&LeaseRow>,
) -> rusqlite::Result<()> {
    let Some(lease) = lease else {
        tx.prepare_cached("DELETE FROM lease WHERE sub = ?1 AND epoch = ?2")?
            .execute((sub, integer(epoch)))?;
        return Ok(());
    };
    let kind = match lease.kind {
        MemberKind::Embedded => EMBEDDED,
        MemberKind::External => EXTERNAL,
    };
    tx.prepare_cached(
        "INSERT OR REPLACE INTO lease (sub, epoch, kind, until, positions)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        sub,
        integer(epoch),
        kind,
        micros(lease.until),
        pack(&lease.positions),
    ))?;
    Ok(())
}

fn write_exception(
    tx: &Connection,
    sub: i64,
    position: u64,
    exception: Option<&Exception>,
) -> rusqlite::Result<()> {
    let Some(exception) = exception else {
        tx.prepare_cached("DELETE FROM exception WHERE sub = ?1 AND pos = ?2")?
            .execute((sub, integer(position)))?;
        return Ok(());
    };
    let (standing, at) = match exception.standing {
        Standing::Leased(epoch) => (LEASED, integer(epoch)),
        Standing::Waiting(due) => (WAITING, micros(due)),
        Standing::Ready => (READY, 0),
        Standing::Suspect => (SUSPECT, 0),
        Standing::Blocked => (BLOCKED, 0),
    };
    tx.prepare_cached(
        "INSERT OR REPLACE INTO exception
         (sub, pos, standing, at, attempts, charged, first_failure, error, key)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute((
        sub,
        integer(position),
        standing,
        at,
        exception.attempts,
        exception.charged,
        exception.first_failure.map(Timestamp::as_micros),
        &exception.error,
        exception.key.as_deref(),
    ))?;
    Ok(())
}

fn write_block(
    tx: &Connection,
    sub: i64,
    block: u64,
    tally: Option<&Tally>,
) -> rusqlite::Result<()> {
    let Some(tally) = tally else {
        tx.prepare_cached("DELETE FROM block WHERE sub = ?1 AND block = ?2")?
            .execute((sub, integer(block)))?;
        return Ok(());
    };
    tx.prepare_cached(
        "INSERT INTO block (sub, block, acknowledged, dropped, dead, extra)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (sub, block)
         DO UPDATE SET acknowledged = ?3, dropped = ?4, dead = ?5, extra = ?6",
    )?
    .execute((
        sub,
        integer(block),
        integer(tally.acknowledged),
        integer(tally.dropped),
        integer(tally.dead),
        integer(tally.extra),
    ))?;
    Ok(())
}

/// The letter keeps the whole event, from the log or from the letter that it was redriven from.
fn write_dead(
    tx: &Connection,
    sub: i64,
    dead: &NewDead,
    from: Option<i64>,
) -> rusqlite::Result<()> {
    let event = if from.is_some() {
        "original_kind, original FROM dead WHERE letter = ?11"
    } else {
        "NULL AS original_kind, NULL AS original FROM log WHERE pos = ?11"
    };
    let sql = format!(
        "INSERT INTO dead (sub, pos, standing, generation, reason, error, attempts, first_failure,
         last_failure, fingerprint, parks, id, source, type, attrs, data, original_kind, original)
         SELECT ?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
         id, source, type, attrs, data, {event}"
    );
    let inserted = tx.prepare_cached(&sql)?.execute((
        sub,
        integer(dead.position),
        integer(dead.generation),
        &dead.reason,
        &dead.error,
        dead.attempts,
        dead.first_failure.as_micros(),
        dead.last_failure.as_micros(),
        fingerprint(&dead.reason, &dead.error),
        dead.parks.as_deref(),
        from.unwrap_or(integer(dead.position)),
    ))?;
    if inserted == 1 {
        Ok(())
    } else {
        Err(rusqlite::Error::QueryReturnedNoRows)
    }
}

fn read_place(row: &rusqlite::Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place {
        base: unsigned(row.get(0)?),
        frontier: unsigned(row.get(1)?),
        generation: unsigned(row.get(2)?),
        closed: read_tally(row, 3)?,
    })
}

fn read_lease(row: &rusqlite::Row<'_>) -> rusqlite::Result<LeaseRow> {
    Ok(LeaseRow {
        epoch: unsigned(row.get(0)?),
        kind: match row.get(1)? {
            EXTERNAL => MemberKind::External,
            _ => MemberKind::Embedded,
        },
        until: Timestamp::from_micros(row.get(2)?),
        positions: unpack(row.get_ref(3)?.as_blob()?),
    })
}

fn read_exception(row: &rusqlite::Row<'_>) -> rusqlite::Result<Exception> {
    let at: i64 = row.get(2)?;
    Ok(Exception {
        standing: match row.get(1)? {
            LEASED => Standing::Leased(unsigned(at)),
            WAITING => Standing::Waiting(Timestamp::from_micros(at)),
            SUSPECT => Standing::Suspect,
            BLOCKED => Standing::Blocked,
            _ => Standing::Ready,
        },
        attempts: row.get(3)?,
        charged: row.get(4)?,
        first_failure: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_micros),
        error: row.get(6)?,
        key: row.get::<_, Option<String>>(7)?.map(Arc::from),
    })
}

fn read_tally(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Tally> {
    Ok(Tally {
        acknowledged: unsigned(row.get(first)?),
        dropped: unsigned(row.get(first + 1)?),
        dead: unsigned(row.get(first + 2)?),
        extra: unsigned(row.get(first + 3)?),
    })
}

fn collect<T>(
    db: &Connection,
    sql: &str,
    sub: i64,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare(sql)?.query_map([sub], read)?.collect()
}

fn micros(time: Timestamp) -> i64 {
    let floor = time.as_micros();
    floor.saturating_add(i64::from(Timestamp::from_micros(floor) < time))
}

/// Ascending positions as runs: LEB128 of the gap before each run and of its length.
fn pack(positions: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut number = |mut value: u64| {
        while value >= 0x80 {
            out.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        out.push(value.to_le_bytes()[0]);
    };
    let mut next = 0;
    for run in positions.chunk_by(|a, b| *b == a + 1) {
        if let Some(first) = run.first() {
            number(first - next);
            number(run.len() as u64);
            next = first + run.len() as u64;
        }
    }
    out
}

fn unpack(bytes: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    let (mut value, mut shift) = (0_u64, 0_u32);
    for byte in bytes {
        value |= u64::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
        shift += 7;
        if byte & 0x80 == 0 {
            numbers.push(value);
            (value, shift) = (0, 0);
        }
    }
    let mut positions = Vec::new();
    let mut next = 0;
    for run in numbers.chunks_exact(2) {
        if let [gap, length] = run {
            positions.extend(next + gap..next + gap + length);
            next += gap + length;
        }
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leased_positions_survive_their_column() {
        for positions in [
            vec![],
            vec![1],
            vec![5, 6, 7, 9, 200, 201, 1 << 40],
            (1_000_000..1_001_000).collect(),
        ] {
            assert_eq!(unpack(&pack(&positions)), positions);
        }
        assert!(pack(&(7..100_000).collect::<Vec<_>>()).len() < 8);
    }

    #[test]
    fn a_due_time_is_never_rounded_to_earlier() {
        let due = Timestamp::from_nanos(1_001);
        assert!(Timestamp::from_micros(micros(due)) >= due);
        assert_eq!(micros(Timestamp::from_micros(7)), 7);
    }
}
