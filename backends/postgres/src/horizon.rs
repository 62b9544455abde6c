//! Up to where the log may be read: a pure record of who may still commit below a position.
//!
//! Drawing a position locks the sequence, before the position is known, until the transaction has
//! ended and its rows are visible. So whoever holds that lock may still add rows, and only they.
//!
//! ```text
//! poll k:  M(k)  the sequence's last value      a statement of its own
//!          S(k)  holders of its lock            another, after it
//!          born(v) of v in S(k): what it was, if v was in S(k-1), else M(k-1)
//!          horizon = min(M(k), born of S(k)), for rows of a snapshot taken after S(k)
//! ```
//! A holder that was not there at poll k-1 took its lock after M(k-1) was read, so all its positions
//! lie above it.

use std::collections::BTreeMap;

/// What is remembered between polls of one uninterrupted watch.
#[derive(Debug)]
pub(crate) struct Tracker {
    last_value: i64,
    /// Holders, each with a position below all of its own.
    born: BTreeMap<String, i64>,
}

impl Tracker {
    /// Nothing is known about the past but that the log was read up to `cursor`: whoever holds the
    /// lock now may have any later position.
    pub(crate) fn new(cursor: i64) -> Self {
        Self {
            last_value: cursor,
            born: BTreeMap::new(),
        }
    }

    /// The horizon of this poll; none where the sequence went back, which ends the watch.
    pub(crate) fn poll(&mut self, last_value: i64, holders: Vec<String>) -> Option<i64> {
        if last_value < self.last_value {
            return None;
        }
        let before = std::mem::take(&mut self.born);
        let gone = before
            .iter()
            .filter(|(holder, _)| !holders.contains(holder));
        let oldest_gone = gone.map(|(_, born)| *born).min();
        for holder in holders {
            let born = match before.get(&holder) {
                Some(born) => *born,
                // After a restart a prepared transaction goes on under another name.
                None if holder.starts_with("-1/") => {
                    oldest_gone.map_or(self.last_value, |born| born.min(self.last_value))
                }
                None => self.last_value,
            };
            self.born.insert(holder, born);
        }
        self.last_value = last_value;
        let oldest = self.born.values().copied().min();
        Some(oldest.map_or(last_value, |oldest| oldest.min(last_value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn a_holder_keeps_the_horizon_where_it_was_before_it_came() {
        let mut tracker = Tracker::new(10);
        assert_eq!(tracker.poll(12, holders(&[])), Some(12));
        // Came between the polls, so it drew 13 or later.
        assert_eq!(tracker.poll(15, holders(&["3/1"])), Some(12));
        assert_eq!(tracker.poll(20, holders(&["3/1", "4/1"])), Some(12));
        assert_eq!(tracker.poll(21, holders(&["4/1"])), Some(15));
        assert_eq!(tracker.poll(21, holders(&[])), Some(21));
    }

    #[test]
    fn who_holds_at_the_first_poll_may_have_any_position_after_the_cursor() {
        let mut tracker = Tracker::new(10);
        assert_eq!(tracker.poll(500, holders(&["3/1"])), Some(10));
        assert_eq!(tracker.poll(500, holders(&[])), Some(500));
    }

    #[test]
    fn a_prepared_transaction_under_a_new_name_keeps_its_age() {
        let mut tracker = Tracker::new(10);
        assert_eq!(tracker.poll(12, holders(&["3/1"])), Some(10));
        assert_eq!(tracker.poll(20, holders(&["3/1"])), Some(10));
        assert_eq!(tracker.poll(30, holders(&["-1/700"])), Some(10));
        assert_eq!(tracker.poll(30, holders(&[])), Some(30));
    }

    #[test]
    fn a_sequence_that_went_back_ends_the_watch() {
        let mut tracker = Tracker::new(10);
        assert_eq!(tracker.poll(104, holders(&[])), Some(104));
        assert_eq!(tracker.poll(36, holders(&[])), None);
    }
}
