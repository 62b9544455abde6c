//! The cursor: planning and granting claims, moving, counting. Settling is in [`crate::settle`].

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::consumer::MemberKind;
use fanfare_core::timestamp::Timestamp;
use hashbrown::HashMap;

use crate::changes::{NewDead, Place};
use crate::exception::{Exception, Exceptions, Standing};
use crate::lane::Lanes;
use crate::lease::{Lease, Leases};
use crate::ledger::{Ledger, Tally, block_of};

/// A member of the subscription, numbered by the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// What the cursor needs to know of the subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Events of one key one at a time.
    pub ordered: bool,
    /// A key waits behind its dead letter.
    pub park: bool,
    /// How long a lease lasts.
    pub lease: Duration,
    /// Attempts in total.
    pub max_attempts: u32,
    /// Deliveries out of attempts are kept as dead letters; else dropped.
    pub dead_letter: bool,
    /// The most events that may stand behind their keys; beyond that the frontier waits. 10,000 is
    /// a good value: each costs about 200 bytes and, if it stays, a row.
    pub max_blocked: usize,
}

/// What a member may claim now. Nothing is taken yet: the caller first fetches the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who claims.
    pub member: MemberId,
    /// What dies with it.
    pub kind: MemberKind,
    /// This one alone, because it was running when its member died. Its attempt is counted by the
    /// grant, and that must be durable before it is handed out.
    pub suspect: Option<u64>,
    /// Positions below the frontier. The caller takes out those that it cannot deliver.
    pub due: Vec<u64>,
    /// How many matching events above the frontier, at most.
    pub fresh: usize,
    /// The frontier.
    pub after: u64,
}

/// Deliveries leased to a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// The fence.
    pub epoch: u64,
    /// When the lease ends.
    pub until: Timestamp,
    /// Position and attempt number, in the order to deliver.
    pub deliveries: Vec<(u64, u32)>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Holding {
    pub(crate) held: usize,
    /// Holds a suspect: gets nothing else meanwhile.
    pub(crate) isolated: bool,
}

/// One subscription's claim frontier and its exceptions.
#[derive(Debug)]
pub struct Cursor {
    pub(crate) options: Options,
    pub(crate) place: Place,
    pub(crate) place_dirty: bool,
    pub(crate) rewrite: bool,
    pub(crate) epoch: u64,
    pub(crate) leases: Leases,
    pub(crate) exceptions: Exceptions,
    pub(crate) lanes: Lanes,
    pub(crate) ledger: Ledger,
    pub(crate) members: HashMap<MemberId, Holding>,
    pub(crate) dead: Vec<NewDead>,
}

impl Cursor {
    /// A cursor that begins behind `base`; its epochs begin above `epoch`.
    pub fn new(options: Options, base: u64, epoch: u64) -> Self {
        Self {
            options,
            place: Place {
                base,
                frontier: base,
                ..Place::default()
            },
            place_dirty: true,
            rewrite: false,
            epoch,
            leases: Leases::default(),
            exceptions: Exceptions::default(),
            lanes: Lanes::default(),
            ledger: Ledger::default(),
            members: HashMap::new(),
            dead: Vec::new(),
        }
    }

    /// Changes lease, attempts and dead-letter options for grants from now on.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// Everything above is unclaimed.
    pub fn frontier(&self) -> u64 {
        self.place.frontier
    }

    /// Base, frontier, generation, closed blocks.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Takes back what is overdue, then says what `member` may claim at `now`.
    pub fn plan(&mut self, member: MemberId, kind: MemberKind, max: usize, now: Timestamp) -> Plan {
        self.expire(now);
        let holding = self.members.get(&member).copied().unwrap_or_default();
        let mut plan = Plan {
            member,
            kind,
            suspect: None,
            due: Vec::new(),
            fresh: 0,
            after: self.place.frontier,
        };
        if max == 0 || (kind == MemberKind::Embedded && holding.isolated) {
            return plan;
        }
        if let Some(suspect) = self.next_suspect(now) {
            // An embedded member first finishes what it has, so that the suspect runs alone.
            if kind == MemberKind::External || holding.held == 0 {
                plan.suspect = Some(suspect);
            }
            return plan;
        }
        plan.due = self.exceptions.claimable(now, max);
        if self.exceptions.blocked() < self.options.max_blocked {
            plan.fresh = max - plan.due.len();
        }
        plan
    }

    /// Leases the suspect of a plan, its attempt counted; none when it was settled meanwhile.
    pub fn grant_suspect(&mut self, plan: &Plan, now: Timestamp) -> Option<Granted> {
        let suspect = plan.suspect?;
        let mut exception = self
            .exceptions
            .get(suspect)
            .filter(|e| e.standing == Standing::Suspect)?
            .clone();
        exception.attempts += 1;
        exception.charged = true;
        let attempt = exception.attempts;
        self.exceptions.put(suspect, exception);
        let granted = self.lease(plan, vec![(suspect, attempt)], now);
        if plan.kind == MemberKind::Embedded {
            self.members.entry(plan.member).or_default().isolated = true;
        }
        Some(granted)
    }

