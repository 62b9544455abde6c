//! Where every delivery of a subscription is: counted from the log on one side, from what the scripts
//! counted as they settled on the other. Changing anything is [`crate::admin`]'s.

use std::collections::{BTreeMap, HashMap};

use fanfare_core::admin::{Audited, Breach, Counts, SubscriptionInfo};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_fleet::Stored;
use redis::Value;

use crate::backend::RedisBackend;
use crate::connect::{Answer, Arguments};
use crate::error::unexpected;
use crate::place::{block_of, block_range, recorded};
use crate::scripts;
use crate::subscription;

/// The most ids that a breach names.
const MAX_IDS: usize = 1_000;

/// One subscription at one moment.
pub(crate) struct Snapshot {
    pub(crate) stored: Stored,
    /// Whether it is a consumer group of Redis.
    pub(crate) group: bool,
    /// By block and kind: a, d, x, e, v (trimmed).
    counters: BTreeMap<(u128, char), i64>,
    pub(crate) in_flight: u64,
    pub(crate) waiting: u64,
    lowest: Option<u128>,
    /// How many are unsettled, by block.
    open: BTreeMap<u128, i64>,
    /// The end of the stream.
    pub(crate) head: u128,
    /// What a consumer group of Redis gave to our members and nobody claimed, and what it gave to
    /// members that are not ours.
    unclaimed: Vec<u128>,
    elsewhere: Vec<u128>,
}

impl Snapshot {
    fn total(&self, kind: char) -> u64 {
        let of_kind = self.counters.iter().filter(|((_, k), _)| *k == kind);
        u64::try_from(of_kind.map(|(_, n)| n).sum::<i64>()).unwrap_or(0)
    }

    /// `matching` of the events below the frontier and `above` of those beyond are its.
    fn counts(&self, matching: u64, above: u64) -> Counts {
        Counts {
            published: matching + above + self.total('e'),
            acknowledged: self.total('a'),
            dropped: self.total('d'),
            dead: self.total('x'),
            in_flight: self.in_flight,
            waiting: self.waiting + above,
        }
    }
}

impl RedisBackend {
    pub(crate) async fn snapshot(&self, name: &SubscriptionName) -> Result<Option<Snapshot>> {
        let arguments = Arguments::default().text(name.as_str());
        let answer = self.wire.look(&scripts::SNAPSHOT, &arguments).await?;
        if answer == Value::Nil {
            return Ok(None);
        }
        let mut answer = Answer::new(answer, "snapshot")?;
        let fields: HashMap<String, String> = answer.next()?;
        let mut counters = BTreeMap::new();
        let mut counted: BTreeMap<String, i64> = answer.next()?;
        while let Some((mut field, n)) = counted.pop_first() {
            let kind = field.pop().unwrap_or(' ');
            let block = u128::from_str_radix(&field, 16).map_err(|_| unexpected("snapshot"))?;
            counters.insert((block, kind), n);
        }
        let (in_flight, waiting) = (answer.next()?, answer.next()?);
        let lowest = crate::place::from_hex(&answer.next::<String>()?);
        let mut open = BTreeMap::new();
        for (block, n) in answer.next::<BTreeMap<String, i64>>()? {
            let block = u128::from_str_radix(&block, 16).map_err(|_| unexpected("snapshot"))?;
            open.insert(block, n);
        }
        let (stored, group) = subscription::read(name, &fields)?;
        Ok(Some(Snapshot {
            stored,
            group,
            counters,
            in_flight,
            waiting,
            lowest,
            open,
            head: answer.next_position()?,
            unclaimed: positions(&answer.next::<Vec<String>>()?),
            elsewhere: positions(&answer.next::<Vec<String>>()?),
        }))
    }

    async fn above(&self, snapshot: &Snapshot) -> Result<(u64, Option<u128>)> {
        let (mut above, mut first) = (0, None);
        let stored = &snapshot.stored;
        self.scan(stored.frontier, snapshot.head, |position, slot| {
            if stored.matches(position, slot) {
                above += 1;
                first.get_or_insert(position);
            }
            true
        })
        .await?;
        Ok((above, first))
    }

