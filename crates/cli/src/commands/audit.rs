//! `fanfare audit`: for each subscription, everything published is accounted for.

use serde::{Deserialize, Serialize};

use crate::args::Common;
use crate::failure::{Failure, Result};
use crate::output::{Output, Table, Tone};

/// Prove that no subscription lost an event.
#[derive(Debug, clap::Args)]
pub(crate) struct Audit {
    /// Only this subscription.
    subscription: Option<String>,
}

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
struct Report {
    ok: bool,
    subscriptions: Vec<Audited>,
}

/// One subscription's balance.
#[derive(Debug, Deserialize, Serialize)]
struct Audited {
    name: String,
    published: u64,
    acknowledged: u64,
    dropped: u64,
    dead: u64,
    in_flight: u64,
    waiting: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    breaches: Vec<Breach>,
}

/// Where the balance is broken.
#[derive(Debug, Deserialize, Serialize)]
struct Breach {
    first: String,
    last: String,
    missing: i64,
    #[serde(default)]
    ids: Vec<String>,
}

impl Audit {
    /// Prints the balance; fails when it is broken.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let (client, out) = (common.client()?, common.output());
        let mut report: Report = client.get(&["v1", "audit"], &[]).await?;
        if let Some(name) = &self.subscription {
            report.subscriptions.retain(|audited| audited.name == *name);
            if report.subscriptions.is_empty() {
                return Err(Failure::failed(format!("no subscription `{name}`")));
            }
            report.ok = report.subscriptions.iter().all(Audited::holds);
        }
        // The server's word is checked, not believed.
        let ok = report.ok && report.subscriptions.iter().all(Audited::holds);
        if out.json() {
            out.object(&report)?;
        } else {
            show(out, &report, ok)?;
        }
        if ok { Ok(()) } else { Err(Failure::silent()) }
    }
}

impl Audited {
    fn accounted(&self) -> u64 {
        self.acknowledged + self.dropped + self.dead + self.in_flight + self.waiting
    }

    fn holds(&self) -> bool {
        self.published == self.accounted() && self.breaches.is_empty()
    }
}

fn show(out: Output, report: &Report, ok: bool) -> Result<()> {
    let mut table = Table::new(&[
        "SUBSCRIPTION",
        "#PUBLISHED",
        "#ACKNOWLEDGED",
        "#DROPPED",
        "#DEAD",
        "#IN FLIGHT",
        "#WAITING",
        "AUDIT",
    ]);
    for audited in &report.subscriptions {
        table.row([
            &audited.name,
            &audited.published.to_string(),
            &audited.acknowledged.to_string(),
            &audited.dropped.to_string(),
            &audited.dead.to_string(),
            &audited.in_flight.to_string(),
            &audited.waiting.to_string(),
            if audited.holds() { "ok" } else { "BROKEN" },
        ]);
    }
    out.table(&table)?;
    for audited in report
        .subscriptions
        .iter()
        .filter(|audited| !audited.holds())
    {
        out.line(&out.paint(
            Tone::Bad,
            &format!(
                "{}: {} published, {} accounted for",
                audited.name,
                audited.published,
                audited.accounted()
            ),
        ))?;
        for breach in &audited.breaches {
            let what = if breach.missing < 0 {
                format!("{} accounted for twice", breach.missing.unsigned_abs())
            } else {
                format!("{} missing", breach.missing)
            };
            out.line(&format!(
                "  positions {} to {}: {what}",
                breach.first, breach.last
            ))?;
            for id in &breach.ids {
                out.line(&out.paint(Tone::Plain, &format!("    {id}")))?;
            }
        }
    }
    if ok {
        out.line(&out.paint(
            Tone::Good,
            "conservation holds: every event is accounted for",
        ))
    } else {
        out.line(&out.paint(Tone::Bad, "conservation is broken"))
    }
}
