//! One subscription's events where nothing else keeps them, as in the modes that deliver at most once:
//! what came and is not settled, the cursor over it, and the dead letters that somebody has to take.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use fanfare_core::admin::{Counts, SubscriptionInfo};
use fanfare_core::consumer::MemberKind;
use fanfare_core::dead_letter::{DeadBody, DeadLetter, fingerprint};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Error;
use fanfare_core::event::Event;
use fanfare_core::id::EventId;
use fanfare_core::position::Position;
use fanfare_core::subscription::{OnDead, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;

use crate::{Cursor, Granted, MemberId, Options, block_of};

/// The most events that may stand behind their keys.
const MAX_BLOCKED: usize = 10_000;

/// The most unsettled events of a queue, dead letters that nobody took yet included.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many.
    pub events: usize,
    /// Their bytes; one event may exceed it.
    pub bytes: usize,
}

/// The events of one subscription.
#[derive(Debug)]
pub struct Queue {
    /// What the subscription is; its patterns may be changed here.
    pub spec: SubscriptionSpec,
    /// Nothing is handed out.
    pub paused: bool,
    created: Timestamp,
    bounds: Bounds,
    cursor: Cursor,
    /// What is not settled, with the time of its coming, by the number in which it came.
    events: BTreeMap<u64, (Event, Timestamp)>,
    bytes: usize,
    head: u64,
    /// By the id of its letter, the number and the cursor's generation of what is dead.
    dead: HashMap<String, Option<(u64, u64)>>,
    /// Dead, and not yet taken.
    unwritten: Vec<DeadLetter>,
    undecodable: u64,
    discarded_undecodable: u64,
    /// Counters of blocks of numbers below are summed up.
    closed_below: u64,
    last_member: u64,
}

/// What one look found.
#[derive(Debug)]
pub enum Look {
    /// These are the member's now.
    Deliveries(Vec<Delivery>),
    /// Nothing until woken, or until then.
    Nothing(Option<Timestamp>),
}

impl Queue {
    /// An empty one.
    pub fn new(spec: SubscriptionSpec, created: Timestamp, bounds: Bounds) -> Self {
        Self {
            cursor: Cursor::new(cursor_options(&spec), 0, 0),
            spec,
            paused: false,
            created,
            bounds,
            events: BTreeMap::new(),
            bytes: 0,
            head: 0,
            dead: HashMap::new(),
            unwritten: Vec::new(),
            undecodable: 0,
            discarded_undecodable: 0,
            closed_below: 0,
            last_member: 0,
        }
    }

    /// One more member.
    pub fn join(&mut self) -> MemberId {
        self.last_member += 1;
        MemberId(self.last_member)
    }

    /// Goes on with other options.
    pub fn change(&mut self, spec: SubscriptionSpec) {
        self.cursor.set_options(cursor_options(&spec));
        self.spec = spec;
    }

    /// Whether it is within its bounds. Dead letters that nobody took count too: they are as large.
    pub fn has_room(&self) -> bool {
        self.events.len() + self.unwritten.len() < self.bounds.events
            && self.bytes < self.bounds.bytes
    }

    /// Takes input that is no event, because of this error.
    pub fn push_undecodable(&mut self, bytes: Bytes, why: &Error, now: Timestamp) {
        self.undecodable += 1;
        if !self.spec.dead_letter {
            self.discarded_undecodable += 1;
            return;
        }
        let (reason, error) = ("undecodable", why.to_string());
        let letter = DeadLetter {
            id: letter_id(),
            subscription: self.spec.name.clone(),
            position: Position::START,
            body: DeadBody::Raw(bytes),
            original: None,
            fingerprint: fingerprint(reason, &error),
            reason: reason.into(),
            error,
            attempts: 0,
            first_failure: now,
            last_failure: now,
        };
        self.dead.insert(letter.id.clone(), None);
        self.unwritten.push(letter);
    }

    /// Takes an event that came.
    pub fn push(&mut self, event: Event, now: Timestamp) {
        self.head += 1;
        self.bytes += event.size();
        self.events.insert(self.head, (event, now));
    }

    /// Leases to a member what it may have.
    pub fn look(&mut self, member: MemberId, kind: MemberKind, max: usize, now: Timestamp) -> Look {
        if self.paused {
            self.cursor.expire(now);
            self.bury();
            return Look::Nothing(self.cursor.next_change());
        }
        let plan = self.cursor.plan(member, kind, max, now);
        let granted = if plan.suspect.is_some() {
            self.cursor.grant_suspect(&plan, now).unwrap_or_default()
        } else {
            let fresh = self.events.range(plan.after + 1..).take(plan.fresh);
            let fresh: Vec<_> = fresh.map(|(at, (event, _))| (*at, event.key())).collect();
            let scanned = fresh.last().map_or(plan.after, |(at, _)| *at);
            self.cursor.grant(&plan, fresh, scanned, now)
        };
        self.bury();
        let deliveries = self.deliveries(&granted);
        if deliveries.is_empty() {
            return Look::Nothing(self.cursor.next_change());
        }
        Look::Deliveries(deliveries)
    }

    fn deliveries(&self, granted: &Granted) -> Vec<Delivery> {
        let delivery = |(number, attempt): &(u64, u32)| {
            let position = Position::from(*number);
            Some(Delivery {
                event: self.events.get(number)?.0.clone(),
                position,
                attempt: *attempt,
                receipt: Receipt {
                    position,
                    epoch: granted.epoch,
                },
                lease_until: granted.until,
            })
        };
        granted.deliveries.iter().filter_map(delivery).collect()
    }

