//! What this process holds of one subscription, and who of its members runs what until when. The
//! order of arrival is the log of a cursor; nothing here talks to the broker.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fanfare_core::consumer::MemberKind;
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionSpec;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::{Cursor, Granted, MemberId, Plan, Standing};
use hashbrown::{HashMap, HashSet};

use crate::subscription;

mod item;
mod line;
mod order;

pub(crate) use item::{Arrived, Ending, Exhausted, Item, Leaving};

/// How many settled positions are remembered, to tell a repeated settlement from a made-up one.
const REMEMBERED: usize = 100_000;
/// The lease of what is being settled, which goes on until the broker has answered or not.
const SETTLING: Duration = Duration::from_hours(1);
/// The desk itself, where it moves something from one standing to another.
const NOBODY: MemberId = MemberId(0);

#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) spec: SubscriptionSpec,
    pub(crate) paused: bool,
    /// Deleted: nobody gets anything any more.
    pub(crate) gone: bool,
    pub(crate) acknowledged: u64,
    pub(crate) dropped: u64,
    /// Messages that ever came.
    pub(crate) arrived: u64,
    cursor: Cursor,
    items: BTreeMap<u64, Item>,
    /// Came back from somebody who is gone, whose lease may still last: with the time it ends. Then
    /// they go to the queue of those that run alone.
    resting: VecDeque<(Timestamp, Item)>,
    places: HashMap<Position, u64>,
    /// Those of the remembered that were acknowledged or dropped.
    done: HashSet<Position>,
    remembered: VecDeque<Position>,
    /// Was held here when the line broke, and run by nobody.
    unbegun: HashSet<Position>,
    last: u64,
    line: u64,
    order: order::Order,
}

impl Desk {
    pub(crate) fn new(spec: SubscriptionSpec, epoch: u64) -> Self {
        Self {
            cursor: Cursor::new(subscription::options(&spec), 0, epoch),
            spec,
            paused: false,
            gone: false,
            acknowledged: 0,
            dropped: 0,
            arrived: 0,
            items: BTreeMap::new(),
            resting: VecDeque::new(),
            places: HashMap::new(),
            done: HashSet::new(),
            remembered: VecDeque::new(),
            unbegun: HashSet::new(),
            last: 0,
            line: 0,
            order: order::Order::default(),
        }
    }

    pub(crate) fn set_spec(&mut self, spec: SubscriptionSpec) {
        self.cursor.set_options(subscription::options(&spec));
        self.spec = spec;
    }

    /// A message came. One that was given back by the broker, and not to us, was running elsewhere
    /// for all we know: it rests as long as its lease may last. If it ran alone, whoever ran it died
    /// of it.
    pub(crate) fn arrive(&mut self, mut item: Item, again: bool, now: Timestamp) -> Arrived {
        item.line = self.line;
        if self.is_ordered() && !self.order.is_ours() {
            self.order.put_aside(item, again);
            Arrived::Taken
        } else {
            self.come(item, again, now)
        }
    }

    fn come(&mut self, mut item: Item, again: bool, now: Timestamp) -> Arrived {
        if self.is_copy(item.note.position) {
            return Arrived::Copy;
        }
        let unbegun = self.unbegun.remove(&item.note.position);
        let known = self.places.get(&item.note.position).copied();
        if let Some(held) = known.and_then(|place| self.items.get_mut(&place))
            && held.line != self.line
        {
            held.line = item.line;
            held.tag = item.tag;
            held.alone = item.alone;
        } else if self.is_ordered() {
            self.come_in_order(item, again, now);
        } else if item.passes {
            self.resting.push_front((now, item));
        } else if again && !unbegun {
            if item.alone {
                item.note.attempts += 1;
                item.note.first_failure.get_or_insert(now);
            }
            self.resting.push_back((now + self.spec.lease, item));
        } else {
            let alone = item.alone;
            self.enter(item, alone, now);
        }
        Arrived::Taken
    }

    /// Of an ordered subscription nothing is moved. What comes during a settlement may be its retry.
    fn is_copy(&self, position: Position) -> bool {
        let place = self.places.get(&position);
        let held = place.and_then(|place| self.items.get(place));
        let held = held.is_some_and(|held| held.line == self.line && !held.settling);
        !self.is_ordered() && (held || self.done.contains(&position))
    }

