//! What PostgreSQL does for the members of a subscription. The members' own side is the fleet crate's;
//! what must happen at once is a function in the database (`sql/functions`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::clock::Clock;
use fanfare_core::error::Result;
use fanfare_core::subscription::{OnDead, SubscriptionName, SubscriptionSpec};
use fanfare_fleet::{
    Answer, Ask, Engine, FleetConsumer, Granted, How, Page, Run, Slot, Stored, neighbours,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::connect::Database;
use crate::error::unexpected;
use crate::log::Log;
use crate::loss;
use crate::row::Row;
use crate::subscription::{self, narrow, wide};

/// Rows of the log read ahead at once.
const PAGE: usize = 1_000;

/// A member of a subscription.
pub(crate) type PostgresConsumer = FleetConsumer<Desk>;

/// Where members of this process get and settle deliveries.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) database: Arc<Database>,
    pub(crate) log: Arc<Log>,
    /// When each subscription was created, and up to where it had settled everything when last asked.
    pub(crate) settled: Mutex<BTreeMap<String, (i64, i64)>>,
}

impl Page for Row {
    fn after(&self, position: u128) -> impl Iterator<Item = (u128, &Slot)> + Send {
        let own = wide(self.position);
        (own > position).then_some((own, &self.slot)).into_iter()
    }

    fn last(&self) -> u128 {
        wide(self.position)
    }

    fn end(&self) -> u128 {
        // A position without an event may be drawn again after a crash: only what was seen counts.
        wide(self.position)
    }
}

#[async_trait]
impl Engine for Desk {
    type Page = Row;

    fn clock(&self) -> &Clock {
        &self.database.config.clock
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
        bodies(&self.database, &self.log, name, positions).await
    }

    async fn load(&self, name: &SubscriptionName) -> Result<Option<Stored>> {
        subscription::load(&self.database, name).await
    }

    async fn restore(&self, stored: &Stored) -> Result<()> {
        loss::restore(self, stored).await
    }

