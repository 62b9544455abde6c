//! What the environment says. Each service reads what concerns it; everything has a default but what
//! would be a guess.

use std::time::Duration;

use fanfare::address::Address;
use fanfare::config::{Environment, Secret};
use fanfare::core::timestamp::duration;
use fanfare::core::{Error, Result};
use uuid::Uuid;

use crate::events::STREAM;

/// How both services meet.
#[derive(Debug, Clone)]
pub struct Events {
    /// `REDIS_EVENTS_ENABLED`: whether there are events at all. Default false.
    pub enabled: bool,
    /// `REDIS_ADDRESS`, `REDIS_PASSWORD`, `REDIS_DB`: the stream. Default localhost:6379, none, 0.
    pub stream: Address,
    /// `EVENTS_LEASE`: how long the events of a process that died wait for another. Default 30s.
    pub lease: Duration,
}

impl Events {
    /// Reads them.
    pub fn read(environment: Environment<'_>) -> Result<Self> {
        let address = text(environment, "REDIS_ADDRESS", "localhost:6379");
        if address.trim().is_empty() {
            return Err(wrong("REDIS_ADDRESS", "is empty: it is host:port"));
        }
        let database: u32 = parse(environment, "REDIS_DB", "0")?;
        let stream = Address::parse(&format!("redis://{address}/{database}"))?
            .with_password(&text(environment, "REDIS_PASSWORD", ""))
            .with_parameter("stream", STREAM)
            .with_parameter("wire", "job-lifecycle");
        Ok(Self {
            enabled: parse(environment, "REDIS_EVENTS_ENABLED", "false")?,
            stream,
            lease: time(environment, "EVENTS_LEASE", "30s")?,
        })
    }

    /// The stream as a member of this consumer group sees it, under a name of its own.
    pub fn as_member_of(&self, group: &str) -> Address {
        let (name, ..) = Uuid::new_v4().as_fields();
        self.stream
            .clone()
            .with_parameter("group", group)
            .with_parameter("consumer", format!("crawler-{name:08x}"))
            .with_parameter("takeover", duration::format(self.lease))
    }
}

/// Of the source-manager.
#[derive(Debug, Clone)]
pub struct SourceManager {
    /// `SOURCE_MANAGER_LISTEN`. Default 127.0.0.1:8050.
    pub listen: String,
    /// `SOURCE_MANAGER_DATABASE_URL`. Default postgres://postgres@localhost/source_manager.
    pub database: Secret,
    /// See there.
    pub events: Events,
}

impl SourceManager {
    /// Reads them.
    pub fn read(environment: Environment<'_>) -> Result<Self> {
        let database = "postgres://postgres@localhost/source_manager";
        Ok(Self {
            listen: text(environment, "SOURCE_MANAGER_LISTEN", "127.0.0.1:8050"),
            database: text(environment, "SOURCE_MANAGER_DATABASE_URL", database).into(),
            events: Events::read(environment)?,
        })
    }
}

/// Who handles events in the crawler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// They change jobs.
    Jobs,
    /// They are logged, for a start in the dark.
    Log,
}

/// Of the crawler.
#[derive(Debug, Clone)]
pub struct Crawler {
    /// `CRAWLER_LISTEN`. Default 127.0.0.1:8060.
    pub listen: String,
    /// `CRAWLER_DATABASE_URL`. Default postgres://postgres@localhost/crawler.
    pub database: Secret,
    /// See there.
    pub events: Events,
    /// `CRAWLER_HANDLER`: `jobs` or `log`. Default jobs.
    pub handling: Handling,
    /// `EVENTS_RETRY_DELAY`: how long an event that failed waits, ten times. Default 30s.
    pub retry_delay: Duration,
    /// `SOURCE_MANAGER_URL`: whom reconciliation asks. Default http://127.0.0.1:8050.
    pub source_manager: String,
    /// `RECONCILE_EVERY`. Default 1h.
    pub reconcile_every: Duration,
    /// `RECONCILE_GRACE`: how long a difference must last, as events may be on their way. Default 1m.
    pub reconcile_grace: Duration,
}

impl Crawler {
    /// Reads them.
    pub fn read(environment: Environment<'_>) -> Result<Self> {
        let database = "postgres://postgres@localhost/crawler";
        Ok(Self {
            listen: text(environment, "CRAWLER_LISTEN", "127.0.0.1:8060"),
            database: text(environment, "CRAWLER_DATABASE_URL", database).into(),
            events: Events::read(environment)?,
            handling: match text(environment, "CRAWLER_HANDLER", "jobs").as_str() {
                "jobs" => Handling::Jobs,
                "log" => Handling::Log,
                _ => return Err(wrong("CRAWLER_HANDLER", "is neither jobs nor log")),
            },
            retry_delay: time(environment, "EVENTS_RETRY_DELAY", "30s")?,
            source_manager: text(environment, "SOURCE_MANAGER_URL", "http://127.0.0.1:8050"),
            reconcile_every: time(environment, "RECONCILE_EVERY", "1h")?,
            reconcile_grace: time(environment, "RECONCILE_GRACE", "1m")?,
        })
    }
}

fn text(environment: Environment<'_>, name: &str, default: &str) -> String {
    environment(name).unwrap_or_else(|| default.to_owned())
}

fn parse<T: std::str::FromStr>(
    environment: Environment<'_>,
    name: &str,
    default: &str,
) -> Result<T> {
    let text = text(environment, name, default);
    text.parse()
        .map_err(|_| wrong(name, &format!("cannot be `{}`", text.escape_debug())))
}

fn time(environment: Environment<'_>, name: &str, default: &str) -> Result<Duration> {
    duration::parse(&text(environment, name, default))
        .map_err(|error| wrong(name, &format!("is no duration: {error}")))
}

fn wrong(name: &str, what: &str) -> Error {
    Error::invalid(format!("/{name}"), format!("{name} {what}"))
}
