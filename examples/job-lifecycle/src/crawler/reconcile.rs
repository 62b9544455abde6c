//! Compares jobs with the sources that there are, and mends what differs. Events keep them in step;
//! this is for when events were off, or somebody deleted the stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanfare::core::clock::Clock;
use reqwest::Client;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::jobs::{Change, Job, Jobs, Status};
use crate::Failure;
use crate::source_manager::api::Page;
use crate::source_manager::sources::Source;

/// How long the source-manager may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// What was found and mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repairs {
    /// Sources that had no job.
    pub missing: u64,
    /// Jobs whose source is gone.
    pub orphaned: u64,
    /// Jobs that were not what their source asks for.
    pub differing: u64,
}

/// How the job of one source is wrong.
#[derive(Debug, Clone, PartialEq)]
enum Wrong {
    Missing(Source),
    Orphaned(Job),
    Differing(Source),
}

/// Who mends.
#[derive(Debug, Clone)]
pub struct Reconciler {
    jobs: Jobs,
    client: Client,
    source_manager: String,
    grace: Duration,
    clock: Clock,
    /// Since this process began.
    repaired: Arc<Mutex<Repairs>>,
}

impl Reconciler {
    /// Asks the source-manager at this URL. What differs must differ for `grace`: its event may be on
    /// its way.
    pub fn new(jobs: Jobs, source_manager: &str, grace: Duration) -> Result<Self, Failure> {
        Ok(Self {
            jobs,
            client: Client::builder().timeout(LIMIT).build()?,
            source_manager: source_manager.trim_end_matches('/').to_owned(),
            grace,
            clock: Clock::system(),
            repaired: Arc::default(),
        })
    }

    /// What was mended since this process began.
    pub fn repaired(&self) -> Repairs {
        *self.repaired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks twice, and mends what is wrong both times.
    pub async fn reconcile(&self) -> Result<Repairs, Failure> {
        let mut repairs = Repairs::default();
        let first = self.look().await?;
        if first.is_empty() {
            return Ok(repairs);
        }
        self.clock.sleep(self.grace).await;
        for (source, wrong) in self.look().await? {
            if first.get(&source) == Some(&wrong) {
                self.mend(source, wrong, &mut repairs).await?;
            }
        }
        if repairs != Repairs::default() {
            tracing::warn!(?repairs, "jobs were not what their sources asked for");
        }
        Ok(repairs)
    }

    async fn mend(&self, source: Uuid, wrong: Wrong, now: &mut Repairs) -> Result<(), Failure> {
        let (at, change) = match &wrong {
            Wrong::Missing(is) | Wrong::Differing(is) => (is.updated_at, found(is)),
            Wrong::Orphaned(_) => (self.clock.now(), Change::Gone),
        };
        self.jobs.apply(None, source, at, |_| Ok(change)).await?;
        let mut ever = self.repaired.lock().unwrap_or_else(PoisonError::into_inner);
        for repairs in [now, &mut ever] {
            match &wrong {
                Wrong::Missing(_) => repairs.missing += 1,
                Wrong::Orphaned(_) => repairs.orphaned += 1,
                Wrong::Differing(_) => repairs.differing += 1,
            }
        }
        Ok(())
    }

    async fn look(&self) -> Result<BTreeMap<Uuid, Wrong>, Failure> {
        let mut wrong = BTreeMap::new();
        let mut jobs = BTreeMap::new();
        for job in self.jobs.list(None).await? {
            if let (true, Some(source)) = (job.auto_managed, job.source_id) {
                jobs.insert(source, job);
            }
        }
        for source in self.sources().await? {
            let id = source.id;
            match jobs.remove(&id) {
                None if source.details.enabled => wrong.insert(id, Wrong::Missing(source)),
                Some(job) if differs(&job, &source) => wrong.insert(id, Wrong::Differing(source)),
                _ => None,
            };
        }
        wrong.extend(
            jobs.into_iter()
                .map(|(source, job)| (source, Wrong::Orphaned(job))),
        );
        Ok(wrong)
    }

    async fn sources(&self) -> Result<Vec<Source>, Failure> {
        let url = format!("{}/api/v1/sources", self.source_manager);
        let (mut sources, mut after) = (Vec::new(), None::<Uuid>);
        loop {
            let request = self.client.get(&url).query(&[("after", after)]);
            let page: Page = request.send().await?.error_for_status()?.json().await?;
            sources.extend(page.sources);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(sources),
            }
        }
    }
}

fn found(source: &Source) -> Change {
    Change::Is {
        // What people paused stays so; what should not run does not.
        toggled: !source.details.enabled,
        details: source.details.clone(),
    }
}

fn differs(job: &Job, source: &Source) -> bool {
    let details = &source.details;
    job.url != details.url
        || job.name != details.name
        || job.rate_limit != details.rate_limit.0
        || job.max_depth != details.max_depth
        || job.priority != details.priority.number()
        || (!details.enabled && job.status == Status::Active)
}
