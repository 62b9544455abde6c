//! Where every delivery is, and the proof that none is missing: the log is counted anew, block by
//! block, against what the settlements counted themselves. One statement sees one moment.

use fanfare_core::admin::{Audited, Breach, Counts, SubscriptionInfo};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::Stored;
use tokio_postgres::Row;

use crate::backend::PostgresBackend;
use crate::error::unexpected;
use crate::subscription::{self, narrow, wide};

/// The most ids that a breach names.
const MAX_IDS: usize = 1_000;
/// Rows of the log looked at in one step.
const PAGE: usize = 1_000;
/// Positions in one block, as `ff.count` has them.
const BLOCK: i64 = 1 << 16;

/// Each subscription, or the one asked for, with its counters; with its balance too where that is wanted.
const COUNTS: &str = "
    SELECT s.name, s.version, s.spec, s.interest::text, s.base, s.frontier, s.claimed, s.paused, s.created,
      t.acknowledged, t.dropped, t.dead, t.extra, t.trimmed, held.n, waiting.n + behind.n,
      (SELECT coalesce(sum(events), 0)::bigint FROM ff.matching(s.interest, s.frontier, NULL)),
      (SELECT (extract(epoch FROM recorded) * 1000000)::bigint FROM ff.log
       WHERE pos >= ff.needed_by(s) ORDER BY pos LIMIT 1),
      balance.below, balance.breaches::text
    FROM ff.subscription s LEFT JOIN LATERAL ff.balance(s) balance ON $2,
    LATERAL (SELECT coalesce(sum(acknowledged), 0)::bigint AS acknowledged,
      coalesce(sum(dropped), 0)::bigint AS dropped, coalesce(sum(dead), 0)::bigint AS dead,
      coalesce(sum(extra), 0)::bigint AS extra, coalesce(sum(trimmed), 0)::bigint AS trimmed
      FROM ff.tally WHERE sub = s.id) t,
    LATERAL (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint AS n
      FROM ff.lease, unnest(held) r WHERE sub = s.id) held,
    LATERAL (SELECT count(*) AS n FROM ff.waiting WHERE sub = s.id) waiting,
    LATERAL (SELECT count(*) AS n FROM ff.lane WHERE sub = s.id AND NOT head) behind
    WHERE s.name = $1 OR $1 IS NULL AND NOT s.ephemeral ORDER BY s.name";

/// One subscription with its counters.
struct Snapshot {
    stored: Stored,
    trimmed: u64,
    extra: u64,
    above: u64,
    counts: Counts,
    oldest: Option<Timestamp>,
}

impl Snapshot {
    fn read(row: &Row) -> Result<Self> {
        let stored = subscription::read(row)?;
        Self::parse(stored, row).ok_or_else(|| unexpected("counting"))
    }

    fn parse(stored: Stored, row: &Row) -> Option<Self> {
        let number = |at: usize| u64::try_from(row.try_get::<_, i64>(at).ok()?).ok();
        let (extra, above) = (number(12)?, number(16)?);
        let oldest: Option<i64> = row.try_get(17).ok()?;
        let counts = Counts {
            published: stored.claimed + above + extra,
            acknowledged: number(9)?,
            dropped: number(10)?,
            dead: number(11)?,
            in_flight: number(14)?,
            waiting: number(15)? + above,
        };
        Some(Self {
            stored,
            trimmed: number(13)?,
            extra,
            above,
            oldest: oldest
                .filter(|_| counts.unsettled() > 0)
                .map(Timestamp::from_micros),
            counts,
        })
    }
}

impl PostgresBackend {
    /// One subscription, or all that are not ephemeral.
    pub(super) async fn infos(
        &self,
        name: Option<&SubscriptionName>,
    ) -> Result<Vec<SubscriptionInfo>> {
        let name = name.map(SubscriptionName::as_str);
        let rows = self.database.read(COUNTS, &[&name, &false]).await?;
        let infos = rows.iter().map(|row| {
            let snapshot = Snapshot::read(row)?;
            Ok(SubscriptionInfo {
                counts: snapshot.counts,
                oldest_unsettled: snapshot.oldest,
                frontier: Position(snapshot.stored.frontier),
                created: snapshot.stored.created,
                paused: snapshot.stored.paused,
                spec: snapshot.stored.spec,
            })
        });
        infos.collect()
    }

    /// The balance of one subscription, or of all that are not ephemeral.
    pub(super) async fn audited(&self, name: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        let name = name.map(SubscriptionName::as_str);
        self.database.read("SELECT ff.mend()", &[]).await?;
        let rows = self.database.read(COUNTS, &[&name, &true]).await?;
        let mut audited = Vec::with_capacity(rows.len());
        for row in &rows {
            let snapshot = Snapshot::read(row)?;
            let (below, broken) = read_balance(row).ok_or_else(|| unexpected("counting"))?;
            let mut breaches = Vec::with_capacity(broken.len());
            for (block, missing) in broken {
                breaches.push(self.breach(&snapshot.stored, block, missing).await?);
            }
            audited.push(Audited {
                name: snapshot.stored.spec.name,
                counts: Counts {
                    published: below + snapshot.trimmed + snapshot.above + snapshot.extra,
                    ..snapshot.counts
                },
                breaches,
            });
        }
        Ok(audited)
    }

    async fn breach(&self, stored: &Stored, block: i64, missing: i64) -> Result<Breach> {
        let first = block.saturating_mul(BLOCK);
        let last = first.saturating_add(BLOCK - 1);
        let upto = last.min(narrow(stored.frontier));
        let mut at = first.saturating_sub(1).max(narrow(stored.base));
        let mut ids = Vec::new();
        while ids.len() < MAX_IDS && at < upto {
            let rows = self.log.after(at, PAGE).await?;
            let Some(newest) = rows.last() else {
                break;
            };
            at = newest.position;
            let theirs = rows.iter().filter(|row| row.position <= upto);
            let theirs = theirs.filter(|row| stored.matches(wide(row.position), &row.slot));
            ids.extend(theirs.filter_map(|row| Some(row.slot.event()?.id().to_string())));
        }
        ids.truncate(MAX_IDS);
        Ok(Breach {
            first: Position(wide(first)),
            last: Position(wide(last)),
            missing,
            ids,
        })
    }
}

/// Matching events below the frontier, and the blocks where something is missing.
fn read_balance(row: &Row) -> Option<(u64, Vec<(i64, i64)>)> {
    let below: i64 = row.try_get(18).ok()?;
    let broken = serde_json::from_str(row.try_get(19).ok()?).ok()?;
    Some((u64::try_from(below).ok()?, broken))
}
