//! What there is, counted: for `/api/v1/jobs/stats`, and as Prometheus text beside what the bus counts.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use serde::{Deserialize, Serialize};
use tokio_postgres::types::Json;

use super::jobs::Jobs;
use super::reconcile::Repairs;
use crate::Failure;

/// Rows by what they say of themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Jobs by status.
    pub jobs: BTreeMap<String, u64>,
    /// Jobs that follow a source.
    pub auto_managed: u64,
    /// Active jobs whose time has come.
    pub due: u64,
    /// Executions by status.
    pub executions: BTreeMap<String, u64>,
    /// Pages of all executions.
    pub pages: u64,
    /// Events whose effect is in the database, and remembered.
    pub processed_events: u64,
}

impl Jobs {
    /// Counts.
    pub async fn counts(&self) -> Result<Counts, Failure> {
        let sql = "
            SELECT jsonb_build_object(
                'jobs', (SELECT coalesce(jsonb_object_agg(status, n), '{}')
                         FROM (SELECT status, count(*) AS n FROM jobs GROUP BY status) AS by_status),
                'auto_managed', (SELECT count(*) FROM jobs WHERE auto_managed),
                'due', (SELECT count(*) FROM jobs WHERE status = 'active' AND next_run_at <= now()),
                'executions', (SELECT coalesce(jsonb_object_agg(status, n), '{}')
                               FROM (SELECT status, count(*) AS n FROM executions GROUP BY status) AS by_status),
                'pages', (SELECT coalesce(sum(pages), 0) FROM executions),
                'processed_events', (SELECT count(*) FROM processed_events)
            )";
        let row = self.pool.get().await?.query_one(sql, &[]).await?;
        let Json(counts) = row.try_get(0)?;
        Ok(counts)
    }
}

/// As Prometheus text.
pub fn render(counts: &Counts, repairs: Repairs) -> String {
    let mut text = String::new();
    for (name, by_status) in [
        ("crawler_jobs", &counts.jobs),
        ("crawler_executions", &counts.executions),
    ] {
        family(&mut text, name, "gauge", "status", by_status);
    }
    let Repairs {
        missing,
        orphaned,
        differing,
    } = repairs;
    let repaired = [
        ("missing", missing),
        ("orphaned", orphaned),
        ("differing", differing),
    ];
    family(
        &mut text,
        "crawler_repairs_total",
        "counter",
        "kind",
        repaired,
    );
    let _ = writeln!(
        text,
        "# TYPE crawler_jobs_due gauge\ncrawler_jobs_due {}",
        counts.due
    );
    let _ = writeln!(
        text,
        "# TYPE crawler_pages gauge\ncrawler_pages {}",
        counts.pages
    );
    text
}

fn family(
    text: &mut String,
    name: &str,
    kind: &str,
    label: &str,
    samples: impl IntoIterator<Item = (impl Display, impl Display)>,
) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "# TYPE {name} {kind}");
    for (value, n) in samples {
        let _ = writeln!(text, "{name}{{{label}=\"{value}\"}} {n}");
    }
}
