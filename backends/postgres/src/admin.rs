//! Operating subscriptions. What must happen at once is a function in the database; counting reads the
//! log and the counters in one snapshot.

mod audit;

use async_trait::async_trait;
use fanfare_core::admin::{
    Admin, Audited, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::advice::Advice;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::{texts, unknown, write_spec};
use tokio_postgres::types::FromSql;

use crate::advice;
use crate::backend::PostgresBackend;
use crate::connect::{Database, Param};
use crate::consume::{micros, nanos};
use crate::error::unexpected;
use crate::loss;
use crate::row::get;
use crate::subscription::{self, narrow, types, wide};

/// How often an operation is tried again when the subscription changed under it.
const TRIES: usize = 20;
/// How long the server may take to show that it is well.
const HEALTH: std::time::Duration = std::time::Duration::from_secs(1);

impl Database {
    /// The first column of the only row.
    pub(crate) async fn one<T: for<'a> FromSql<'a>>(
        &self,
        text: &'static str,
        params: &[Param<'_>],
    ) -> Result<T> {
        let rows = self.write(text, params).await?;
        let row = rows.first().ok_or_else(|| unexpected("an operation"))?;
        row.try_get(0).map_err(|_| unexpected("an operation"))
    }
}

impl PostgresBackend {
    /// Behind everything committed before this call. The newest position will not do: transactions
    /// that drew earlier ones may still commit, and their events are new to a new subscription.
    async fn end(&self) -> Result<i64> {
        self.log.caught_up().await
    }

    /// The position before the first event recorded at or after `time`.
    async fn before(&self, time: Timestamp) -> Result<i64> {
        let at = server_time(time);
        let before: i64 = self
            .database
            .one(
                "SELECT ff.before('epoch'::timestamptz + $1::bigint * interval '1 microsecond')",
                &[&at],
            )
            .await?;
        Ok(before.min(self.end().await?))
    }

    async fn place_of(&self, to: &SeekTo) -> Result<i64> {
        Ok(match to {
            SeekTo::Earliest => 0,
            SeekTo::Latest => self.end().await?,
            SeekTo::Time(time) => self.before(*time).await?,
            SeekTo::After(position) => narrow(position.0),
            SeekTo::Event(id) => self.find_only(id).await? - 1,
        })
    }

    async fn start_of(&self, start: Start) -> Result<i64> {
        Ok(match start {
            Start::Earliest => 0,
            Start::Latest => self.end().await?,
            Start::Time(time) => self.before(time).await?,
            Start::After(position) => narrow(position.0),
        })
    }

    /// The position of the only event with this id.
    async fn find_only(&self, id: &str) -> Result<i64> {
        let found = fanfare_core::history::History::event(self, id, None).await?;
        match &found[..] {
            [one] => Ok(narrow(one.position.0)),
            [] => Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no event `{}`", id.escape_debug()),
            )),
            _ => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "several sources have an event `{}`: seek to a position",
                    id.escape_debug()
                ),
            )),
        }
    }
}

