//! Events of one subscription read from disk ahead of its frontier, while it is behind the tail.

use std::collections::VecDeque;

use fanfare_core::Result;
use fanfare_cursor::Interest;
use hashbrown::HashMap;
use rusqlite::Connection;

use crate::error;
use crate::names::Names;
use crate::row::{self, integer, unsigned};
use crate::tail::Entry;

/// The most events that one read brings.
const EVENTS: usize = 1_024;
/// About the most bytes of events that one read brings.
const BYTES: usize = 1024 * 1024;
/// The most rows that one read looks at.
const ROWS: u64 = 65_536;

/// Every event of the subscription above `after` and up to `scanned`.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    after: u64,
    scanned: u64,
    events: VecDeque<Entry>,
}

impl Ahead {
    /// Reads on from `after`. Everything up to `head` is committed.
    pub(crate) fn read(
        db: &Connection,
        names: &Names,
        interest: &Interest,
        after: u64,
        head: u64,
    ) -> Result<Self> {
        let sql = format!(
            "SELECT {} FROM log WHERE pos > ?1 AND pos <= ?2 ORDER BY pos LIMIT ?3",
            row::COLUMNS
        );
        let mut statement = db.prepare_cached(&sql).map_err(error::sqlite)?;
        let mut rows = statement
            .query((integer(after), integer(head), integer(ROWS)))
            .map_err(error::sqlite)?;
        let mut ahead = Self {
            after,
            scanned: after,
            events: VecDeque::new(),
        };
        let mut wanted = Wanted::new(names, interest);
        let (mut looked_at, mut bytes) = (0, 0);
        while let Some(row) = rows.next().map_err(error::sqlite)? {
            looked_at += 1;
            ahead.scanned = unsigned(row.get(0).map_err(error::sqlite)?);
            let kind = row.get(3).map_err(error::sqlite)?;
            if !wanted.is(ahead.scanned, kind)? {
                continue;
            }
            let entry = row::read(row, names)?;
            bytes += entry.event.size();
            ahead.events.push_back(entry);
            if ahead.events.len() >= EVENTS || bytes >= BYTES {
                return Ok(ahead);
            }
        }
        if looked_at < ROWS {
            ahead.scanned = ahead.scanned.max(head);
        }
        Ok(ahead)
    }

    /// Whether it goes on from the frontier.
    pub(crate) fn goes_on_from(&self, frontier: u64) -> bool {
        self.after == frontier && self.scanned > frontier
    }

    /// The next events, at most `max`, and how far that brings the frontier.
    pub(crate) fn next(&self, max: usize) -> (Vec<Entry>, u64) {
        let events: Vec<Entry> = self.events.iter().take(max).cloned().collect();
        let all = events.len() == self.events.len();
        let scanned = match events.last() {
            Some(last) if !all => last.position,
            _ => self.scanned,
        };
        (events, scanned)
    }

    /// The frontier moved.
    pub(crate) fn advance(&mut self, frontier: u64) {
        while self.events.front().is_some_and(|e| e.position <= frontier) {
            self.events.pop_front();
        }
        self.after = frontier;
        if self.events.is_empty() && self.scanned <= frontier {
            *self = Self::default();
        }
    }
}

/// Remembers which type numbers an interest wants.
struct Wanted<'a> {
    names: &'a Names,
    interest: &'a Interest,
    /// What holds from this position on is remembered.
    since: u64,
    known: HashMap<u32, bool>,
}

impl<'a> Wanted<'a> {
    fn new(names: &'a Names, interest: &'a Interest) -> Self {
        let since = interest.parts().last().map_or(0, |(since, _)| *since);
        Self {
            names,
            interest,
            since,
            known: HashMap::new(),
        }
    }

    fn is(&mut self, position: u64, kind: u32) -> Result<bool> {
        if position >= self.since
            && let Some(known) = self.known.get(&kind)
        {
            return Ok(*known);
        }
        let event_type = self.names.event_type(kind)?;
        let wanted = self.interest.matches(position, &event_type);
        if position >= self.since {
            self.known.insert(kind, wanted);
        }
        Ok(wanted)
    }
}
