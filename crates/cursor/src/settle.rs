//! Settling, extending, releasing; dead letters coming back or going.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::delivery::{Settled, Settlement};
use fanfare_core::timestamp::Timestamp;

use crate::changes::NewDead;
use crate::cursor::{Cursor, MemberId};
use crate::exception::{Exception, Standing};
use crate::lease::Lease;

impl Cursor {
    /// Settles one delivery. Late and repeated settlements change nothing.
    pub fn settle(
        &mut self,
        position: u64,
        epoch: u64,
        settlement: Settlement,
        now: Timestamp,
    ) -> Settled {
        match self.check(position, epoch) {
            Settled::Done => {}
            refused => return refused,
        }
        self.end_lease(epoch, position);
        match settlement {
            Settlement::Ack => self.finish(position, |tally| tally.acknowledged += 1),
            Settlement::Drop => self.finish(position, |tally| tally.dropped += 1),
            Settlement::Retry { after, error } => self.retry(position, after, error, now),
            Settlement::DeadLetter { reason, error } => self.die(position, reason, error, now),
            Settlement::Release => self.release(position),
        }
        Settled::Done
    }

    /// Makes the leases of these deliveries end at `until`; answers in order.
    pub fn extend(&mut self, receipts: &[(u64, u64)], until: Timestamp) -> Vec<Settled> {
        let answers = receipts
            .iter()
            .map(|(position, epoch)| self.check(*position, *epoch))
            .collect::<Vec<_>>();
        let mut held: Vec<(u64, u64)> = receipts
            .iter()
            .zip(&answers)
            .filter(|(_, answer)| **answer == Settled::Done)
            .map(|((position, epoch), _)| (*epoch, *position))
            .collect();
        held.sort_unstable();
        held.dedup();
        for group in held.chunk_by(|a, b| a.0 == b.0) {
            let positions: Vec<u64> = group.iter().map(|(_, position)| *position).collect();
            if let Some((epoch, _)) = group.first() {
                self.leases.extend(*epoch, &positions, until);
            }
        }
        answers
    }

