//! `fanfare dead-letters`: what was given up, and what becomes of it.

use std::collections::BTreeMap;

use clap::Subcommand;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::args::Common;
use crate::client::Client;
use crate::commands::events::Event;
use crate::failure::{Failure, Result};
use crate::output::{Output, Table, Tone, clean, note, one_line_json, pretty_json, shorten};

/// How many dead letters are asked for at once.
const PAGE: usize = 1000;
/// How many are redriven in one request without a rate, and for how long with one.
const REDRIVE_PORTION: u64 = 10_000;
const REDRIVE_PORTION_SECONDS: u64 = 10;
/// How many characters of an error a table shows.
const ERROR_PREVIEW: usize = 60;

/// List, show, mend, redrive and discard dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List them, oldest first.
    #[command(alias = "ls")]
    List(List),
    /// Show one with its error, attempts and data.
    #[command(alias = "get")]
    Show(Named),
    /// Return them to their subscription as fresh deliveries.
    Redrive(Redrive),
    /// Remove them for good.
    Discard(Discard),
    /// Replace the data of one, keeping the original beside it.
    Edit(Edit),
}

/// A dead letter by id.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The dead letter.
    id: String,
}

/// Which dead letters.
#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Filter {
    /// Of this subscription.
    #[arg(long, short, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription: Option<String>,
    /// Whose event type matches.
    #[arg(long = "type", short = 't', value_name = "PATTERN")]
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    /// With this reason, such as max_attempts.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// That look the same.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    /// Last failed at or after: a time, or a duration back from now.
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Last failed before: a time, or a duration back from now.
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// Which dead letters to list.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// At most so many; default all.
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
}

/// Which dead letters to act on.
#[derive(Debug, clap::Args)]
struct Selection {
    /// These.
    #[arg(value_name = "ID", conflicts_with_all = ["all", "subscription", "pattern", "reason", "fingerprint", "since", "until"])]
    ids: Vec<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

/// What to redrive.
#[derive(Debug, clap::Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    selection: Selection,
    /// At most so many a second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Only say how many are meant.
    #[arg(long)]
    dry_run: bool,
}

/// What to discard.
#[derive(Debug, clap::Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    selection: Selection,
    /// Only say how many are meant.
    #[arg(long)]
    dry_run: bool,
}

/// What to replace.
#[derive(Debug, clap::Args)]
pub(crate) struct Edit {
    /// The dead letter.
    id: String,
    /// The new data, JSON.
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true)]
    data: String,
}

/// The body of an edit: the data as they were given.
#[derive(Debug, Serialize)]
struct Replacement<'a> {
    data: &'a RawValue,
}

/// What a redrive did.
#[derive(Debug, Deserialize, Serialize)]
struct Redriven {
    matched: u64,
    redriven: u64,
}

/// What a discard did.
#[derive(Debug, Deserialize, Serialize)]
struct Discarded {
    matched: u64,
    discarded: u64,
}

/// A page of the server's list.
#[derive(Debug, Deserialize)]
struct Page {
    dead_letters: Vec<Box<RawValue>>,
    #[serde(default)]
    next: Option<String>,
}

/// A dead letter as far as a table shows it.
#[derive(Debug, Deserialize)]
struct Letter {
    id: String,
    subscription: String,
    #[serde(default)]
    event: Option<Event>,
    reason: String,
    error: String,
    attempts: u32,
    last_failure: String,
}

impl DeadLetters {
    /// Runs the verb.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let (client, out) = (common.client()?, common.output());
        match self {
            Self::List(list) => list.run(&client, out).await,
            Self::Show(named) => show(&client, out, &named.id).await,
            Self::Redrive(redrive) => redrive.run(&client, out).await,
            Self::Discard(discard) => discard.run(&client, out).await,
            Self::Edit(edit) => edit.run(&client, out).await,
        }
    }
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.query().is_empty()
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        [
            ("subscription", &self.subscription),
            ("type", &self.pattern),
            ("reason", &self.reason),
            ("fingerprint", &self.fingerprint),
            ("since", &self.since),
            ("until", &self.until),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.clone()?)))
        .collect()
    }
}

impl Selection {
    /// The request's members; nothing chosen is a usage failure, never everything.
    fn body(&self) -> Result<Map<String, Value>> {
        let mut body = Map::new();
        if !self.ids.is_empty() {
            body.insert("ids".into(), json!(self.ids));
        } else if self.all || !self.filter.is_empty() {
            body.insert("filter".into(), json!(self.filter));
        } else {
            return Err(Failure::usage(
                "which dead letters? give ids, a filter such as --subscription NAME, or --all",
            ));
        }
        Ok(body)
    }
}

