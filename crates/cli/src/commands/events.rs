//! `fanfare events`: past events. Following new ones is `tail`'s.

use std::collections::BTreeMap;

use clap::{Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::args::Common;
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::{Output, Table, Tone, clean, note, one_line_json, pretty_json};

/// How many events are asked for at once.
const PAGE: usize = 1000;

/// List past events, or show one.
#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// List events, oldest first.
    #[command(alias = "ls")]
    List(List),
    /// Show the event with this id, its data and its deliveries.
    #[command(alias = "get")]
    Show(Show),
}

/// Which events to list.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Whose type matches the pattern, such as 'orders.*' or '**'.
    #[arg(long = "type", short = 't', value_name = "PATTERN")]
    pattern: Option<String>,
    /// Recorded at or after: a time, or a duration back from now such as 1h.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Recorded before: a time, or a duration back from now.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// With this ordering key.
    #[arg(long, short)]
    key: Option<String>,
    /// From this source.
    #[arg(long, short)]
    source: Option<String>,
    /// With this status.
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// At most so many; default all.
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Newest first.
    #[arg(long, short)]
    reverse: bool,
}

/// The state of an event over all its deliveries.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Pending,
    Processing,
    Completed,
    Failed,
}

/// Which event to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The event's id.
    id: String,
    /// Its source, where several have the same id.
    #[arg(long, short)]
    source: Option<String>,
}

/// A page of the event list.
#[derive(Debug, Deserialize)]
struct Page {
    events: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// One event of a list, as far as a table shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Item {
    pub(crate) position: Option<String>,
    #[serde(default)]
    pub(crate) recorded: Option<String>,
    pub(crate) event: Event,
}

/// A CloudEvent as far as people are shown it.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) r#type: String,
    #[serde(default)]
    pub(crate) partitionkey: Option<String>,
    #[serde(default)]
    pub(crate) data: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) data_base64: Option<String>,
}

impl Event {
    /// The data on one line, or how many bytes they are.
    pub(crate) fn data_line(&self) -> String {
        match (&self.data, &self.data_base64) {
            (Some(data), _) => one_line_json(data.get()),
            (None, Some(base64)) => format!("<{} bytes>", base64.len() / 4 * 3),
            (None, None) => String::new(),
        }
    }
}

impl Events {
    /// Lists or shows.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let (client, out) = (common.client()?, common.output());
        match self {
            Self::List(list) => list.run(&client, out).await,
            Self::Show(show) => show.run(&client, out).await,
        }
    }
}

impl List {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        let mut query = self.query();
        let mut left = self.limit.unwrap_or(usize::MAX);
        let mut cursor: Option<String> = None;
        let mut any = false;
        while left > 0 {
            query.retain(|(name, _)| !matches!(*name, "limit" | "cursor"));
            query.push(("limit", left.min(PAGE).to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page: Page = client.get(&["v1", "events"], &query).await?;
            left = left.saturating_sub(page.events.len());
            if !page.events.is_empty() {
                show_page(out, &page.events, !any)?;
                any = true;
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        if !any && !out.json() {
            note("no events");
        }
        Ok(())
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        let status = self.status.map(|status| {
            let text = match status {
                Status::Pending => "pending",
                Status::Processing => "processing",
                Status::Completed => "completed",
                Status::Failed => "failed",
            };
            text.to_owned()
        });
        [
            ("type", self.pattern.clone()),
            ("since", self.since.clone()),
            ("until", self.until.clone()),
            ("key", self.key.clone()),
            ("source", self.source.clone()),
            ("status", status),
            ("order", self.reverse.then(|| "desc".to_owned())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

fn show_page(out: Output, events: &[Box<RawValue>], first: bool) -> Result<()> {
    if out.json() {
        return events
            .iter()
            .try_for_each(|event| out.line(&one_line_json(event.get())));
    }
    let mut table = Table::new(&["#POSITION", "RECORDED", "TYPE", "KEY", "SOURCE", "ID"]);
    for raw in events {
        let item: Item = serde_json::from_str(raw.get())
            .map_err(|error| Failure::failed(format!("cannot read an event: {error}")))?;
        table.row([
            item.position.as_deref().unwrap_or_default(),
            item.recorded.as_deref().unwrap_or_default(),
            &item.event.r#type,
            item.event.partitionkey.as_deref().unwrap_or_default(),
            &item.event.source,
            &item.event.id,
        ]);
    }
    if first {
        out.table(&table)
    } else {
        out.rows(&table)
    }
}

/// One event with its deliveries.
#[derive(Debug, Deserialize)]
struct Shown {
    position: Option<String>,
    #[serde(default)]
    recorded: Option<String>,
    #[serde(default)]
    status: Option<String>,
    event: BTreeMap<String, Box<RawValue>>,
    #[serde(default)]
    deliveries: Vec<Delivered>,
}

/// One subscription's view of it.
#[derive(Debug, Deserialize)]
struct Delivered {
    subscription: String,
    state: String,
    #[serde(default)]
    attempts: u32,
    #[serde(default)]
    due: Option<String>,
}

impl Show {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        let query: Vec<_> = self.source.into_iter().map(|s| ("source", s)).collect();
        let body: Box<RawValue> = client.get(&["v1", "events", &self.id], &query).await?;
        if out.json() {
            return out.line(&one_line_json(body.get()));
        }
        let shown: Shown = serde_json::from_str(body.get())
            .map_err(|error| Failure::failed(format!("cannot read the event: {error}")))?;
        show_attributes(out, &shown)?;
        show_data(out, &shown.event)?;
        if shown.deliveries.is_empty() {
            return out.line("no subscription receives it");
        }
        let mut table = Table::new(&["SUBSCRIPTION", "STATE", "#ATTEMPTS", "DUE"]);
        for delivered in &shown.deliveries {
            table.row([
                &delivered.subscription,
                &delivered.state,
                &delivered.attempts.to_string(),
                delivered.due.as_deref().unwrap_or_default(),
            ]);
        }
        out.table(&table)
    }
}

fn show_attributes(out: Output, shown: &Shown) -> Result<()> {
    let attribute = |name: &str, value: &str| {
        out.line(&format!(
            "{}  {}",
            out.paint(Tone::Faint, &format!("{name:<15}")),
            clean(value)
        ))
    };
    for (name, value) in [
        ("position", &shown.position),
        ("recorded", &shown.recorded),
        ("status", &shown.status),
    ] {
        if let Some(value) = value {
            attribute(name, value)?;
        }
    }
    for (name, value) in &shown.event {
        if matches!(name.as_str(), "data" | "data_base64" | "specversion") {
            continue;
        }
        match serde_json::from_str::<String>(value.get()) {
            Ok(text) => attribute(name, &text)?,
            Err(_) => attribute(name, value.get())?,
        }
    }
    Ok(())
}

fn show_data(out: Output, event: &BTreeMap<String, Box<RawValue>>) -> Result<()> {
    let Some(data) = event.get("data").or_else(|| event.get("data_base64")) else {
        return Ok(());
    };
    out.line("")?;
    pretty_json(data.get())
        .iter()
        .try_for_each(|line| out.line(line))?;
    out.line("")
}
