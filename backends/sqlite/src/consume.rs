//! Consuming: a claim happens in memory and is handed out at once; it becomes a row only if it is still
//! unsettled when a commit passes. Settling changes the cursor at once and answers after the commit.

pub(crate) mod ahead;
mod bodies;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;
use fanfare_core::{Error, ErrorKind, Result};
use fanfare_cursor::{Granted, MemberId, Plan};

use crate::backend::Inner;
use crate::error;
use crate::subscription::{Live, Subscription};
use crate::tail::Entry;

use ahead::Ahead;
use bodies::Bodies;

/// One member of one subscription.
#[derive(Debug)]
pub(crate) struct SqliteConsumer {
    inner: Arc<Inner>,
    subscription: Arc<Subscription>,
    member: MemberId,
    kind: MemberKind,
    closed: AtomicBool,
}

/// What one look at the subscription came to.
enum Step {
    Deliver(Vec<Delivery>),
    /// Nothing now; by time alone something may change then.
    Idle(Option<Timestamp>),
    /// Events that are due are not in memory.
    Fetch(Plan, Bodies, bodies::Missing),
    /// Suspects without attempts left were given up: that has to be written.
    GaveUp,
    /// The frontier is behind the tail, at this position.
    Behind(u64),
}

/// Matching events above the frontier, and how far they were looked for.
struct Fresh {
    events: Vec<Entry>,
    scanned: u64,
}

impl SqliteConsumer {
    /// Joins `subscription`.
    pub(crate) fn join(
        inner: Arc<Inner>,
        subscription: Arc<Subscription>,
        member: &Member,
    ) -> Self {
        let id = MemberId(inner.next_member());
        if member.kind == MemberKind::Embedded {
            subscription.live.lock().embedded.push(id);
        }
        Self {
            inner,
            subscription,
            member: id,
            kind: member.kind,
            closed: AtomicBool::new(false),
        }
    }

