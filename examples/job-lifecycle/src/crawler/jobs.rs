//! The jobs in PostgreSQL: those that follow a source, and those that people made, which no event
//! touches. Running them is [`super::worker`]'s.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool, Transaction};
use fanfare::core::timestamp::Timestamp;
use fanfare::core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, ToSql};
use uuid::Uuid;

use crate::Failure;
use crate::events::SourceDetails;
use crate::schedule::{first_delay, interval};

/// How long the ids of processed events, and what was deleted, are remembered.
const REMEMBERED: Duration = Duration::from_hours(168);

/// A job as its table has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name in the API.
    pub id: Uuid,
    /// The source that it crawls; none where a person made it for no source.
    pub source_id: Option<Uuid>,
    /// Whether it follows that source.
    pub auto_managed: bool,
    /// For people.
    pub name: String,
    /// Where crawling begins.
    pub url: String,
    /// Pages per second.
    pub rate_limit: u32,
    /// How many links from the first page the last one may be.
    pub max_depth: u32,
    /// 100, 75, 50 or 25.
    pub priority: i32,
    /// Whether it is run when due.
    pub status: Status,
    /// Failed runs in a row.
    pub failures: u32,
    /// Between two runs, without failures.
    pub interval_seconds: f64,
    /// When it is due.
    pub next_run_at: Timestamp,
    /// When its last run began.
    pub last_run_at: Option<Timestamp>,
    /// Until when a crawler has it, unless that says otherwise before.
    pub running_until: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Whether a job is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// When it is due.
    Active,
    /// Not until it is resumed.
    Paused,
}

/// What is known of a source after an event.
#[derive(Debug, Clone)]
pub enum Change {
    /// It is so; `toggled` where that decides whether its job runs.
    Is {
        /// Everything about it.
        details: SourceDetails,
        /// A job that people paused stays so otherwise.
        toggled: bool,
    },
    /// It was deleted.
    Gone,
    /// Too little to make a job of.
    Unknown,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The jobs are as it says.
    Now,
    /// They were before.
    Before,
    /// A later event came earlier.
    Stale,
    /// It says too little of a source that nobody knows.
    Unknown,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs {
    pub(super) pool: Pool,
    /// Told when a job may be due.
    pub(super) due: Arc<Notify>,
}

impl Jobs {
    /// In this database.
    pub fn new(pool: Pool) -> Self {
        let due = Arc::default();
        Self { pool, due }
    }

    /// Changes what is known of a source and the job that follows it, and notes that the event was
    /// processed: all of it or nothing. Reconciliation has no event.
    pub async fn apply(
        &self,
        event: Option<Uuid>,
        source: Uuid,
        at: Timestamp,
        change: impl FnOnce(Option<SourceDetails>) -> Result<Change, Failure> + Send,
    ) -> Result<Applied, Failure> {
        // A database that is away is no failure of the event: it is held until then.
        let mut client = fanfare::when_reachable(|| self.connect()).await?;
        let transaction = client.transaction().await?;
        let processed =
            "INSERT INTO processed_events (event_id) VALUES ($1) ON CONFLICT DO NOTHING";
        if let Some(event) = event
            && transaction.execute(processed, &[&event]).await? == 0
        {
            return Ok(Applied::Before);
        }
        let applied = change_source(&transaction, source, at, change).await?;
        transaction.commit().await?;
        self.due.notify_waiters();
        Ok(applied)
    }

    async fn connect(&self) -> fanfare::core::Result<Object> {
        let connected = self.pool.get().await;
        connected.map_err(|error| Error::new(ErrorKind::Unavailable, "no database").because(error))
    }

    /// Every job, of one source or of all.
    pub async fn list(&self, source: Option<Uuid>) -> Result<Vec<Job>, Failure> {
        let sql = "SELECT to_jsonb(jobs) FROM jobs WHERE $1::uuid IS NULL OR source_id = $1 \
                   ORDER BY created_at, id LIMIT 10000";
        let rows = self.pool.get().await?.query(sql, &[&source]).await?;
        rows.iter().map(job).collect()
    }

    /// One of them.
    pub async fn get(&self, id: Uuid) -> Result<Option<Job>, Failure> {
        let sql = "SELECT to_jsonb(jobs) FROM jobs WHERE id = $1";
        let row = self.pool.get().await?.query_opt(sql, &[&id]).await?;
        row.as_ref().map(job).transpose()
    }

    /// Makes one by hand.
    pub async fn create(
        &self,
        source: Option<Uuid>,
        details: &SourceDetails,
    ) -> Result<Job, Failure> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let made = insert(&transaction, source, false, details).await?;
        transaction.commit().await?;
        self.due.notify_waiters();
        Ok(made)
    }

    /// Pauses or resumes one.
    pub async fn set_paused(&self, id: Uuid, paused: bool) -> Result<Option<Job>, Failure> {
        let status = if paused { "paused" } else { "active" };
        let sql = "UPDATE jobs SET status = $2 WHERE id = $1 RETURNING to_jsonb(jobs)";
        let row = self
            .pool
            .get()
            .await?
            .query_opt(sql, &[&id, &status])
            .await?;
        self.due.notify_waiters();
        row.as_ref().map(job).transpose()
    }