    /// Where others acknowledge too, without a trace: what is not elsewhere was acknowledged.
    async fn shared_counts(&self, snapshot: &Snapshot, above: u64) -> Result<Counts> {
        let (mut below, stored) = (0, &snapshot.stored);
        self.scan(stored.base, stored.frontier, |position, slot| {
            below += u64::from(stored.matches(position, slot));
            true
        })
        .await?;
        let mut counts = snapshot.counts(below, above);
        counts.waiting += self.matching(stored, &snapshot.unclaimed).await?;
        counts.in_flight += self.matching(stored, &snapshot.elsewhere).await?;
        let elsewhere = counts.dropped + counts.dead + counts.in_flight + counts.waiting;
        Ok(Counts {
            published: counts.published.max(elsewhere),
            acknowledged: counts.published.saturating_sub(elsewhere),
            ..counts
        })
    }

    async fn matching(&self, stored: &Stored, positions: &[u128]) -> Result<u64> {
        let slots = self.log.find(positions).await?;
        let matching = slots.iter().filter(|(at, slot)| stored.matches(**at, slot));
        Ok(matching.count() as u64)
    }

    pub(crate) async fn info(&self, snapshot: Snapshot) -> Result<SubscriptionInfo> {
        let (above, first) = self.above(&snapshot).await?;
        let counts = if snapshot.group {
            self.shared_counts(&snapshot, above).await?
        } else {
            snapshot.counts(snapshot.stored.claimed, above)
        };
        Ok(SubscriptionInfo {
            counts,
            oldest_unsettled: snapshot.lowest.or(first).map(recorded),
            frontier: Position(snapshot.stored.frontier),
            created: snapshot.stored.created,
            paused: snapshot.stored.paused,
            spec: snapshot.stored.spec,
        })
    }

    /// Matching events without an account, by block; then how many there are below and above the
    /// frontier.
    pub(crate) async fn balance(
        &self,
        snapshot: &Snapshot,
    ) -> Result<(BTreeMap<u128, i64>, u64, u64)> {
        let stored = &snapshot.stored;
        let mut balance: BTreeMap<u128, i64> = BTreeMap::new();
        let (mut below, mut above) = (0, 0);
        self.scan(stored.base, snapshot.head, |position, slot| {
            if stored.matches(position, slot) {
                if position > stored.frontier {
                    above += 1;
                } else {
                    below += 1;
                    *balance.entry(block_of(position)).or_default() += 1;
                }
            }
            true
        })
        .await?;
        for ((block, kind), n) in &snapshot.counters {
            let sign = if matches!(kind, 'e' | 'v') { 1 } else { -1 };
            *balance.entry(*block).or_default() += sign * n;
        }
        for (block, n) in &snapshot.open {
            *balance.entry(*block).or_default() -= n;
        }
        Ok((balance, below, above))
    }

    pub(crate) async fn audited(&self, snapshot: Snapshot) -> Result<Audited> {
        let stored = &snapshot.stored;
        let (mut balance, below, above) = self.balance(&snapshot).await?;
        let removed = snapshot.total('v') + self.removed_by_others(&mut balance).await?;
        let mut breaches = Vec::new();
        for (block, missing) in balance.into_iter().filter(|(_, missing)| *missing != 0) {
            breaches.push(self.breach(&snapshot, block, missing).await?);
        }
        Ok(Audited {
            name: stored.spec.name.clone(),
            counts: snapshot.counts(below + removed, above),
            breaches,
        })
    }

    /// On a stream of others, what was settled and is gone from its beginning; out of the balance.
    async fn removed_by_others(&self, balance: &mut BTreeMap<u128, i64>) -> Result<u64> {
        if !self.wire.config.form.is_foreign() {
            return Ok(0);
        }
        let page = self.log.page(0).await?;
        let first = page.first().map_or(u128::MAX, |frame| block_of(frame.head));
        let mut removed = 0;
        balance.retain(|block, missing| {
            let gone = *block <= first && *missing < 0;
            removed += if gone { missing.unsigned_abs() } else { 0 };
            !gone
        });
        Ok(removed)
    }

    async fn breach(&self, snapshot: &Snapshot, block: u128, missing: i64) -> Result<Breach> {
        let (first, last) = block_range(block);
        let stored = &snapshot.stored;
        let from = first.0.saturating_sub(1).max(stored.base);
        let mut ids = Vec::new();
        self.scan(from, last.0.min(stored.frontier), |position, slot| {
            if let Some(event) = slot.event().filter(|_| stored.matches(position, slot)) {
                ids.push(event.id().to_string());
            }
            ids.len() < MAX_IDS
        })
        .await?;
        Ok(Breach {
            first,
            last,
            missing,
            ids,
        })
    }
}

fn positions(texts: &[String]) -> Vec<u128> {
    let read = texts.iter().filter_map(|text| crate::place::from_hex(text));
    read.collect()
}
