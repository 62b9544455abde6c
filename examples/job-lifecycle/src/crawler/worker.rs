//! Runs jobs that are due, and records how it went. A crawler that dies leaves its job to another
//! within a minute.

use std::time::Duration;

use fanfare::core::clock::Clock;
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use super::fetch::Crawl;
use super::jobs::{Job, Jobs, job};
use crate::Failure;
use crate::schedule::after_failures;

/// Jobs that one crawler runs at once.
pub const WORKERS: usize = 4;
/// How often a worker without work looks for some, if nobody tells it.
const LOOK: Duration = Duration::from_secs(1);

/// Runs one job after the other until `stop`.
pub async fn work(jobs: Jobs, mut stop: watch::Receiver<bool>) {
    let clock = Clock::system();
    while !*stop.borrow() {
        let told = jobs.due.notified();
        let next = match jobs.claim().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "cannot look for jobs");
                None
            }
        };
        let Some((job, execution)) = next else {
            tokio::select! {
                () = told => {}
                () = clock.sleep(LOOK) => {}
                _ = stop.changed() => {}
            }
            continue;
        };
        if let Err(error) = jobs.run(&job, execution, &mut stop).await {
            // Its claim ends by itself.
            tracing::warn!(job_id = %job.id, %error, "a run was not recorded");
        }
    }
}

/// How a run ended.
enum Ended {
    Well,
    Badly(Failure),
    /// Somebody paused or deleted the job, or this process ends.
    Early,
}

impl Jobs {
    /// The latest runs of a job, the newest first.
    pub async fn executions(&self, id: Uuid) -> Result<Vec<Value>, Failure> {
        let sql = "SELECT to_jsonb(executions) FROM executions WHERE job_id = $1 \
                   ORDER BY started_at DESC LIMIT 100";
        let rows = self.pool.get().await?.query(sql, &[&id]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The most urgent job that is due, for a minute, with its new execution.
    async fn claim(&self) -> Result<Option<(Job, Uuid)>, Failure> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let due = "
            UPDATE jobs SET last_run_at = now(), running_until = now() + interval '1 minute'
            WHERE id = (
                SELECT id FROM jobs
                WHERE status = 'active' AND next_run_at <= now()
                  AND (running_until IS NULL OR running_until < now())
                ORDER BY priority DESC, next_run_at LIMIT 1 FOR UPDATE SKIP LOCKED
            )
            RETURNING to_jsonb(jobs)";
        let Some(row) = transaction.query_opt(due, &[]).await? else {
            return Ok(None);
        };
        let job = job(&row)?;
        // Of a crawler that died.
        let left = "UPDATE executions SET status = 'interrupted', finished_at = now() \
                    WHERE job_id = $1 AND status = 'running'";
        transaction.execute(left, &[&job.id]).await?;
        let begun = "INSERT INTO executions (job_id) VALUES ($1) RETURNING id";
        let execution = transaction.query_one(begun, &[&job.id]).await?.try_get(0)?;
        transaction.commit().await?;
        Ok(Some((job, execution)))
    }

    async fn run(
        &self,
        job: &Job,
        execution: Uuid,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        let mut crawl = match Crawl::new(&job.url, job.rate_limit, job.max_depth) {
            Ok(crawl) => crawl,
            Err(error) => return self.finish(job, execution, 0, Ended::Badly(error)).await,
        };
        let ended = loop {
            let page = tokio::select! {
                page = crawl.next_page() => page,
                _ = stop.changed() => break Ended::Early,
            };
            match page {
                Ok(true)
                    if self
                        .is_still_wanted(job.id, execution, crawl.pages())
                        .await? => {}
                Ok(true) => break Ended::Early,
                Ok(false) => break Ended::Well,
                Err(error) => break Ended::Badly(error),
            }
        };
        self.finish(job, execution, crawl.pages(), ended).await
    }

    /// Says that the run goes on, and asks whether it should.
    async fn is_still_wanted(
        &self,
        id: Uuid,
        execution: Uuid,
        pages: u32,
    ) -> Result<bool, Failure> {
        let client = self.pool.get().await?;
        let record = "UPDATE executions SET pages = $2 WHERE id = $1 AND status = 'running'";
        let ours = client
            .execute(record, &[&execution, &i64::from(pages)])
            .await?;
        let extend = "UPDATE jobs SET running_until = now() + interval '1 minute' \
                      WHERE id = $1 AND status = 'active'";
        Ok(ours == 1 && client.execute(extend, &[&id]).await? == 1)
    }

    async fn finish(
        &self,
        job: &Job,
        execution: Uuid,
        pages: u32,
        ended: Ended,
    ) -> Result<(), Failure> {
        let (status, failures, error) = match ended {
            Ended::Well => ("succeeded", 0, None),
            Ended::Badly(error) => ("failed", job.failures + 1, Some(error.to_string())),
            Ended::Early => ("interrupted", job.failures, None),
        };
        tracing::info!(job_id = %job.id, url = job.url, pages, error, status, "crawled");
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let record = "UPDATE executions SET status = $2, finished_at = now(), pages = $3, error = $4 \
                      WHERE id = $1 AND status = 'running'";
        let pages = i64::from(pages);
        let ours = transaction
            .execute(record, &[&execution, &status, &pages, &error])
            .await?;
        if ours == 1 && status == "interrupted" {
            let release = "UPDATE jobs SET running_until = NULL WHERE id = $1";
            transaction.execute(release, &[&job.id]).await?;
        } else if ours == 1 {
            let interval = Duration::from_secs_f64(job.interval_seconds);
            let wait = after_failures(interval, failures).as_secs_f64();
            let next = "UPDATE jobs SET running_until = NULL, failures = $2, \
                        next_run_at = now() + make_interval(secs => $3) WHERE id = $1";
            let failures = i32::try_from(failures)?;
            transaction
                .execute(next, &[&job.id, &failures, &wait])
                .await?;
        }
        Ok(transaction.commit().await?)
    }
}