    /// The next place in the order of arrival; `alone` if it is to run alone.
    fn enter(&mut self, item: Item, alone: bool, now: Timestamp) -> u64 {
        if alone {
            // The cursor's frontier passes over what was not claimed: claim and release that first.
            self.claim_all(now);
        }
        self.last += 1;
        let place = self.last;
        self.remember(item.note.position, place);
        if alone {
            let key = item.event.key().map(Into::into);
            self.cursor.suspect(place, place, [(place, key)]);
        }
        self.items.insert(place, item);
        place
    }

    /// Those whose rest is over.
    pub(crate) fn rested(&mut self, now: Timestamp) -> Vec<Item> {
        let over = self.resting.iter().take_while(|(until, _)| *until <= now);
        let over = over.count();
        self.resting.drain(..over).map(|(_, item)| item).collect()
    }

    /// When the next rest is over.
    pub(crate) fn next_rest(&self) -> Option<Timestamp> {
        self.resting.front().map(|(until, _)| *until)
    }

    /// How many are held that came from the queue of those that run alone.
    pub(crate) fn alone(&self) -> usize {
        self.items.values().filter(|item| item.alone).count()
    }

    fn remember(&mut self, position: Position, place: u64) {
        self.places.insert(position, place);
        self.remembered.push_back(position);
        if self.remembered.len() > REMEMBERED
            && let Some(oldest) = self.remembered.pop_front()
        {
            let settled = self
                .places
                .get(&oldest)
                .is_some_and(|p| !self.items.contains_key(p));
            if settled {
                self.places.remove(&oldest);
                self.done.remove(&oldest);
            }
        }
    }

    fn claim_all(&mut self, now: Timestamp) {
        let granted = self.claim(now);
        for (place, _) in granted.deliveries {
            let _ = self
                .cursor
                .settle(place, granted.epoch, Settlement::Release, now);
        }
    }

    /// Everything that nobody claimed yet.
    fn claim(&mut self, now: Timestamp) -> Granted {
        let after = self.cursor.frontier();
        let plan = Plan {
            member: NOBODY,
            kind: MemberKind::External,
            suspect: None,
            due: Vec::new(),
            fresh: usize::MAX,
            after,
        };
        let fresh = self.items.range(after + 1..);
        let fresh: Vec<_> = fresh
            .map(|(place, item)| (*place, item.event.key()))
            .collect();
        let scanned = fresh.last().map_or(after, |(place, _)| *place);
        self.cursor.grant(&plan, fresh, scanned, now)
    }

    /// Whether a member could run one alone, and none is at hand.
    pub(crate) fn wants_alone(
        &mut self,
        member: MemberId,
        kind: MemberKind,
        now: Timestamp,
    ) -> bool {
        if self.paused || self.is_busy(member, kind) {
            return false;
        }
        let plan = self.cursor.plan(member, kind, 1, now);
        plan.suspect.is_none() && (plan.fresh > 0 || !plan.due.is_empty())
    }

    /// What its process runs besides would die with what it runs alone.
    fn is_busy(&self, member: MemberId, kind: MemberKind) -> bool {
        kind == MemberKind::Embedded && self.cursor.holds(member) > 0
    }

    /// What a member gets now, and when to look again. While some wait elsewhere that are to run alone,
    /// it first finishes what it has.
    pub(crate) fn look(
        &mut self,
        (member, kind): (MemberId, MemberKind),
        max: usize,
        alone_waits: bool,
        now: Timestamp,
    ) -> (Vec<Delivery>, Option<Timestamp>) {
        if self.paused || (alone_waits && self.is_busy(member, kind)) {
            self.cursor.expire(now);
            return (Vec::new(), self.cursor.next_change());
        }
        if self.stands_by(now) {
            self.cursor.expire(now);
            return (Vec::new(), self.rests_until());
        }
        let mut plan = self.cursor.plan(member, kind, max, now);
        while plan.suspect.is_some_and(|place| self.give_up(place)) {
            plan = self.cursor.plan(member, kind, max, now);
        }
        let line = self.line;
        let ours = |items: &BTreeMap<u64, Item>, place: &u64| {
            items.get(place).is_some_and(|item| item.line == line)
        };
        let granted = match plan.suspect {
            Some(place) if ours(&self.items, &place) && self.is_noted(place) => {
                self.cursor.grant_suspect(&plan, now)
            }
            Some(_) => None,
            None => {
                plan.due.retain(|place| ours(&self.items, place));
                let fresh = self.items.range(plan.after + 1..);
                let fresh = fresh.take_while(|(_, item)| item.line == line);
                let fresh = fresh.map(|(place, item)| (*place, item.event.key()));
                let fresh: Vec<_> = fresh.take(plan.fresh).collect();
                let scanned = fresh.last().map_or(plan.after, |(place, _)| *place);
                Some(self.cursor.grant(&plan, fresh, scanned, now))
            }
        };
        let deliveries = granted.map_or_else(Vec::new, |granted| self.deliveries(&granted));
        (deliveries, self.cursor.next_change())
    }