impl List {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        let filter = self.filter.query();
        let mut left = self.limit.unwrap_or(usize::MAX);
        let mut cursor: Option<String> = None;
        let mut any = false;
        while left > 0 {
            let mut query = filter.clone();
            query.push(("limit", left.min(PAGE).to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page: Page = client.get(&["v1", "dead-letters"], &query).await?;
            left = left.saturating_sub(page.dead_letters.len());
            if !page.dead_letters.is_empty() {
                show_page(out, &page.dead_letters, !any)?;
                any = true;
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        if !any && !out.json() {
            note("no dead letters");
        }
        Ok(())
    }
}

fn show_page(out: Output, letters: &[Box<RawValue>], first: bool) -> Result<()> {
    if out.json() {
        return letters
            .iter()
            .try_for_each(|raw| out.line(&one_line_json(raw.get())));
    }
    let mut table = Table::new(&[
        "ID",
        "SUBSCRIPTION",
        "TYPE",
        "#ATTEMPTS",
        "LAST FAILURE",
        "REASON",
        "ERROR",
    ]);
    for raw in letters {
        let letter: Letter = serde_json::from_str(raw.get())
            .map_err(|error| Failure::failed(format!("cannot read a dead letter: {error}")))?;
        table.row([
            &letter.id,
            &letter.subscription,
            letter.event.as_ref().map_or("", |event| &event.r#type),
            &letter.attempts.to_string(),
            &letter.last_failure,
            &letter.reason,
            &shorten(&letter.error, ERROR_PREVIEW),
        ]);
    }
    if first {
        out.table(&table)
    } else {
        out.rows(&table)
    }
}

async fn show(client: &Client, out: Output, id: &str) -> Result<()> {
    let body: Box<RawValue> = client.get(&["v1", "dead-letters", id], &[]).await?;
    if out.json() {
        return out.line(&one_line_json(body.get()));
    }
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(body.get())
        .map_err(|error| Failure::failed(format!("cannot read the dead letter: {error}")))?;
    let is_object = |value: &RawValue| value.get().starts_with('{');
    for (name, value) in members.iter().filter(|(_, value)| !is_object(value)) {
        let text = match serde_json::from_str::<String>(value.get()) {
            Ok(text) => text,
            Err(_) => value.get().to_owned(),
        };
        let label = out.paint(Tone::Faint, &format!("{name:<15}"));
        out.line(&format!("{label}  {}", clean(&text)))?;
    }
    for (name, value) in members.iter().filter(|(_, value)| is_object(value)) {
        out.line("")?;
        out.line(&out.paint(Tone::Faint, name))?;
        pretty_json(value.get())
            .iter()
            .try_for_each(|line| out.line(line))?;
    }
    Ok(())
}

impl Redrive {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        let mut body = self.selection.body()?;
        if let Some(rate) = self.rate {
            body.insert("rate".into(), rate.into());
        }
        body.insert("dry_run".into(), true.into());
        let mut total = redrive(client, &body).await?;
        if !self.dry_run {
            body.insert("dry_run".into(), false.into());
            // In portions, so that a slow redrive of many never waits long for one answer.
            let portion = self.rate.map_or(REDRIVE_PORTION, |rate| {
                u64::from(rate) * REDRIVE_PORTION_SECONDS
            });
            while total.redriven < total.matched {
                let left = total.matched - total.redriven;
                body.insert("limit".into(), left.min(portion).into());
                let acted = redrive(client, &body).await?;
                total.redriven += acted.redriven;
                // Somebody else took the rest.
                if acted.redriven == 0 {
                    break;
                }
            }
        }
        if out.json() {
            return out.object(&total);
        }
        out.line(&format!(
            "{} matched, {} redriven",
            total.matched, total.redriven
        ))
    }
}

async fn redrive(client: &Client, body: &Map<String, Value>) -> Result<Redriven> {
    client
        .send(Method::POST, &["v1", "dead-letters", "redrive"], body)
        .await
}

impl Discard {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        let mut body = self.selection.body()?;
        body.insert("dry_run".into(), self.dry_run.into());
        let path = ["v1", "dead-letters", "discard"];
        let discarded: Discarded = client.send(Method::POST, &path, &body).await?;
        if out.json() {
            return out.object(&discarded);
        }
        out.line(&format!(
            "{} matched, {} discarded",
            discarded.matched, discarded.discarded
        ))
    }
}

impl Edit {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        let data = RawValue::from_string(self.data)
            .map_err(|error| Failure::usage(format!("--data is not JSON: {error}")))?;
        let path = ["v1", "dead-letters", &self.id];
        let answer: Box<RawValue> = client
            .send(Method::PUT, &path, &Replacement { data: &data })
            .await?;
        if out.json() {
            return out.line(&one_line_json(answer.get()));
        }
        out.line(&format!(
            "{} replaced; redrive it with: fanfare dead-letters redrive {}",
            self.id, self.id
        ))
    }
}