    /// Releases everything that a member holds, as not started.
    pub fn release_member(&mut self, member: MemberId) {
        let held: Vec<(u64, u64)> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.member == member)
            .flat_map(|(epoch, lease)| {
                lease
                    .remaining()
                    .map(move |position| (epoch, position))
                    .collect::<Vec<_>>()
            })
            .collect();
        for (epoch, position) in held {
            self.end_lease(epoch, position);
            self.release(position);
        }
        self.members.remove(&member);
    }

    /// Takes out a delivery below the frontier that is no longer ours, wherever it stands. It counts
    /// nowhere.
    pub fn forget(&mut self, position: u64) {
        let holds = |lease: &Lease| lease.holds(position) == Some(true);
        let lease = self.leases.iter().find(|(_, lease)| holds(lease));
        if let Some(epoch) = lease.map(|(epoch, _)| epoch) {
            self.end_lease(epoch, position);
        }
        let exception = self.exceptions.remove(position);
        if let Some(key) = exception.and_then(|exception| exception.key) {
            self.let_next(&key, position);
        }
    }

    /// Puts a dead letter back as a fresh delivery. `generation` is the one it died in; the caller
    /// removes the letter.
    pub fn redrive(&mut self, position: u64, generation: u64, key: Option<&str>) {
        let parked = self.lanes.unpark(position);
        let current = generation == self.place.generation;
        if current && self.ledger.has_dead(position) && self.standing(position).is_some() {
            // A letter of the same event from before a seek was redriven: one delivery serves both.
            self.ledger.change(position, |tally| {
                tally.dead -= 1;
                tally.extra = tally.extra.saturating_sub(1);
            });
            return;
        }
        if current && self.ledger.has_dead(position) {
            self.ledger.change(position, |tally| tally.dead -= 1);
        } else if current {
            // Its block was closed: it is one delivery more of an event that is gone.
            self.place.closed.dead = self.place.closed.dead.saturating_sub(1);
            self.place_dirty = true;
            self.ledger.change(position, |tally| tally.extra += 1);
        } else {
            if position > self.place.frontier || self.standing(position).is_some() {
                // Since the seek it is on its way again anyway.
                return;
            }
            self.ledger.change(position, |tally| tally.extra += 1);
        }
        match parked {
            // It is still the head of its lane.
            Some(key) => self
                .exceptions
                .put(position, Exception::new(Standing::Ready, Some(key))),
            None => {
                self.enter(position, key.map(Arc::from), Standing::Ready);
            }
        }
    }

    /// A dead letter was discarded; its key goes on.
    pub fn discard(&mut self, position: u64, generation: u64) {
        let current = generation == self.place.generation;
        if current && self.ledger.has_dead(position) {
            self.ledger.change(position, |tally| {
                tally.dead -= 1;
                tally.dropped += 1;
            });
        } else if current {
            let closed = &mut self.place.closed;
            closed.dead = closed.dead.saturating_sub(1);
            closed.dropped += 1;
            self.place_dirty = true;
        }
        if let Some(key) = self.lanes.unpark(position) {
            self.let_next(&key, position);
        }
    }

    /// Gives up a delivery that is out of attempts.
    pub(crate) fn exhausted(&mut self, position: u64, error: String, now: Timestamp) {
        if self.options.dead_letter {
            self.die(position, "max_attempts".to_owned(), error, now);
        } else {
            self.finish(position, |tally| tally.dropped += 1);
        }
    }

    /// Whether this receipt holds the delivery: `Done` when it does.
    fn check(&self, position: u64, epoch: u64) -> Settled {
        match self.leases.get(epoch).map(|lease| lease.holds(position)) {
            Some(Some(true)) => return Settled::Done,
            Some(None) => return Settled::Unknown,
            Some(Some(false)) | None => {}
        }
        if position > self.place.frontier {
            // Never leased, or leased before a seek that went back.
            return if self.place.generation > 0 {
                Settled::Late
            } else {
                Settled::Unknown
            };
        }
        if self.exceptions.get(position).is_some() || self.leases.holds(position) {
            Settled::Late
        } else if position <= self.place.base {
            if self.place.generation > 0 {
                Settled::Late
            } else {
                Settled::Unknown
            }
        } else {
            Settled::Already
        }
    }

    fn finish(&mut self, position: u64, count: impl Fn(&mut crate::ledger::Tally)) {
        self.ledger.change(position, count);
        if let Some(key) = self
            .exceptions
            .remove(position)
            .and_then(|exception| exception.key)
        {
            self.let_next(&key, position);
        }
    }

    fn let_next(&mut self, key: &Arc<str>, position: u64) {
        if let Some(next) = self.lanes.leave(key, position) {
            self.exceptions.stand(next, Standing::Ready);
        }
    }

    fn retry(&mut self, position: u64, after: Duration, error: String, now: Timestamp) {
        let mut exception = self.story(position);
        if !std::mem::take(&mut exception.charged) {
            exception.attempts += 1;
        }
        exception.first_failure.get_or_insert(now);
        exception.error = error;
        exception.standing = Standing::Waiting(now + after);
        self.exceptions.put(position, exception);
    }

    fn release(&mut self, position: u64) {
        let mut exception = self.story(position);
        if std::mem::take(&mut exception.charged) {
            exception.attempts -= 1;
        }
        exception.standing = Standing::Ready;
        self.exceptions.put(position, exception);
    }

    fn die(&mut self, position: u64, reason: String, error: String, now: Timestamp) {
        let leased = matches!(
            self.exceptions.get(position).map(|e| e.standing),
            Some(Standing::Leased(_)) | None
        );
        let story = self
            .exceptions
            .remove(position)
            .unwrap_or_else(|| Exception::new(Standing::Ready, None));
        let attempts = if leased && !story.charged {
            story.attempts + 1
        } else {
            story.attempts
        };
        let parks = story.key.clone().filter(|_| self.options.park);
        self.ledger.change(position, |tally| tally.dead += 1);
        self.dead.push(NewDead {
            position,
            generation: self.place.generation,
            reason,
            error,
            attempts,
            first_failure: story.first_failure.unwrap_or(now),
            last_failure: now,
            parks: parks.clone(),
        });
        match (parks, story.key) {
            (Some(key), _) => self.lanes.park(&key, position),
            (None, Some(key)) => self.let_next(&key, position),
            (None, None) => {}
        }
    }

    fn story(&self, position: u64) -> Exception {
        self.exceptions
            .get(position)
            .cloned()
            .unwrap_or_else(|| Exception::new(Standing::Ready, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use fanfare_core::consumer::MemberKind;

    #[test]
    fn letters_whose_block_was_closed_stay_accounted_for() {
        let options = Options {
            ordered: false,
            park: false,
            lease: Duration::from_secs(30),
            max_attempts: 3,
            dead_letter: true,
            max_blocked: 10,
        };
        let now = Timestamp::EPOCH;
        let mut cursor = Cursor::new(options, 0, 0);
        let plan = cursor.plan(MemberId(1), MemberKind::Embedded, 2, now);
        let granted = cursor.grant(&plan, [(1, None), (2, None)], 2, now);
        for position in [1, 2] {
            let (reason, error) = ("rejected".to_owned(), String::new());
            let dead = Settlement::DeadLetter { reason, error };
            cursor.settle(position, granted.epoch, dead, now);
        }
        cursor.close_below(1);
        assert_eq!(cursor.place().closed.dead, 2);
        cursor.discard(1, 0);
        cursor.redrive(2, 0, None);
        let closed = cursor.place().closed;
        assert_eq!((closed.dead, closed.dropped), (0, 1));
        let plan = cursor.plan(MemberId(1), MemberKind::Embedded, 1, now);
        let again = cursor.grant(&plan, [], 2, now);
        assert_eq!(again.deliveries, [(2, 1)]);
        cursor.settle(2, again.epoch, Settlement::Ack, now);
        let open = cursor.tally();
        assert_eq!((open.extra, open.acknowledged), (1, 1));
    }
}