    fn deliveries(&self, granted: &Granted) -> Vec<Delivery> {
        let delivery = |(place, attempt): &(u64, u32)| {
            let item = self.items.get(place)?;
            Some(Delivery {
                event: item.event.clone(),
                position: item.note.position,
                attempt: attempt + item.note.attempts,
                receipt: Receipt {
                    position: item.note.position,
                    epoch: granted.epoch,
                },
                lease_until: granted.until,
            })
        };
        granted.deliveries.iter().filter_map(delivery).collect()
    }

    /// Who ran out of attempts since the last look.
    pub(crate) fn exhausted(&mut self) -> Vec<Exhausted> {
        let mut found = self.order.take_spent();
        for dead in self.cursor.take_dead() {
            if let Some(mut item) = self.items.remove(&dead.position) {
                let failed = item.note.first_failure.or(Some(dead.first_failure));
                item.note.first_failure = failed;
                found.push(Exhausted {
                    attempts: dead.attempts + item.note.attempts,
                    item,
                    error: Some(dead.error),
                });
            }
        }
        if !self.spec.dead_letter {
            let frontier = self.cursor.frontier();
            let over = self.items.range(..=frontier);
            let over =
                over.filter(|(p, item)| !item.settling && self.cursor.standing(**p).is_none());
            let over: Vec<u64> = over.map(|(place, _)| *place).collect();
            for item in over.iter().filter_map(|place| self.items.remove(place)) {
                self.dropped += 1;
                found.push(Exhausted {
                    attempts: item.note.attempts,
                    item,
                    error: None,
                });
            }
        }
        found
    }

    /// The same of one that is still the broker's.
    pub(crate) fn spent(&mut self, item: &Item) -> Option<Exhausted> {
        if item.note.attempts < self.spec.retry.max_attempts {
            return None;
        }
        self.dropped += u64::from(!self.spec.dead_letter);
        let text = "its process died while handling it";
        Some(Exhausted {
            attempts: item.note.attempts,
            error: self.spec.dead_letter.then(|| text.to_owned()),
            item: item.clone(),
        })
    }

    /// Whether these receipts hold their deliveries now, and if so the deliveries, which nobody else can
    /// settle meanwhile.
    pub(crate) fn begin(
        &mut self,
        receipts: &[Receipt],
        now: Timestamp,
    ) -> Vec<Result<Ending, Settled>> {
        self.cursor.expire(now);
        let known = |receipt: &Receipt| {
            let place = self.places.get(&receipt.position);
            place.map(|place| (*place, receipt.epoch))
        };
        let known: Vec<_> = receipts.iter().map(known).collect();
        let claims: Vec<_> = known.iter().flatten().copied().collect();
        // All in one step: leases are kept by the range.
        let mut held = self.cursor.extend(&claims, now + SETTLING).into_iter();
        let begin = |claim: Option<(u64, u64)>| match claim.zip(claim.and_then(|_| held.next())) {
            Some((claim, Settled::Done)) => self.begin_held(claim),
            Some((_, refused)) => Err(refused),
            None => Err(Settled::Unknown),
        };
        known.into_iter().map(begin).collect()
    }