    fn check(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "the consumer is closed"));
        }
        self.inner.stream.check()
    }

    /// Takes what can be taken now; else when it is worth looking again.
    async fn take(&self, max: usize) -> Result<Result<Vec<Delivery>, Option<Timestamp>>> {
        loop {
            match self.look(max)? {
                Step::Deliver(deliveries) => return Ok(Ok(deliveries)),
                Step::Idle(until) => return Ok(Err(until)),
                Step::GaveUp => self.flush().await?,
                Step::Behind(frontier) => self.read_ahead(frontier).await?,
                Step::Fetch(plan, mut bodies, missing) => {
                    bodies.append(&mut bodies::from_disk(&self.inner, missing).await?);
                    let deliveries = self.hand_out_fetched(plan, bodies).await?;
                    if !deliveries.is_empty() {
                        return Ok(Ok(deliveries));
                    }
                }
            }
        }
    }

    fn look(&self, max: usize) -> Result<Step> {
        let now = self.inner.stream.config.clock.now();
        let live = &mut *self.subscription.live.lock();
        if live.gone {
            let name = &self.subscription.name;
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("subscription `{name}` was deleted"),
            ));
        }
        if live.paused {
            return Ok(Step::Idle(None));
        }
        let (plan, gave_up) = live.plan(self.member, self.kind, max, now);
        if gave_up {
            return Ok(Step::GaveUp);
        }
        let below: Vec<u64> = plan
            .suspect
            .into_iter()
            .chain(plan.due.iter().copied())
            .collect();
        let (bodies, missing) = bodies::in_memory(&self.inner, live, &below);
        if plan.suspect.is_some() || !missing.is_empty() {
            return Ok(Step::Fetch(plan, bodies, missing));
        }
        let Some(fresh) = self.fresh(live, &plan) else {
            if plan.due.is_empty() {
                return Ok(Step::Behind(plan.after));
            }
            let fresh = Fresh::none(&plan);
            return Ok(Step::Deliver(
                self.hand_out(live, &plan, &bodies, &fresh, now),
            ));
        };
        let deliveries = self.hand_out(live, &plan, &bodies, &fresh, now);
        if deliveries.is_empty() {
            return Ok(Step::Idle(live.cursor.next_change()));
        }
        Ok(Step::Deliver(deliveries))
    }

    /// The matching events above the frontier; none when they are on disk.
    fn fresh(&self, live: &mut Live, plan: &Plan) -> Option<Fresh> {
        if plan.fresh == 0 {
            return Some(Fresh::none(plan));
        }
        if live.ahead.goes_on_from(plan.after) {
            let (events, scanned) = live.ahead.next(plan.fresh);
            return Some(Fresh { events, scanned });
        }
        self.inner.stream.tail.above(plan.after, |entries| {
            let mut fresh = Fresh::none(plan);
            for entry in entries {
                fresh.scanned = entry.position;
                if live.matches(entry.position, entry.kind, entry.event.event_type()) {
                    fresh.events.push(entry.clone());
                }
                if fresh.events.len() == plan.fresh {
                    break;
                }
            }
            fresh
        })
    }

    /// Leases what was planned and found.
    fn hand_out(
        &self,
        live: &mut Live,
        plan: &Plan,
        bodies: &Bodies,
        fresh: &Fresh,
        now: Timestamp,
    ) -> Vec<Delivery> {
        let keys = fresh.events.iter().map(|e| (e.position, e.event.key()));
        let granted = live.cursor.grant(plan, keys, fresh.scanned, now);
        live.ahead.advance(live.cursor.frontier());
        let mut rest = fresh.events.iter();
        let deliveries = deliveries(&granted, |position| {
            // Both are in the same order, so each event is passed once.
            let below = bodies.get(&position);
            below.or_else(|| rest.find(|e| e.position == position).map(|e| &e.event))
        });
        self.note_running(live);
        deliveries
    }

    /// Leases a suspect or what is due, now that its events are here.
    async fn hand_out_fetched(&self, mut plan: Plan, bodies: Bodies) -> Result<Vec<Delivery>> {
        let now = self.inner.stream.config.clock.now();
        let is_suspect = plan.suspect.is_some();
        let handing = {
            let live = &mut *self.subscription.live.lock();
            for position in plan.suspect.iter().chain(&plan.due) {
                let wanted = || live.cursor.standing(*position).is_some() && !live.gone;
                if !bodies.contains_key(position) && wanted() {
                    return Err(error::corrupt(format!(
                        "the event at {position} is missing from the log"
                    )));
                }
            }
            plan.due.retain(|position| bodies.contains_key(position));
            let granted = if live.paused || live.gone {
                Granted::default()
            } else if is_suspect {
                live.cursor.grant_suspect(&plan, now).unwrap_or_default()
            } else {
                let after = plan.after;
                live.cursor.grant(&plan, std::iter::empty(), after, now)
            };
            self.note_running(live);
            Handing {
                subscription: &self.subscription,
                deliveries: deliveries(&granted, |position| bodies.get(&position)),
                clock: &self.inner.stream.config.clock,
            }
        };
        if is_suspect && !handing.deliveries.is_empty() {
            // Its attempt is counted on disk before it can kill us again.
            self.flush().await?;
        }
        Ok(handing.done())
    }

    /// The leases of an external member outlive this process, so they are on disk before the member
    /// hears of them.
    async fn keep(&self, deliveries: Vec<Delivery>) -> Result<Vec<Delivery>> {
        if self.kind == MemberKind::Embedded || deliveries.is_empty() {
            return Ok(deliveries);
        }
        let handing = Handing {
            subscription: &self.subscription,
            deliveries,
            clock: &self.inner.stream.config.clock,
        };
        self.flush().await?;
        Ok(handing.done())
    }

    /// Writes what changed, where there is anything to write to.
    async fn flush(&self) -> Result<()> {
        if self.subscription.number.is_none() {
            return Ok(());
        }
        let subscription = Arc::clone(&self.subscription);
        self.inner.queue.flush(subscription).await
    }

    async fn read_ahead(&self, frontier: u64) -> Result<()> {
        let _turn = self.subscription.reading.lock().await;
        let interest = {
            let live = self.subscription.live.lock();
            if live.cursor.frontier() != frontier || live.ahead.goes_on_from(frontier) {
                // Another member was faster.
                return Ok(());
            }
            live.interest.clone()
        };
        let stream = Arc::clone(&self.inner.stream);
        let wanted = interest.clone();
        let ahead = self.inner.readers.read(move |db| {
            let head = stream.tail.head();
            Ahead::read(db, &stream.names, &wanted, frontier, head)
        });
        let ahead = ahead.await?;
        let mut live = self.subscription.live.lock();
        if live.cursor.frontier() == frontier && live.interest == interest {
            live.ahead = ahead;
        }
        Ok(())
    }

    /// Leaves a note of what runs here, in case the process dies before a commit passes.
    fn note_running(&self, live: &Live) {
        if let (MemberKind::Embedded, Some(number)) = (self.kind, self.subscription.number) {
            self.inner.running.note(number, live.cursor.running());
        }
    }

    fn leave(&self) {
        let mut live = self.subscription.live.lock();
        live.cursor.release_member(self.member);
        live.embedded.retain(|member| *member != self.member);
        self.note_running(&live);
        let ephemeral = live.spec.ephemeral;
        drop(live);
        if ephemeral {
            self.inner.stream.subscriptions.remove(&self.subscription);
        }
        self.subscription.wake();
    }
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let clock = &self.inner.stream.config.clock;
        let deadline = clock.now() + wait;
        let mut changed = self.subscription.watch();
        let mut head = self.inner.stream.tail.watch();
        loop {
            self.check()?;
            changed.borrow_and_update();
            head.borrow_and_update();
            let until = match self.take(max).await? {
                Ok(deliveries) => return self.keep(deliveries).await,
                Err(until) => until,
            };
            if clock.now() >= deadline || max == 0 {
                return Ok(Vec::new());
            }
            let until = until.map_or(deadline, |until| until.min(deadline));
            // The senders outlive this: they are in `self`.
            tokio::select! {
                _ = changed.changed() => {}
                _ = head.changed() => {}
                () = clock.sleep_until(until) => {}
            }
        }
    }

    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        self.inner.stream.check()?;
        let now = self.inner.stream.config.clock.now();
        let answers: Vec<Settled> = {
            let mut live = self.subscription.live.lock();
            let settle = |(receipt, settlement)| live.settle(receipt, settlement, now);
            settlements.into_iter().map(settle).collect()
        };
        self.subscription.wake();
        if answers.contains(&Settled::Done) {
            self.flush().await?;
        }
        Ok(answers)
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        self.inner.stream.check()?;
        let until = self.inner.stream.config.clock.now() + lease;
        let named: Vec<(u64, u64)> = receipts
            .iter()
            .map(|r| (r.position.low(), r.epoch))
            .collect();
        let answers = self.subscription.live.lock().cursor.extend(&named, until);
        // The lease of an embedded member ends with this process, whatever is on disk.
        if self.kind == MemberKind::External && answers.contains(&Settled::Done) {
            self.flush().await?;
        }
        Ok(answers)
    }

    async fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.leave();
        if self.inner.stream.check().is_ok() {
            self.flush().await?;
        }
        Ok(())
    }
}