    /// Leases what is due by `plan` and the matching events `fresh`, ascending and with their keys,
    /// found by reading from the plan's `after` up to `scanned`. What changed since the plan is
    /// left out.
    pub fn grant<'k>(
        &mut self,
        plan: &Plan,
        fresh: impl IntoIterator<Item = (u64, Option<&'k str>)>,
        scanned: u64,
        now: Timestamp,
    ) -> Granted {
        let mut deliveries = Vec::new();
        for position in plan
            .due
            .iter()
            .copied()
            .filter(|p| self.exceptions.is_claimable(*p, now))
        {
            let attempt = self.exceptions.get(position).map_or(1, |e| e.attempts + 1);
            deliveries.push((position, attempt));
        }
        // After a seek in between, what was read is of no use.
        if plan.after == self.place.frontier {
            self.advance(fresh, scanned, &mut deliveries);
        }
        if deliveries.is_empty() {
            return Granted::default();
        }
        self.lease(plan, deliveries, now)
    }

    fn advance<'k>(
        &mut self,
        fresh: impl IntoIterator<Item = (u64, Option<&'k str>)>,
        scanned: u64,
        deliveries: &mut Vec<(u64, u32)>,
    ) {
        let mut reached = scanned.max(self.place.frontier);
        for (position, key) in fresh {
            if self.exceptions.blocked() >= self.options.max_blocked {
                reached = position - 1;
                break;
            }
            let key = if self.options.ordered {
                key.map(Arc::from)
            } else {
                None
            };
            match key {
                None => deliveries.push((position, 1)),
                Some(key) => {
                    let heads = self.enter(position, Some(key), Standing::Ready);
                    if heads {
                        deliveries.push((position, 1));
                    }
                }
            }
        }
        if reached != self.place.frontier {
            self.place.frontier = reached;
            self.place_dirty = true;
        }
    }

    /// Adds an exception at the end of its lane; whether it is the head.
    pub(crate) fn enter(
        &mut self,
        position: u64,
        key: Option<Arc<str>>,
        standing: Standing,
    ) -> bool {
        let key = key.filter(|_| self.options.ordered);
        let heads = key
            .as_ref()
            .is_none_or(|key| self.lanes.enter(key, position));
        let standing = if heads { standing } else { Standing::Blocked };
        self.exceptions.put(position, Exception::new(standing, key));
        heads
    }

    fn lease(&mut self, plan: &Plan, deliveries: Vec<(u64, u32)>, now: Timestamp) -> Granted {
        self.epoch += 1;
        let (epoch, until) = (self.epoch, now + self.options.lease);
        let mut positions: Vec<u64> = deliveries.iter().map(|(position, _)| *position).collect();
        for position in &positions {
            if self.exceptions.get(*position).is_some() {
                self.exceptions.stand(*position, Standing::Leased(epoch));
            }
        }
        positions.sort_unstable();
        self.members.entry(plan.member).or_default().held += positions.len();
        self.leases
            .insert(epoch, Lease::new(plan.member, plan.kind, until, positions));
        Granted {
            epoch,
            until,
            deliveries,
        }
    }

    /// Ends every lease that is over: its deliveries come back as suspects.
    pub fn expire(&mut self, now: Timestamp) {
        for (epoch, position) in self.leases.expire(now) {
            self.end_lease(epoch, position);
            self.give_back(position, Standing::Suspect);
        }
    }

    /// The first suspect that has attempts left; the others are given up on the way.
    fn next_suspect(&mut self, now: Timestamp) -> Option<u64> {
        loop {
            let suspect = self.exceptions.first_suspect()?;
            let exception = self.exceptions.get(suspect)?;
            if exception.attempts < self.options.max_attempts {
                return Some(suspect);
            }
            let error = if exception.error.is_empty() {
                "its process died while handling it".to_owned()
            } else {
                format!(
                    "its process died while handling it; before that: {}",
                    exception.error
                )
            };
            self.exhausted(suspect, error, now);
        }
    }

    pub(crate) fn end_lease(&mut self, epoch: u64, position: u64) {
        let Some(member) = self.leases.get(epoch).map(|lease| lease.member) else {
            return;
        };
        self.leases.finish(epoch, position);
        if let Some(holding) = self.members.get_mut(&member) {
            holding.held = holding.held.saturating_sub(1);
            if holding.held == 0 {
                self.members.remove(&member);
            }
        }
    }

