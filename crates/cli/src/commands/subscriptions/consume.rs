//! `fanfare subscriptions pull` and `settle`: being a member by hand, to try things out and to mend
//! them. Programs use the HTTP API or the library.

use clap::ValueEnum;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::client::Client;
use crate::commands::events::Event;
use crate::failure::{Failure, Result};
use crate::output::{Output, Table, note, one_line_json, shorten};

/// How many characters of data a table shows.
const DATA_PREVIEW: usize = 60;

/// What to take.
#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// The subscription.
    name: String,
    /// At most so many deliveries.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    max: u16,
    /// How long to wait for the first one, such as 5s.
    #[arg(long, value_name = "DURATION")]
    wait: Option<String>,
}

/// What to settle, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Settle {
    /// The subscription.
    name: String,
    /// How it ended.
    #[arg(value_enum)]
    outcome: Outcome,
    /// The deliveries, by the tokens that pull answered.
    #[arg(required = true, value_name = "DELIVERY")]
    deliveries: Vec<String>,
    /// When a retry comes back; default as the subscription's policy says.
    #[arg(long, value_name = "DURATION")]
    retry_after: Option<String>,
    /// Why.
    #[arg(long)]
    reason: Option<String>,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ack,
    Retry,
    DeadLetter,
    Drop,
    Release,
}

/// The server's answer to a pull.
#[derive(Debug, Deserialize)]
struct Pulled {
    deliveries: Vec<Box<RawValue>>,
}

/// A delivery as far as a table shows it.
#[derive(Debug, Deserialize)]
struct Delivery {
    #[serde(rename = "delivery")]
    token: String,
    attempt: u32,
    lease_until: String,
    event: Event,
}

/// The server's answer to a settle.
#[derive(Debug, Deserialize)]
struct Settled {
    results: Vec<SettledOne>,
}

/// What became of one settlement.
#[derive(Debug, Deserialize, Serialize)]
struct SettledOne {
    delivery: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Pull {
    /// Takes deliveries; each is ours until its lease ends.
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<()> {
        let mut body = json!({ "max": self.max });
        if let (Some(wait), Some(body)) = (self.wait, body.as_object_mut()) {
            body.insert("wait".into(), wait.into());
        }
        let path = ["v1", "subscriptions", &self.name, "pull"];
        let pulled: Pulled = client.send(Method::POST, &path, &body).await?;
        if out.json() {
            return pulled
                .deliveries
                .iter()
                .try_for_each(|raw| out.line(&one_line_json(raw.get())));
        }
        if pulled.deliveries.is_empty() {
            note("nothing to deliver now");
            return Ok(());
        }
        let mut table = Table::new(&["DELIVERY", "#ATTEMPT", "LEASE UNTIL", "TYPE", "DATA"]);
        for raw in &pulled.deliveries {
            let delivery: Delivery = serde_json::from_str(raw.get())
                .map_err(|error| Failure::failed(format!("cannot read a delivery: {error}")))?;
            table.row([
                &delivery.token,
                &delivery.attempt.to_string(),
                &delivery.lease_until,
                &delivery.event.r#type,
                &shorten(&delivery.event.data_line(), DATA_PREVIEW),
            ]);
        }
        out.table(&table)
    }
}

impl Settle {
    /// Settles; fails when one did not count.
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<()> {
        let settlement = |delivery: &String| {
            let mut settlement = json!({ "delivery": delivery, "outcome": self.outcome });
            if let Some(settlement) = settlement.as_object_mut() {
                let after = self.retry_after.iter().map(|after| ("retry_after", after));
                let reason = self.reason.iter().map(|reason| ("reason", reason));
                for (name, value) in after.chain(reason) {
                    settlement.insert(name.into(), value.clone().into());
                }
            }
            settlement
        };
        let settlements: Vec<_> = self.deliveries.iter().map(settlement).collect();
        let path = ["v1", "subscriptions", &self.name, "settle"];
        let body = json!({ "settlements": settlements });
        let settled: Settled = client.send(Method::POST, &path, &body).await?;
        for one in &settled.results {
            if out.json() {
                out.object(one)?;
                continue;
            }
            let became = match (&one.reason, one.ok) {
                (_, true) => "settled",
                (Some(reason), false) => reason,
                (None, false) => "not settled",
            };
            out.line(&crate::output::clean(&format!("{} {became}", one.delivery)))?;
        }
        if settled.results.iter().all(|one| one.ok) {
            Ok(())
        } else {
            Err(Failure::silent())
        }
    }
}