#[async_trait]
impl Admin for PostgresBackend {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        self.check_open()?;
        spec.check()?;
        for _ in 0..TRIES {
            let there = subscription::load(&self.database, &spec.name).await?;
            let (mut version, mut wanted, mut after) = (None, spec.clone(), 0);
            if let Some(there) = &there {
                there.spec.agrees_with(spec)?;
                wanted.start = there.spec.start;
                if wanted == there.spec {
                    return Ok(Put::Unchanged);
                }
                version = Some(there.version.cast_signed());
            } else {
                after = self.start_of(spec.start).await?;
            }
            let done: String = self
                .database
                .one(
                    "SELECT ff.put($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb, $10)",
                    &[
                        &spec.name.as_str(),
                        &version,
                        &write_spec(&wanted)?,
                        &micros(wanted.lease),
                        &i32::try_from(wanted.retry.max_attempts).unwrap_or(i32::MAX),
                        &after,
                        &nanos(&self.database.config.clock),
                        &wanted.ephemeral,
                        &serde_json::Value::from(texts(&wanted.patterns)).to_string(),
                        &types(&wanted.patterns),
                    ],
                )
                .await?;
            match done.as_str() {
                "created" => return Ok(Put::Created),
                "changed" => return Ok(Put::Changed),
                _ => {}
            }
        }
        Err(busy(&spec.name))
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        self.check_open()?;
        for _ in 0..TRIES {
            let there = subscription::load(&self.database, name).await?;
            let there = there.ok_or_else(|| unknown(name))?;
            let spec = SubscriptionSpec {
                patterns: patterns.clone(),
                ..there.spec
            };
            let end = self.end().await?;
            let done: String = self
                .database
                .one(
                    "SELECT ff.patterns($1, $2, $3, $4, $5::text::jsonb, $6)",
                    &[
                        &name.as_str(),
                        &there.version.cast_signed(),
                        &end,
                        &write_spec(&spec)?,
                        &serde_json::Value::from(texts(&patterns)).to_string(),
                        &types(&patterns),
                    ],
                )
                .await?;
            if done == "changed" {
                return Ok(());
            }
        }
        Err(busy(name))
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        self.check_open()?;
        if !force {
            let counts = self.get(name).await?.counts;
            if counts.unsettled() > 0 || counts.dead > 0 {
                return Err(counts.refuse_deletion(name));
            }
        }
        let deleted = self
            .database
            .one("SELECT ff.remove($1, NULL)", &[&name.as_str()])
            .await?;
        if deleted { Ok(()) } else { Err(unknown(name)) }
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        self.check_open()?;
        let mut found = self.infos(Some(name)).await?;
        found.pop().ok_or_else(|| unknown(name))
    }

    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        self.check_open()?;
        let there = subscription::load(&self.database, name).await?;
        Ok(there.ok_or_else(|| unknown(name))?.spec)
    }

    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        self.check_open()?;
        self.infos(None).await
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.check_open()?;
        let there = self
            .database
            .one("SELECT ff.pause($1, $2)", &[&name.as_str(), &paused])
            .await?;
        if there { Ok(()) } else { Err(unknown(name)) }
    }

    async fn seek(&self, name: &SubscriptionName, to: &SeekTo, dry_run: bool) -> Result<Sought> {
        self.check_open()?;
        let before = subscription::load(&self.database, name).await?;
        let before = before.ok_or_else(|| unknown(name))?;
        let place = self.place_of(to).await?;
        let place: Option<i64> = if dry_run {
            self.database
                .one("SELECT least($1::bigint, ff.head())", &[&place])
                .await?
        } else {
            self.database
                .one("SELECT ff.seek($1, $2)", &[&name.as_str(), &place])
                .await?
        };
        let place = place.ok_or_else(|| unknown(name))?;
        let events: i64 = self
            .database
            .one(
                "SELECT coalesce(sum(m.events), 0)::bigint
                 FROM ff.subscription s, ff.matching(s.interest, $2, NULL) m
                 WHERE s.name = $1",
                &[&name.as_str(), &place],
            )
            .await?;
        Ok(Sought {
            from: Position(before.frontier),
            to: Position(wide(place)),
            events: u64::try_from(events).unwrap_or(0),
        })
    }

    async fn audit(&self, name: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        self.check_open()?;
        let audited = self.audited(name).await?;
        match name {
            Some(name) if audited.is_empty() => Err(unknown(name)),
            _ => Ok(audited),
        }
    }

    async fn stats(&self) -> Result<StreamStats> {
        self.check_open()?;
        loss::look(&self.database).await?;
        let rows = self
            .database
            .read("SELECT v.events, v.bytes, first, last, times, l.events FROM ff.volume() v, ff.losses() l", &[])
            .await?;
        let row = rows.first().ok_or_else(|| unexpected("stats"))?;
        let position = |at: usize| Ok(get::<Option<i64>>(row, at)?.map(|p| Position(wide(p))));
        Ok(StreamStats {
            events: get::<i64>(row, 0)?.cast_unsigned(),
            bytes: get::<i64>(row, 1)?.cast_unsigned(),
            first: position(2)?,
            last: position(3)?,
            losses: get::<i64>(row, 4)?.cast_unsigned(),
            lost: get::<i64>(row, 5)?.cast_unsigned(),
        })
    }

    async fn health(&self) -> Health {
        let trouble = match self.check_open() {
            Err(error) => Some(error.to_string()),
            Ok(()) => self.log.trouble(),
        };
        if let Some(detail) = trouble {
            return Health { ok: false, detail };
        }
        let patience = self.database.config.clock.sleep(HEALTH);
        tokio::select! {
            answer = self.log.stall() => match answer {
                Ok(Some(detail)) => Health { ok: true, detail },
                Ok(None) => Health { ok: true, detail: format!("stream {}", self.database.config.stream) },
                Err(error) => Health { ok: false, detail: error.to_string() },
            },
            () = patience => Health { ok: false, detail: "postgres does not answer".into() },
        }
    }

    async fn advice(&self) -> Result<Vec<Advice>> {
        self.check_open()?;
        advice::of(&self.database).await
    }
}

/// A time in microseconds that the server can hold; what lies beyond lies beyond every event.
pub(crate) fn server_time(time: Timestamp) -> i64 {
    const EARLIEST: i64 = -60_000_000_000_000_000;
    const LATEST: i64 = 250_000_000_000_000_000;
    time.as_micros().clamp(EARLIEST, LATEST)
}

fn busy(name: &SubscriptionName) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("subscription `{name}` was changed by others all the time"),
    )
}
