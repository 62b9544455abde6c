//! `fanfare subscriptions`: create, list and operate. Being a member by hand is [`consume`]'s, dead
//! letters are `dead-letters`'.

mod consume;

use clap::{Subcommand, ValueEnum};
use fanfare::core::pattern::Pattern;
use fanfare::core::subscription::SubscriptionName;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::args::Common;
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::{Output, Table, Tone, clean, note, one_line_json};

/// Create, list and operate subscriptions.
#[derive(Debug, Subcommand)]
pub(crate) enum Subscriptions {
    /// List all, with what waits.
    #[command(alias = "ls")]
    List,
    /// Show one.
    #[command(alias = "get")]
    Show(Named),
    /// Create one, or change the retry, lease and dead-letter options of the one there.
    Create(Box<Create>),
    /// Change the patterns for events from now on.
    SetPatterns(SetPatterns),
    /// Stop handing out deliveries until resumed.
    Pause(Named),
    /// Hand out deliveries again.
    Resume(Named),
    /// Move to another place in the stream.
    Seek(Seek),
    /// Take deliveries by hand.
    Pull(consume::Pull),
    /// Settle deliveries by hand.
    Settle(consume::Settle),
    /// Delete one; refused while anything is unsettled or dead.
    #[command(alias = "rm")]
    Delete(Delete),
}

/// A subscription by name.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The subscription.
    name: String,
}

/// A new subscription.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// 1 to 64 of A-Z a-z 0-9 _ and -.
    name: String,
    /// What it receives, such as 'orders.*'; up to 16.
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Where it begins: earliest, latest, a time, or a position. Counts at creation only.
    #[arg(long, value_name = "WHERE")]
    start: Option<String>,
    /// Handle events of one key one at a time, in publish order.
    #[arg(long)]
    ordered: bool,
    /// What a dead letter does to the later events of its key, when ordered.
    #[arg(long, value_enum)]
    on_dead: Option<OnDead>,
    /// How long a delivery belongs to its member, such as 30s.
    #[arg(long, value_name = "DURATION")]
    lease: Option<String>,
    /// Attempts in total.
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// The delay after the first failure.
    #[arg(long, value_name = "DURATION")]
    retry_initial: Option<String>,
    /// What the delay is multiplied by after each failure.
    #[arg(long, value_name = "FACTOR")]
    retry_factor: Option<f64>,
    /// The longest delay.
    #[arg(long, value_name = "DURATION")]
    retry_max: Option<String>,
    /// Keep retry delays exact.
    #[arg(long)]
    no_jitter: bool,
    /// Drop what is out of attempts instead of keeping it.
    #[arg(long)]
    no_dead_letter: bool,
}

/// What happens to the key of a dead letter.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnDead {
    Continue,
    Park,
}

/// New patterns.
#[derive(Debug, clap::Args)]
pub(crate) struct SetPatterns {
    /// The subscription.
    name: String,
    /// What it receives from now on.
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,
}

/// Where to move.
#[derive(Debug, clap::Args)]
pub(crate) struct Seek {
    /// The subscription.
    name: String,
    /// earliest, latest, a time, a duration back from now, a position, or event:ID.
    to: String,
    /// Only say what would happen.
    #[arg(long)]
    dry_run: bool,
}

/// What to delete.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The subscription.
    name: String,
    /// Even with unsettled events or dead letters, which are then gone.
    #[arg(long)]
    force: bool,
}

/// The server's list.
#[derive(Debug, Deserialize)]
struct List {
    subscriptions: Vec<Box<RawValue>>,
}

/// A subscription as far as a table shows it.
#[derive(Debug, Deserialize)]
struct Info {
    name: String,
    patterns: Vec<String>,
    #[serde(default)]
    ordered: bool,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    counts: Counts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counts {
    acknowledged: u64,
    dead: u64,
    in_flight: u64,
    waiting: u64,
}

/// What a seek did.
#[derive(Debug, Deserialize, Serialize)]
struct Sought {
    from: String,
    to: String,
    events: u64,
}

impl Subscriptions {
    /// Runs the verb.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let (client, out) = (common.client()?, common.output());
        match self {
            Self::List => list(&client, out).await,
            Self::Show(named) => show(&client, out, &named.name).await,
            Self::Create(create) => create.run(&client, out).await,
            Self::SetPatterns(set) => set.run(&client, out).await,
            Self::Pause(named) => switch(&client, out, &named.name, "pause").await,
            Self::Resume(named) => switch(&client, out, &named.name, "resume").await,
            Self::Seek(seek) => seek.run(&client, out).await,
            Self::Pull(pull) => pull.run(&client, out).await,
            Self::Settle(settle) => settle.run(&client, out).await,
            Self::Delete(delete) => delete.run(&client, out).await,
        }
    }
}