impl Drop for SqliteConsumer {
    fn drop(&mut self) {
        // A member that is gone without closing has died: its leases end by time, unless its
        // subscription ends with it.
        if self.subscription.number.is_none() && !*self.closed.get_mut() {
            self.leave();
        }
    }
}

impl Fresh {
    fn none(plan: &Plan) -> Self {
        Self {
            events: Vec::new(),
            scanned: plan.after,
        }
    }
}

/// Deliveries on their way out: if whoever asked goes away meanwhile they are released.
struct Handing<'a> {
    subscription: &'a Subscription,
    deliveries: Vec<Delivery>,
    clock: &'a fanfare_core::clock::Clock,
}

impl Handing<'_> {
    fn done(mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }
}

impl Drop for Handing<'_> {
    fn drop(&mut self) {
        if self.deliveries.is_empty() {
            return;
        }
        let now = self.clock.now();
        let mut live = self.subscription.live.lock();
        for delivery in &self.deliveries {
            live.settle(delivery.receipt, Settlement::Release, now);
        }
        drop(live);
        self.subscription.wake();
    }
}

fn deliveries<'e>(
    granted: &Granted,
    mut event: impl FnMut(u64) -> Option<&'e fanfare_core::event::Event>,
) -> Vec<Delivery> {
    let leased = granted.deliveries.iter();
    let delivery = |(position, attempt): &(u64, u32)| {
        let position_of = Position::from(*position);
        Some(Delivery {
            event: event(*position)?.clone(),
            position: position_of,
            attempt: *attempt,
            receipt: Receipt {
                position: position_of,
                epoch: granted.epoch,
            },
            lease_until: granted.until,
        })
    };
    leased.filter_map(delivery).collect()
}
