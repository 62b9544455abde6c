//! What happens at once for the members of a subscription: the pure cursor's steps, on the record that
//! all processes share. The members' own side is the fleet crate's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::clock::Clock;
use fanfare_core::consumer::MemberKind;
use fanfare_core::delivery::{Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::MemberId;
use fanfare_fleet::{Answer, Ask, Engine, FleetConsumer, Granted, How, Run, Slot, Stored, unknown};
use tokio::sync::{Notify, watch};

use crate::desk::{Desk, Entry};
use crate::log::PAGE;
use crate::record::Record;
use crate::row::Row;

/// The most bytes of an error that a waiting delivery keeps; its dead letter has all that the last
/// failure said.
const MAX_ERROR_BYTES: usize = 200;

/// A member of a subscription.
pub(crate) type NatsConsumer = FleetConsumer<Desk>;

#[async_trait]
impl Engine for Desk {
    type Page = Row;

    fn clock(&self) -> &Clock {
        &self.wire.config.clock
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.log.appended()
    }

    fn woken(&self, name: &SubscriptionName) -> Arc<Notify> {
        self.log.woken(name.as_str())
    }

    async fn after(&self, position: u128) -> Result<Vec<Arc<Row>>> {
        self.log.after(narrow(position), PAGE).await
    }

    async fn bodies(
        &self,
        name: &SubscriptionName,
        positions: &[u128],
    ) -> Result<BTreeMap<u128, Slot>> {
        let mut wanted: Vec<u64> = positions.iter().map(|p| narrow(*p)).collect();
        let asked = wanted.clone();
        let redriven = self.glance(name, move |entry, _| {
            let redriven = entry.record.as_ref().map(|record| &record.redriven);
            let own = |at: &u64| Some((*at, *redriven?.get(at)?));
            asked.iter().filter_map(own).collect::<Vec<_>>()
        });
        let mut found = BTreeMap::new();
        for (position, (key, dead)) in redriven.await? {
            if let Some((_, letter)) = self.letter(name, key, dead).await? {
                found.insert(u128::from(position), letter.body);
            }
        }
        wanted.retain(|position| !found.contains_key(&u128::from(*position)));
        let logged = self.log.find(&wanted).await?.into_iter();
        found.extend(logged.map(|(at, row)| (u128::from(at), row.slot.clone())));
        Ok(found)
    }

    async fn load(&self, name: &SubscriptionName) -> Result<Option<Stored>> {
        let stored = |entry: &mut Entry, _| entry.record.as_ref().map(Record::stored);
        self.change(name, stored).await
    }

    async fn restore(&self, stored: &Stored) -> Result<()> {
        let spec = &stored.spec;
        if spec.ephemeral {
            return Err(unknown(&spec.name));
        }
        let stored = stored.clone();
        let restored = self.change(&spec.name, move |entry, now| restore(entry, &stored, now));
        restored.await?
    }

    async fn claim(&self, ask: &Ask<'_>) -> Result<Answer> {
        let wanted = Wanted::of(ask);
        let name = &ask.stored.spec.name;
        self.change(name, move |entry, now| claim(entry, &wanted, now))
            .await
    }

    /// The cursor gives up what is out of attempts as it plans a claim, and the desk writes the letters:
    /// members never have to.
    async fn bury(&self, spec: &SubscriptionSpec, _: &[(u128, Vec<u8>)]) -> Result<()> {
        self.log.wake(Some(spec.name.as_str()));
        Ok(())
    }

    async fn settle(&self, spec: &SubscriptionSpec, runs: &[Run]) -> Result<Option<Vec<String>>> {
        let behind = self.wire.behind();
        let runs = runs.iter().map(|run| Settling::of(run, behind));
        let runs: Vec<_> = runs.collect();
        self.change(&spec.name, move |entry, now| settle(entry, &runs, now))
            .await
    }

    async fn extend(
        &self,
        name: &SubscriptionName,
        runs: &[Run],
        lease: Duration,
    ) -> Result<Option<Vec<String>>> {
        let runs = runs.iter().map(|run| Settling::of(run, Duration::ZERO));
        let runs: Vec<_> = runs.collect();
        self.change(name, move |entry, now| extend(entry, &runs, lease, now))
            .await
    }

    async fn release(&self, name: &SubscriptionName, member: u64) -> Result<()> {
        self.change(name, move |entry, now| {
            if let Some(record) = &mut entry.record {
                record.cursor.expire(now);
                record.cursor.release_member(MemberId(member));
                entry.wake = record.cursor.is_claimable(now);
            }
        })
        .await
    }

    async fn end(&self, name: &SubscriptionName) -> Result<()> {
        Desk::end(self, name);
        Ok(())
    }

    /// An ephemeral subscription is in this process, and goes with it.
    async fn say_alive(&self, _: &SubscriptionName) -> Result<()> {
        Ok(())
    }
}

/// A claim as it is carried to the record.
struct Wanted {
    version: u64,
    member: MemberId,
    kind: MemberKind,
    frontier: u64,
    reached: u64,
    max: usize,
    ordered: bool,
    fresh: Vec<(u64, Option<Arc<str>>)>,
}

impl Wanted {
    fn of(ask: &Ask<'_>) -> Self {
        let ordered = ask.stored.spec.ordered;
        let key = |slot: &Slot| slot.event()?.key().filter(|_| ordered).map(Arc::from);
        Self {
            version: ask.stored.version,
            member: MemberId(ask.member),
            kind: if ask.external {
                MemberKind::External
            } else {
                MemberKind::Embedded
            },
            frontier: narrow(ask.frontier),
            reached: narrow(ask.reached),
            max: ask.max,
            ordered,
            fresh: ask
                .fresh
                .iter()
                .map(|(position, slot)| (narrow(*position), key(slot)))
                .collect(),
        }
    }
}

fn claim(entry: &mut Entry, wanted: &Wanted, now: Timestamp) -> Answer {
    let full = entry.full;
    let Some(record) = &mut entry.record else {
        return Answer::Gone;
    };
    if record.version != wanted.version {
        return Answer::Stale;
    }
    let cursor = &mut record.cursor;
    if record.paused {
        cursor.expire(now);
        return Answer::Granted(nothing(record, now));
    }
    let plan = cursor.plan(wanted.member, wanted.kind, wanted.max, now);
    let granted = if plan.suspect.is_some() {
        cursor.grant_suspect(&plan, now).unwrap_or_default()
    } else {
        // What the member found behind another frontier than this is of no use.
        let current = wanted.frontier == plan.after && !full;
        let room = if current { plan.fresh } else { 0 };
        let reached = match wanted.fresh.get(room) {
            _ if !current || plan.fresh == 0 => plan.after,
            None => wanted.reached,
            Some(_) => wanted.fresh.get(room - 1).map_or(plan.after, |last| last.0),
        };
        let fresh = wanted.fresh.iter().take(room);
        let fresh = fresh.map(|(position, key)| (*position, key.as_deref()));
        cursor.grant(&plan, fresh, reached, now)
    };
    if granted.deliveries.is_empty() {
        return Answer::Granted(nothing(record, now));
    }
    let below = granted.deliveries.iter();
    let below = below.take_while(|(at, _)| wanted.ordered || *at <= plan.after);
    let due: Vec<_> = below
        .map(|(at, attempt)| (u128::from(*at), *attempt))
        .collect();
    Answer::Granted(Granted {
        epoch: granted.epoch,
        frontier: record.cursor.frontier().into(),
        next: None,
        fresh: granted.deliveries.len() - due.len(),
        due,
    })
}

fn nothing(record: &Record, now: Timestamp) -> Granted {
    let next = record.cursor.next_change();
    Granted {
        epoch: 0,
        frontier: record.cursor.frontier().into(),
        next: next.map(|at| at.since(now)),
        fresh: 0,
        due: Vec::new(),
    }
}

/// A run of settlements as it is carried to the record.
struct Settling {
    epoch: u64,
    first: u64,
    count: u64,
    settlement: Settlement,
}

impl Settling {
    /// `behind`: by how much time on the server may be later than it is counted from.
    fn of(run: &Run, behind: Duration) -> Self {
        Self {
            epoch: run.epoch,
            first: narrow(run.first),
            count: run.count as u64,
            settlement: match &run.how {
                How::Ack => Settlement::Ack,
                How::Drop => Settlement::Drop,
                How::Release => Settlement::Release,
                How::Retry(after, error) => Settlement::Retry {
                    after: after.saturating_add(behind),
                    error: cut(error),
                },
                // The desk finds the body by itself.
                How::Dead { reason, error, .. } => Settlement::DeadLetter {
                    reason: reason.clone(),
                    error: error.clone(),
                },
            },
        }
    }

    fn receipts(&self) -> impl Iterator<Item = (u64, u64)> {
        let positions = self.first..self.first.saturating_add(self.count);
        positions.map(|position| (position, self.epoch))
    }
}

fn cut(text: &str) -> String {
    let end = (0..=MAX_ERROR_BYTES.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

fn settle(entry: &mut Entry, runs: &[Settling], now: Timestamp) -> Option<Vec<String>> {
    let record = entry.record.as_mut()?;
    // A lease that ended is over, even if nobody has claimed since.
    record.cursor.expire(now);
    let mut letters = Vec::with_capacity(runs.len());
    let mut comes_back = false;
    for run in runs {
        let cursor = &mut record.cursor;
        let settled = run.receipts().map(|(position, epoch)| {
            let settlement = run.settlement.clone();
            letter_of(cursor.settle(position, epoch, settlement, now))
        });
        letters.push(settled.collect());
        comes_back |= matches!(run.settlement, Settlement::Retry { .. });
    }
    entry.wake |= comes_back || record.cursor.is_claimable(now);
    Some(letters)
}

fn extend(
    entry: &mut Entry,
    runs: &[Settling],
    lease: Duration,
    now: Timestamp,
) -> Option<Vec<String>> {
    let record = entry.record.as_mut()?;
    record.cursor.expire(now);
    let letters = runs.iter().map(|run| {
        let receipts: Vec<_> = run.receipts().collect();
        let extended = record.cursor.extend(&receipts, now + lease);
        extended.into_iter().map(letter_of).collect()
    });
    Some(letters.collect())
}

fn letter_of(settled: Settled) -> char {
    match settled {
        Settled::Done => 'D',
        Settled::Late => 'L',
        Settled::Already => 'A',
        Settled::Unknown => 'U',
    }
}

/// Where the record is gone and nobody deleted it, a new one goes on where the members were.
fn restore(entry: &mut Entry, stored: &Stored, now: Timestamp) -> Result<()> {
    let spec = &stored.spec;
    if entry.record.is_some() {
        return Ok(());
    }
    if entry.deleted {
        return Err(unknown(&spec.name));
    }
    let settled = entry.remains.filter(|(of, _)| *of == stored.created);
    let base = settled.map_or_else(|| narrow(stored.base), |(_, settled)| settled);
    let mut record = Record::new(spec.clone(), now, base)?;
    record.interest = stored.interest.clone();
    entry.record = Some(record);
    entry.touched = true;
    entry.wake = true;
    tracing::error!(subscription = %spec.name, "the subscription was gone and is made again");
    Ok(())
}

/// A position as it stands on the server.
pub(crate) fn narrow(position: u128) -> u64 {
    u64::try_from(position).unwrap_or(u64::MAX)
}