    /// Makes one due now.
    pub async fn force_run(&self, id: Uuid) -> Result<Option<Job>, Failure> {
        let sql = "UPDATE jobs SET next_run_at = now() WHERE id = $1 AND status = 'active' \
                   RETURNING to_jsonb(jobs)";
        let row = self.pool.get().await?.query_opt(sql, &[&id]).await?;
        self.due.notify_waiters();
        row.as_ref().map(job).transpose()
    }

    /// Forgets what nobody asks for any more.
    pub async fn clean_up(&self) -> Result<u64, Failure> {
        let client = self.pool.get().await?;
        let seconds = REMEMBERED.as_secs_f64();
        let events =
            "DELETE FROM processed_events WHERE processed_at < now() - make_interval(secs => $1)";
        let gone = "DELETE FROM known_sources \
                    WHERE details IS NULL AND changed_at < now() - make_interval(secs => $1)";
        Ok(client.execute(events, &[&seconds]).await? + client.execute(gone, &[&seconds]).await?)
    }
}

async fn change_source(
    transaction: &Transaction<'_>,
    source: Uuid,
    at: Timestamp,
    change: impl FnOnce(Option<SourceDetails>) -> Result<Change, Failure> + Send,
) -> Result<Applied, Failure> {
    // Events come one at a time for each source; reconciliation may come between.
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text, 0))";
    transaction.execute(lock, &[&source]).await?;
    let known = "SELECT details, changed_at > $2::text::timestamptz FROM known_sources WHERE source_id = $1";
    let known = transaction
        .query_opt(known, &[&source, &at.to_string()])
        .await?;
    let details = match known {
        None => None,
        Some(row) if row.try_get(1)? => return Ok(Applied::Stale),
        Some(row) => row.try_get::<_, Option<Json<SourceDetails>>>(0)?,
    };
    let (details, toggled) = match change(details.map(|Json(details)| details))? {
        Change::Is { details, toggled } => (Some(details), toggled),
        Change::Gone => (None, true),
        Change::Unknown => return Ok(Applied::Unknown),
    };
    let put = "INSERT INTO known_sources VALUES ($1, $2, $3::text::timestamptz) \
               ON CONFLICT (source_id) DO UPDATE \
               SET details = excluded.details, changed_at = excluded.changed_at";
    let json = details.as_ref().map(Json);
    transaction
        .execute(put, &[&source, &json, &at.to_string()])
        .await?;
    if let Some(details) = details {
        follow(transaction, source, &details, toggled).await?;
    } else {
        let gone = "DELETE FROM jobs WHERE source_id = $1 AND auto_managed";
        transaction.execute(gone, &[&source]).await?;
    }
    Ok(Applied::Now)
}

/// Makes the job of a source what its source asks for. One whose pace changes starts over with it.
async fn follow(
    transaction: &Transaction<'_>,
    source: Uuid,
    details: &SourceDetails,
    toggled: bool,
) -> Result<(), Failure> {
    let sql = "
        UPDATE jobs
        SET name = $2, url = $3, rate_limit = $4, max_depth = $5, priority = $6, interval_seconds = $7,
            status = CASE WHEN $9::text IS NULL THEN status ELSE $9 END,
            failures = CASE WHEN interval_seconds = $7 THEN failures ELSE 0 END,
            next_run_at = CASE
                WHEN interval_seconds = $7 AND priority = $6 THEN next_run_at
                ELSE coalesce(last_run_at + make_interval(secs => $7), created_at + make_interval(secs => $8))
            END
        WHERE source_id = $1 AND auto_managed";
    let status = toggled.then_some(if details.enabled { "active" } else { "paused" });
    let pace = Pace::of(details);
    let values: [&(dyn ToSql + Sync); 9] = [
        &source,
        &details.name,
        &details.url,
        &pace.rate,
        &pace.depth,
        &pace.priority,
        &pace.interval,
        &pace.first,
        &status,
    ];
    if transaction.execute(sql, &values).await? == 0 && details.enabled {
        insert(transaction, Some(source), true, details).await?;
    }
    Ok(())
}

async fn insert(
    transaction: &Transaction<'_>,
    source: Option<Uuid>,
    managed: bool,
    details: &SourceDetails,
) -> Result<Job, Failure> {
    let sql = "
        INSERT INTO jobs (source_id, auto_managed, name, url, rate_limit, max_depth, priority,
                          interval_seconds, next_run_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + make_interval(secs => $9))
        RETURNING to_jsonb(jobs)";
    let pace = Pace::of(details);
    let values: [&(dyn ToSql + Sync); 9] = [
        &source,
        &managed,
        &details.name,
        &details.url,
        &pace.rate,
        &pace.depth,
        &pace.priority,
        &pace.interval,
        &pace.first,
    ];
    job(&transaction.query_one(sql, &values).await?)
}

/// How a source is crawled, as columns.
struct Pace {
    rate: i64,
    depth: i64,
    priority: i32,
    /// Seconds.
    interval: f64,
    /// Seconds.
    first: f64,
}

impl Pace {
    fn of(details: &SourceDetails) -> Self {
        Self {
            rate: details.rate_limit.0.into(),
            depth: details.max_depth.into(),
            priority: details.priority.number(),
            interval: interval(details).as_secs_f64(),
            first: first_delay(details.priority).as_secs_f64(),
        }
    }
}

pub(super) fn job(row: &Row) -> Result<Job, Failure> {
    let Json(job) = row.try_get(0)?;
    Ok(job)
}