async fn list(client: &Client, out: Output) -> Result<()> {
    let list: List = client.get(&["v1", "subscriptions"], &[]).await?;
    if out.json() {
        return list
            .subscriptions
            .iter()
            .try_for_each(|raw| out.line(&one_line_json(raw.get())));
    }
    if list.subscriptions.is_empty() {
        note("no subscriptions");
        return Ok(());
    }
    let mut table = Table::new(&[
        "NAME",
        "PATTERNS",
        "STATE",
        "ORDER",
        "#WAITING",
        "#IN FLIGHT",
        "#DEAD",
        "#ACKNOWLEDGED",
    ]);
    for raw in &list.subscriptions {
        let info: Info = serde_json::from_str(raw.get())
            .map_err(|error| Failure::failed(format!("cannot read a subscription: {error}")))?;
        table.row([
            &info.name,
            &info.patterns.join(" "),
            if info.paused { "paused" } else { "active" },
            if info.ordered { "by key" } else { "" },
            &info.counts.waiting.to_string(),
            &info.counts.in_flight.to_string(),
            &info.counts.dead.to_string(),
            &info.counts.acknowledged.to_string(),
        ]);
    }
    out.table(&table)
}

async fn show(client: &Client, out: Output, name: &str) -> Result<()> {
    let body: Box<RawValue> = client.get(&["v1", "subscriptions", name], &[]).await?;
    if out.json() {
        return out.line(&one_line_json(body.get()));
    }
    let members: Map<String, Value> = serde_json::from_str(body.get())
        .map_err(|error| Failure::failed(format!("cannot read the subscription: {error}")))?;
    show_members(out, "", &members)
}

/// Members as aligned lines; those of an object carry its name before theirs.
fn show_members(out: Output, prefix: &str, members: &Map<String, Value>) -> Result<()> {
    for (name, value) in members {
        let name = format!("{prefix}{name}");
        let text = match value {
            Value::Object(inner) => {
                show_members(out, &format!("{name}."), inner)?;
                continue;
            }
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                let texts: Vec<_> = items.iter().map(plain).collect();
                texts.join(" ")
            }
            other => other.to_string(),
        };
        let label = out.paint(Tone::Faint, &format!("{name:<20}"));
        out.line(&format!("{label}  {}", clean(&text)))?;
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

async fn switch(client: &Client, out: Output, name: &str, verb: &str) -> Result<()> {
    SubscriptionName::parse(name)?;
    let answer: Value = client
        .send(
            Method::POST,
            &["v1", "subscriptions", name, verb],
            &json!({}),
        )
        .await?;
    if out.json() {
        return out.object(&answer);
    }
    out.line(&format!("{name} {verb}d"))
}

impl Create {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        SubscriptionName::parse(&self.name)?;
        let body = self.body()?;
        let path = ["v1", "subscriptions", &self.name];
        let answer: Box<RawValue> = client.send(Method::PUT, &path, &body).await?;
        if out.json() {
            return out.line(&one_line_json(answer.get()));
        }
        out.line(&format!(
            "{} receives {}",
            self.name,
            self.patterns.join(" ")
        ))
    }

    fn body(&self) -> Result<Value> {
        for pattern in &self.patterns {
            Pattern::parse(pattern)?;
        }
        let mut body = json!({ "patterns": self.patterns });
        let mut set = |name: &str, value: Option<Value>| {
            if let (Some(value), Some(body)) = (value, body.as_object_mut()) {
                body.insert(name.into(), value);
            }
        };
        let on_dead = self.on_dead.map(|on_dead| match on_dead {
            OnDead::Continue => "continue",
            OnDead::Park => "park",
        });
        set("start", self.start.clone().map(Into::into));
        set("ordered", self.ordered.then_some(true.into()));
        set("on_dead", on_dead.map(Into::into));
        set("lease", self.lease.clone().map(Into::into));
        set("dead_letter", self.no_dead_letter.then_some(false.into()));
        set("retry", self.retry());
        Ok(body)
    }

    fn retry(&self) -> Option<Value> {
        let given: Map<String, Value> = [
            ("max_attempts", self.max_attempts.map(Value::from)),
            ("initial", self.retry_initial.clone().map(Value::from)),
            ("factor", self.retry_factor.map(Value::from)),
            ("max", self.retry_max.clone().map(Value::from)),
            ("jitter", self.no_jitter.then_some(false.into())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
        (!given.is_empty()).then_some(given.into())
    }
}

impl SetPatterns {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        let path = ["v1", "subscriptions", &self.name];
        let body = json!({ "patterns": self.patterns });
        let answer: Box<RawValue> = client.send(Method::PATCH, &path, &body).await?;
        if out.json() {
            return out.line(&one_line_json(answer.get()));
        }
        out.line(&format!(
            "{} receives {} from now on",
            self.name,
            self.patterns.join(" ")
        ))
    }
}

impl Seek {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        let path = ["v1", "subscriptions", &self.name, "seek"];
        let body = json!({ "to": self.to, "dry_run": self.dry_run });
        let sought: Sought = client.send(Method::POST, &path, &body).await?;
        if out.json() {
            return out.object(&sought);
        }
        let verb = if self.dry_run { "would move" } else { "moved" };
        out.line(&format!(
            "{} {verb} from {} to {}: {} matching events lie ahead",
            self.name, sought.from, sought.to, sought.events
        ))
    }
}

impl Delete {
    async fn run(self, client: &Client, out: Output) -> Result<()> {
        let query = if self.force {
            vec![("force", "true".to_owned())]
        } else {
            vec![]
        };
        client
            .delete(&["v1", "subscriptions", &self.name], &query)
            .await?;
        if out.json() {
            return out.object(&json!({ "deleted": self.name }));
        }
        out.line(&format!("{} deleted", self.name))
    }
}