    /// Settles; answers per receipt.
    pub fn settle(
        &mut self,
        settlements: Vec<(Receipt, Settlement)>,
        now: Timestamp,
    ) -> Vec<Settled> {
        // A lease that ended is over, even if nobody has claimed since.
        self.cursor.expire(now);
        let mut answers = Vec::with_capacity(settlements.len());
        let mut settled = Vec::with_capacity(settlements.len());
        for (receipt, settlement) in settlements {
            let number = receipt.position.low();
            settled.push(number);
            answers.push(self.cursor.settle(number, receipt.epoch, settlement, now));
        }
        self.bury();
        for number in settled {
            self.forget_settled(number);
        }
        answers
    }

    /// Extends leases; answers per receipt.
    pub fn extend(
        &mut self,
        receipts: &[Receipt],
        until: Timestamp,
        now: Timestamp,
    ) -> Vec<Settled> {
        self.cursor.expire(now);
        let receipts: Vec<_> = receipts
            .iter()
            .map(|receipt| (receipt.position.low(), receipt.epoch))
            .collect();
        let answers = self.cursor.extend(&receipts, until);
        self.bury();
        answers
    }

    /// What this member holds is claimable again.
    pub fn release(&mut self, member: MemberId) {
        self.cursor.release_member(member);
    }

    /// Makes dead letters of what the cursor gave up, and forgets what it dropped.
    fn bury(&mut self) {
        // The rows that a backend with a disk would write are of no use here.
        let changes = self.cursor.take_changes();
        for dead in changes.dead {
            let Some(event) = self.remove(dead.position) else {
                continue;
            };
            let letter = DeadLetter {
                id: letter_id(),
                subscription: self.spec.name.clone(),
                position: Position::START,
                body: DeadBody::Event(event),
                original: None,
                fingerprint: fingerprint(&dead.reason, &dead.error),
                reason: dead.reason,
                error: dead.error,
                attempts: dead.attempts,
                first_failure: dead.first_failure,
                last_failure: dead.last_failure,
            };
            let at = (dead.position, dead.generation);
            self.dead.insert(letter.id.clone(), Some(at));
            self.unwritten.push(letter);
        }
        for (number, exception) in changes.exceptions {
            if exception.is_none() {
                self.forget_settled(number);
            }
        }
        let block = block_of(self.cursor.lowest_unsettled());
        if block > self.closed_below {
            self.closed_below = block;
            self.cursor.close_below(block);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Event> {
        let (event, _) = self.events.remove(&number)?;
        self.bytes -= event.size();
        Some(event)
    }

    /// Drops an event that is settled now.
    fn forget_settled(&mut self, number: u64) {
        if number <= self.cursor.frontier() && self.cursor.standing(number).is_none() {
            self.remove(number);
        }
    }

    /// The dead letters that are to be taken.
    pub fn unwritten(&self) -> &[DeadLetter] {
        &self.unwritten
    }

    /// The first of them are taken.
    pub fn forget_written(&mut self, count: usize) {
        self.unwritten.drain(..count.min(self.unwritten.len()));
    }

    /// A dead letter that is nowhere else any more comes as a fresh delivery, whoever gave it up.
    pub fn redrive(&mut self, id: &str, event: Event, now: Timestamp) {
        match self.dead.remove(id) {
            Some(Some((number, generation))) => {
                self.cursor.redrive(number, generation, event.key());
                self.bytes += event.size();
                self.events.insert(number, (event, now));
            }
            _ => self.push(event, now),
        }
    }

    /// A dead letter of ours is gone for good.
    pub fn discard(&mut self, id: &str) {
        match self.dead.remove(id) {
            Some(Some((number, generation))) => self.cursor.discard(number, generation),
            Some(None) => self.discarded_undecodable += 1,
            None => {}
        }
    }

    /// Where everything is.
    pub fn counts(&self) -> Counts {
        let (tally, closed) = (self.cursor.tally(), self.cursor.place().closed);
        let unclaimed = self.head - self.cursor.frontier();
        Counts {
            published: self.head + self.undecodable,
            acknowledged: tally.acknowledged + closed.acknowledged,
            dropped: tally.dropped + closed.dropped + self.discarded_undecodable,
            dead: self.dead.len() as u64,
            in_flight: self.cursor.in_flight(),
            waiting: self.cursor.waiting() + unclaimed,
        }
    }

    /// What is told of the subscription.
    pub fn info(&self) -> SubscriptionInfo {
        SubscriptionInfo {
            spec: self.spec.clone(),
            created: self.created,
            paused: self.paused,
            counts: self.counts(),
            frontier: self.cursor.frontier().into(),
            oldest_unsettled: self.events.values().next().map(|(_, came)| *came),
        }
    }

    /// How many unsettled events it holds, and their bytes.
    pub fn held(&self) -> (usize, usize) {
        (self.events.len(), self.bytes)
    }
}

fn letter_id() -> String {
    EventId::generate().to_string()
}

fn cursor_options(spec: &SubscriptionSpec) -> Options {
    Options {
        ordered: spec.ordered,
        park: spec.on_dead == OnDead::Park,
        lease: spec.lease,
        max_attempts: spec.retry.max_attempts,
        dead_letter: spec.dead_letter,
        max_blocked: MAX_BLOCKED,
    }
}