    async fn claim(&self, ask: &Ask<'_>) -> Result<Answer> {
        let Ask { stored, fresh, .. } = ask;
        let ordered = stored.spec.ordered;
        let (mut firsts, mut counts, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        if ordered {
            for (position, slot) in *fresh {
                firsts.push(narrow(*position));
                let key = slot.event().and_then(|event| event.key());
                keys.push(text(key.unwrap_or_default()));
            }
        } else {
            for (first, count) in neighbours(fresh) {
                firsts.push(narrow(first));
                counts.push(i32::try_from(count).unwrap_or(i32::MAX));
            }
        }
        let rows = self
            .database
            .write(
                "SELECT outcome, granted, place, next, taken, positions, tries
                 FROM ff.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                &[
                    &stored.spec.name.as_str(),
                    &ask.member.cast_signed(),
                    &ask.external,
                    &stored.version.cast_signed(),
                    &narrow(ask.frontier),
                    &narrow(ask.reached),
                    &i32::try_from(ask.max).unwrap_or(i32::MAX),
                    &ordered,
                    &firsts,
                    &counts,
                    &keys,
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| unexpected("claim"))?;
        read_claim(row).map_err(|_| unexpected("claim"))
    }

    async fn bury(&self, spec: &SubscriptionSpec, dead: &[(u128, Vec<u8>)]) -> Result<()> {
        let positions: Vec<i64> = dead.iter().map(|(position, _)| narrow(*position)).collect();
        let bodies: Vec<&[u8]> = dead.iter().map(|(_, body)| body.as_slice()).collect();
        self.database
            .write(
                "SELECT ff.bury($1, $2, $3, $4, $5, $6)",
                &[
                    &spec.name.as_str(),
                    &nanos(self.clock()),
                    &spec.dead_letter,
                    &parks(spec),
                    &positions,
                    &bodies,
                ],
            )
            .await?;
        Ok(())
    }

    async fn settle(&self, spec: &SubscriptionSpec, runs: &[Run]) -> Result<Option<Vec<String>>> {
        let mut all = Runs::with_capacity(runs.len());
        for run in runs {
            all.push(run);
        }
        let rows = self
            .database
            .write(
                "SELECT ff.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                &[
                    &spec.name.as_str(),
                    &nanos(self.clock()),
                    &parks(spec),
                    &all.epochs,
                    &all.hows,
                    &all.firsts,
                    &all.counts,
                    &all.delays,
                    &all.reasons,
                    &all.errors,
                    &all.bodies,
                ],
            )
            .await?;
        letters(&rows)
    }

    async fn extend(
        &self,
        name: &SubscriptionName,
        runs: &[Run],
        lease: Duration,
    ) -> Result<Option<Vec<String>>> {
        let mut all = Runs::with_capacity(runs.len());
        for run in runs {
            all.push(run);
        }
        let rows = self
            .database
            .write(
                "SELECT ff.extend($1, $2, $3, $4, $5)",
                &[
                    &name.as_str(),
                    &micros(lease),
                    &all.epochs,
                    &all.firsts,
                    &all.counts,
                ],
            )
            .await?;
        letters(&rows)
    }

    async fn release(&self, name: &SubscriptionName, member: u64) -> Result<()> {
        self.database
            .write(
                "SELECT ff.release($1, $2)",
                &[&name.as_str(), &member.cast_signed()],
            )
            .await?;
        Ok(())
    }

    async fn end(&self, name: &SubscriptionName) -> Result<()> {
        self.database
            .write("SELECT ff.remove($1, NULL)", &[&name.as_str()])
            .await?;
        Ok(())
    }

    async fn say_alive(&self, name: &SubscriptionName) -> Result<()> {
        self.database
            .write("SELECT ff.alive($1)", &[&name.as_str()])
            .await?;
        Ok(())
    }
}

/// Runs, member by member.
#[derive(Default)]
struct Runs<'a> {
    epochs: Vec<i64>,
    hows: Vec<&'static str>,
    firsts: Vec<i64>,
    counts: Vec<i32>,
    delays: Vec<i64>,
    reasons: Vec<Cow<'a, str>>,
    errors: Vec<Cow<'a, str>>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> Runs<'a> {
    fn with_capacity(count: usize) -> Self {
        Self {
            epochs: Vec::with_capacity(count),
            firsts: Vec::with_capacity(count),
            ..Self::default()
        }
    }

    fn push(&mut self, run: &'a Run) {
        let (letter, delay, reason, error, body) = match &run.how {
            How::Ack => ("a", 0, "", "", &[][..]),
            How::Drop => ("d", 0, "", "", &[][..]),
            How::Release => ("v", 0, "", "", &[][..]),
            How::Retry(after, error) => ("r", micros(*after), "", error.as_str(), &[][..]),
            How::Dead {
                reason,
                error,
                body,
            } => ("x", 0, reason.as_str(), error.as_str(), body.as_slice()),
        };
        self.epochs
            .push(i64::try_from(run.epoch).unwrap_or(i64::MAX));
        self.hows.push(letter);
        self.firsts.push(narrow(run.first));
        self.counts
            .push(i32::try_from(run.count).unwrap_or(i32::MAX));
        self.delays.push(delay);
        self.reasons.push(text(reason));
        self.errors.push(text(error));
        self.bodies.push(body);
    }
}

fn read_claim(row: &tokio_postgres::Row) -> Result<Answer, tokio_postgres::Error> {
    match row.try_get(0)? {
        "ok" => {}
        "gone" => return Ok(Answer::Gone),
        "stale" => return Ok(Answer::Stale),
        _ => {
            let positions: Vec<i64> = row.try_get(5)?;
            return Ok(Answer::Bury(positions.into_iter().map(wide).collect()));
        }
    }
    let positions: Vec<i64> = row.try_get(5)?;
    let tries: Vec<i32> = row.try_get(6)?;
    let due = positions.into_iter().map(wide);
    let tries = tries.into_iter().map(|n| u32::try_from(n).unwrap_or(1));
    Ok(Answer::Granted(Granted {
        epoch: row.try_get::<_, i64>(1)?.cast_unsigned(),
        frontier: wide(row.try_get(2)?),
        next: u64::try_from(row.try_get::<_, i64>(3)?)
            .ok()
            .map(Duration::from_micros),
        fresh: usize::try_from(row.try_get::<_, i32>(4)?).unwrap_or(0),
        due: due.zip(tries).collect(),
    }))
}

fn letters(rows: &[tokio_postgres::Row]) -> Result<Option<Vec<String>>> {
    let row = rows.first().ok_or_else(|| unexpected("settle"))?;
    row.try_get(0).map_err(|_| unexpected("settle"))
}

fn parks(spec: &SubscriptionSpec) -> bool {
    spec.on_dead == OnDead::Park
}

/// PostgreSQL's texts hold everything but the character 0.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

pub(crate) fn nanos(clock: &Clock) -> i64 {
    i64::try_from(clock.now().as_nanos()).unwrap_or(i64::MAX)
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What is to be delivered at these positions: the edited body of a redriven event, or the log's.
async fn bodies(
    database: &Database,
    log: &Log,
    name: &SubscriptionName,
    positions: &[u128],
) -> Result<BTreeMap<u128, Slot>> {
    if positions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut wanted: Vec<i64> = positions.iter().map(|position| narrow(*position)).collect();
    let own = database
        .read(
            "SELECT pos, body FROM ff.story WHERE pos = ANY ($2) AND body IS NOT NULL
             AND sub = (SELECT id FROM ff.subscription WHERE name = $1)",
            &[&name.as_str(), &wanted],
        )
        .await?;
    let mut found = BTreeMap::new();
    for row in &own {
        let (position, body): (i64, Vec<u8>) = (row.get(0), row.get(1));
        found.insert(wide(position), Slot::decode(Bytes::from(body)));
    }
    wanted.retain(|position| !found.contains_key(&wide(*position)));
    let logged = log.find(&wanted).await?;
    found.extend(
        logged
            .into_iter()
            .map(|(at, row)| (wide(at), row.slot.clone())),
    );
    Ok(found)
}
