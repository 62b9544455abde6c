//! `fanfare audit`: for each subscription, everything published is accounted for.

use fanfare::core::admin;
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

/// The balance of every subscription.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Report {
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
        if out.json() {
            out.object(&report)?;
        } else {
            report.show(out)?;
        }
        if report.holds() {
            Ok(())
        } else {
            Err(Failure::silent())
        }
    }
}

impl From<Vec<admin::Audited>> for Report {
    fn from(audited: Vec<admin::Audited>) -> Self {
        let subscriptions: Vec<_> = audited.into_iter().map(Audited::from).collect();
        Self {
            ok: subscriptions.iter().all(Audited::holds),
            subscriptions,
        }
    }
}

impl From<admin::Audited> for Audited {
    fn from(audited: admin::Audited) -> Self {
        let breaches = audited.breaches.into_iter().map(|breach| Breach {
            first: breach.first.to_string(),
            last: breach.last.to_string(),
            missing: breach.missing,
            ids: breach.ids,
        });
        Self {
            name: audited.name.to_string(),
            published: audited.counts.published,
            acknowledged: audited.counts.acknowledged,
            dropped: audited.counts.dropped,
            dead: audited.counts.dead,
            in_flight: audited.counts.in_flight,
            waiting: audited.counts.waiting,
            breaches: breaches.collect(),
        }
    }
}

impl Report {
    /// Whether everything is accounted for; whoever says so is checked, not believed.
    pub(crate) fn holds(&self) -> bool {
        self.ok && self.subscriptions.iter().all(Audited::holds)
    }

    /// The table, and what is wrong.
    pub(crate) fn show(&self, out: Output) -> Result<()> {
        if !self.subscriptions.is_empty() {
            out.table(&self.table())?;
        }
        let broken = self.subscriptions.iter().filter(|audited| !audited.holds());
        for audited in broken {
            audited.show(out)?;
        }
        let (tone, text) = if self.subscriptions.is_empty() {
            (Tone::Plain, "there is no subscription yet")
        } else if self.holds() {
            (
                Tone::Good,
                "conservation holds: every event is accounted for",
            )
        } else {
            (Tone::Bad, "conservation is broken")
        };
        out.line(&out.paint(tone, text))
    }

    fn table(&self) -> Table {
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
        for audited in &self.subscriptions {
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
        table
    }
}

impl Audited {
    fn accounted(&self) -> u64 {
        self.acknowledged + self.dropped + self.dead + self.in_flight + self.waiting
    }

    fn holds(&self) -> bool {
        self.published == self.accounted() && self.breaches.is_empty()
    }

    /// Where the balance is broken, with the ids.
    fn show(&self, out: Output) -> Result<()> {
        let text = format!(
            "{}: {} published, {} accounted for",
            self.name,
            self.published,
            self.accounted()
        );
        out.line(&out.paint(Tone::Bad, &text))?;
        for breach in &self.breaches {
            let what = if breach.missing < 0 {
                format!("{} accounted for twice", breach.missing.unsigned_abs())
            } else {
                format!("{} missing", breach.missing)
            };
            let text = format!("  positions {} to {}: {what}", breach.first, breach.last);
            out.line(&out.paint(Tone::Plain, &text))?;
            for id in &breach.ids {
                out.line(&out.paint(Tone::Plain, &format!("    {id}")))?;
            }
        }
        Ok(())
    }
}