    fn begin_held(&mut self, (place, epoch): (u64, u64)) -> Result<Ending, Settled> {
        match self.items.get_mut(&place) {
            Some(item) if item.settling => Err(Settled::Already),
            Some(item) => {
                item.settling = true;
                let mut item = item.clone();
                let story = self.cursor.exception(place);
                let failed = story.and_then(|story| story.first_failure);
                item.note.first_failure = item.note.first_failure.or(failed);
                Ok(Ending { place, epoch, item })
            }
            None => Err(Settled::Late),
        }
    }

    /// Counts one that is over for good: it does not come again, whatever copies of it there are.
    pub(crate) fn finish(&mut self, ending: &Ending, with: &Settlement) {
        match with {
            Settlement::Ack => self.acknowledged += 1,
            Settlement::Drop => self.dropped += 1,
            _ => return,
        }
        self.done.insert(ending.item.note.position);
    }

    /// The broker knows, or need not know.
    pub(crate) fn end(&mut self, ending: &Ending, with: Settlement, now: Timestamp) -> Settled {
        let stays = matches!(with, Settlement::Retry { .. } | Settlement::Release);
        if stays {
            if let Some(item) = self.items.get_mut(&ending.place) {
                item.settling = false;
            }
        } else {
            self.items.remove(&ending.place);
        }
        let settled = self.cursor.settle(ending.place, ending.epoch, with, now);
        // What is given up by a handler was buried by the caller.
        let _ = self.cursor.take_dead();
        settled
    }

    /// It did not work: the delivery stays with its member.
    pub(crate) fn take_back(&mut self, ending: &Ending, now: Timestamp) {
        if let Some(item) = self.items.get_mut(&ending.place) {
            item.settling = false;
        }
        let until = now + self.spec.lease;
        self.cursor.extend(&[(ending.place, ending.epoch)], until);
    }

    /// Attempts made, this one included.
    pub(crate) fn attempts(&self, ending: &Ending) -> u32 {
        let story = self.cursor.exception(ending.place);
        let counted = story.map_or(1, |e| e.attempts + u32::from(!e.charged));
        counted + ending.item.note.attempts
    }

    pub(crate) fn is_current(&self, item: &Item) -> bool {
        item.line == self.line
    }

    pub(crate) fn extend(
        &mut self,
        receipts: &[Receipt],
        until: Timestamp,
        now: Timestamp,
    ) -> Vec<Settled> {
        self.cursor.expire(now);
        let one = |receipt: &Receipt| {
            let place = self.places.get(&receipt.position)?;
            let settling = self.items.get(place).is_some_and(|item| item.settling);
            let until = if settling { now + SETTLING } else { until };
            let answers = self.cursor.extend(&[(*place, receipt.epoch)], until);
            answers.first().copied()
        };
        receipts
            .iter()
            .map(one)
            .map(|a| a.unwrap_or(Settled::Unknown))
            .collect()
    }

    pub(crate) fn release(&mut self, member: MemberId) {
        self.cursor.release_member(member);
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.cursor.in_flight()
    }

    /// Held here, and leased to nobody.
    pub(crate) fn waiting(&self) -> u64 {
        let held = (self.items.len() + self.resting.len() + self.order.coming()) as u64;
        held.saturating_sub(self.cursor.in_flight())
    }

    /// Everything that this line brought, in order of arrival and with what is known of it, but what
    /// rests: that goes to whoever comes next as it came to us.
    pub(crate) fn clear(&mut self, now: Timestamp) -> Vec<Leaving> {
        let items = std::mem::take(&mut self.items);
        let line = self.line;
        let held = items.into_iter().filter(|(_, item)| item.line == line);
        held.map(|(place, item)| self.leaving(place, item, now))
            .collect()
    }

    fn leaving(&self, place: u64, mut item: Item, now: Timestamp) -> Leaving {
        let mut alone = item.alone;
        let mut wait = None;
        if let Some(story) = self.cursor.exception(place) {
            // What runs alone is cut off, not dead.
            item.note.attempts += story.attempts.saturating_sub(u32::from(story.charged));
            item.note.first_failure = item.note.first_failure.or(story.first_failure);
            alone |= story.charged || story.standing == Standing::Suspect;
            if let Standing::Waiting(due) = story.standing {
                wait = Some(due.since(now)).filter(|wait| !wait.is_zero());
            }
        }
        Leaving { item, wait, alone }
    }
}

#[cfg(test)]
mod tests;