    /// A delivery that is nobody's any more.
    pub(crate) fn give_back(&mut self, position: u64, standing: Standing) {
        if self.exceptions.get(position).is_some() {
            self.exceptions.stand(position, standing);
        } else {
            self.exceptions
                .put(position, Exception::new(standing, None));
        }
    }

    /// When something changes by time alone: a retry falls due or a lease ends.
    pub fn next_change(&self) -> Option<Timestamp> {
        match (self.exceptions.next_due(), self.leases.next_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether somebody could be handed something below the frontier at `now`.
    pub fn is_claimable(&self, now: Timestamp) -> bool {
        self.exceptions.first_suspect().is_some() || !self.exceptions.claimable(now, 1).is_empty()
    }

    /// How many deliveries a member holds.
    pub fn holds(&self, member: MemberId) -> usize {
        self.members.get(&member).map_or(0, |holding| holding.held)
    }

    /// How many deliveries are leased.
    pub fn in_flight(&self) -> u64 {
        self.leases.held()
    }

    /// How many unsettled deliveries below the frontier are not leased.
    pub fn waiting(&self) -> u64 {
        self.exceptions.waiting()
    }

    /// The counters since the base, without closed blocks.
    pub fn tally(&self) -> Tally {
        self.ledger.total()
    }

    /// The counters of each block, with how many positions of it are unsettled below the frontier.
    pub fn blocks(&self) -> Vec<(u64, Tally, u64)> {
        let mut unsettled: std::collections::BTreeMap<u64, u64> = std::collections::BTreeMap::new();
        for position in self.unsettled() {
            *unsettled.entry(block_of(position)).or_default() += 1;
        }
        for (block, _) in self.ledger.blocks() {
            unsettled.entry(block).or_default();
        }
        let tallies: std::collections::BTreeMap<u64, Tally> = self.ledger.blocks().collect();
        unsettled
            .into_iter()
            .map(|(block, open)| {
                (
                    block,
                    tallies.get(&block).copied().unwrap_or_default(),
                    open,
                )
            })
            .collect()
    }

    /// Every unsettled position below the frontier, each once, in no order.
    pub fn unsettled(&self) -> impl Iterator<Item = u64> {
        let leased = self
            .leases
            .iter()
            .flat_map(|(_, lease)| lease.remaining().collect::<Vec<_>>());
        let others = self
            .exceptions
            .iter()
            .filter(|(_, e)| !matches!(e.standing, Standing::Leased(_)));
        leased.chain(others.map(|(position, _)| position))
    }

    /// The lowest position that is not settled; retention keeps it and everything above.
    pub fn lowest_unsettled(&self) -> u64 {
        let above = self.place.frontier + 1;
        let exception = self.exceptions.first().unwrap_or(above);
        let leased = self.leases.lowest().unwrap_or(above);
        above.min(exception).min(leased)
    }

    /// What is known of a position besides its lease, such as its failures.
    pub fn exception(&self, position: u64) -> Option<&Exception> {
        self.exceptions.get(position)
    }

    /// Where a position stands: its exception, or leased without one; none when it is settled or
    /// above the frontier.
    pub fn standing(&self, position: u64) -> Option<Exception> {
        if let Some(exception) = self.exceptions.get(position) {
            return Some(exception.clone());
        }
        let (epoch, _) = self
            .leases
            .iter()
            .find(|(_, lease)| lease.holds(position) == Some(true))?;
        Some(Exception::new(Standing::Leased(epoch), None))
    }

    /// The leased ranges of embedded members: first and last position of each lease.
    pub fn running(&self) -> impl Iterator<Item = (u64, u64)> {
        self.leases
            .iter()
            .filter(|(_, lease)| lease.kind == MemberKind::Embedded)
            .filter_map(|(_, lease)| {
                let mut held = lease.remaining();
                let first = held.next()?;
                Some((first, held.last().unwrap_or(first)))
            })
    }

    /// Passes over what is unclaimed up to `position`: it is gone from the log.
    pub fn pass(&mut self, position: u64) {
        if position > self.place.frontier {
            self.place.frontier = position;
            self.place_dirty = true;
        }
    }

    /// Moves to just behind `base`: leases become late, exceptions and counters are forgotten.
    pub fn seek(&mut self, base: u64) {
        self.leases.clear();
        self.exceptions.clear();
        self.lanes.clear();
        self.ledger.clear();
        self.members.clear();
        self.place = Place {
            base,
            frontier: base,
            generation: self.place.generation + 1,
            closed: Tally::default(),
        };
        self.place_dirty = true;
    }

    /// Closes the blocks below `block`, whose events retention removed.
    pub fn close_below(&mut self, block: u64) {
        let closed = self.ledger.close_below(block);
        self.place.closed.add(closed);
        self.place_dirty = true;
    }

    /// The dead letters that a key is parked behind.
    pub fn parked(&self) -> impl Iterator<Item = (u64, &Arc<str>)> {
        self.lanes.parked()
    }
}
