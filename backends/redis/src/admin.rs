//! Operating subscriptions. What must happen at once is a script; counting reads the stream.

use async_trait::async_trait;
use fanfare_core::admin::{
    Admin, Audited, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::advice::Advice;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_fleet::Page;
use redis::Value;

use crate::advice;
use crate::backend::RedisBackend;
use crate::books::Snapshot;
use crate::connect::Arguments;
use crate::error::unexpected;
use crate::frame::Slot;
use crate::loss::Losses;
use crate::place::{before, hex};
use crate::scripts::{self, Script};
use crate::subscription::{load, put_arguments, unknown, write_patterns, write_spec};

/// How often an operation is tried again when the subscription changed under it.
const TRIES: usize = 20;

impl RedisBackend {
    async fn known(&self, name: &SubscriptionName) -> Result<Snapshot> {
        self.snapshot(name).await?.ok_or_else(|| unknown(name))
    }

    /// Visits every event after `from` and up to `to`, until told to stop.
    pub(crate) async fn scan(
        &self,
        from: u128,
        to: u128,
        mut visit: impl FnMut(u128, &Slot) -> bool,
    ) -> Result<()> {
        let mut at = from;
        loop {
            let page = self.log.page(at).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            for (position, slot) in page.iter().flat_map(|frame| frame.after(at)) {
                if position > to || !visit(position, slot) {
                    return Ok(());
                }
            }
            at = crate::place::end_of(last.head);
        }
    }

    pub(crate) async fn names(&self) -> Result<Vec<SubscriptionName>> {
        let mut members = redis::cmd("SMEMBERS");
        members.arg(self.wire.key("subs"));
        let names: Vec<String> = self.wire.run(&members).await?;
        let mut names: Vec<_> = names
            .iter()
            .flat_map(|n| SubscriptionName::parse(n))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Every subscription that is not ephemeral, by name.
    pub(crate) async fn durable(&self) -> Result<Vec<Snapshot>> {
        let mut all = Vec::new();
        for name in self.names().await? {
            all.extend(self.snapshot(&name).await?);
        }
        all.retain(|snapshot| !snapshot.stored.spec.ephemeral);
        Ok(all)
    }

    async fn text(&self, script: &Script, arguments: &Arguments) -> Result<String> {
        match self.wire.script(script, arguments).await? {
            Value::BulkString(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            _ => Err(unexpected("an operation")),
        }
    }

    /// The position of the only event with this id.
    async fn find_id(&self, id: &str) -> Result<u128> {
        let mut found = Vec::new();
        let wanted = |event: &Event| event.id().to_string() == id;
        self.scan(0, u128::MAX, |position, slot| {
            if slot.event().is_some_and(wanted) {
                found.push(position);
            }
            found.len() < 2
        })
        .await?;
        match found[..] {
            [position] => Ok(position),
            [] => Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no event `{}`", id.escape_debug()),
            )),
            _ => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "several sources have an event `{}`: seek to a position",
                    id.escape_debug()
                ),
            )),
        }
    }

    async fn place_of(&self, to: &SeekTo) -> Result<u128> {
        Ok(match to {
            SeekTo::Earliest => 0,
            SeekTo::Latest => u128::MAX,
            SeekTo::Time(time) => before(*time),
            SeekTo::After(position) => position.0,
            SeekTo::Event(id) => {
                // Before the first of a frame, that is the end of an entry that need not exist.
                self.find_id(id).await?.saturating_sub(1)
            }
        })
    }
}

#[async_trait]
impl Admin for RedisBackend {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        self.check_open()?;
        spec.check()?;
        let start = match spec.start {
            Start::Earliest => "earliest".to_owned(),
            Start::Latest => "latest".to_owned(),
            Start::Time(time) => hex(before(time)),
            Start::After(position) => hex(position.0),
        };
        let config = &self.wire.config;
        let group = config.is_group(spec);
        for _ in 0..TRIES {
            let (mut version, mut wanted) = (None, spec.clone());
            if let Some((there, is_group)) = load(&self.wire, &spec.name).await? {
                there.spec.agrees_with(spec)?;
                if is_group != group {
                    return Err(other_kind(&spec.name, is_group));
                }
                wanted.start = there.spec.start;
                if wanted == there.spec {
                    return Ok(Put::Unchanged);
                }
                version = Some(there.version);
            }
            let arguments = put_arguments(config, &wanted, version, &start)?;
            match self.text(&scripts::PUT, &arguments).await?.as_str() {
                "created" => return Ok(Put::Created),
                "changed" => return Ok(Put::Changed),
                _ => {}
            }
        }
        Err(busy(&spec.name))
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        self.check_open()?;
        for _ in 0..TRIES {
            let there = load(&self.wire, name).await?;
            let (there, _) = there.ok_or_else(|| unknown(name))?;
            let spec = SubscriptionSpec {
                patterns: patterns.clone(),
                ..there.spec
            };
            let arguments = Arguments::default()
                .text(name.as_str())
                .number(there.version)
                .text(write_spec(&spec)?)
                .text(write_patterns(&patterns));
            if self.text(&scripts::PATTERNS, &arguments).await? == "changed" {
                return Ok(());
            }
        }
        Err(busy(name))
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        self.check_open()?;
        if !force {
            let counts = self.get(name).await?.counts;
            if counts.unsettled() > 0 || counts.dead > 0 {
                return Err(counts.refuse_deletion(name));
            }
        }
        let arguments = Arguments::default().text(name.as_str()).number(0);
        match self.text(&scripts::DELETE, &arguments).await?.as_str() {
            "deleted" => Ok(()),
            _ => Err(unknown(name)),
        }
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        self.check_open()?;
        self.info(self.known(name).await?).await
    }

    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        self.check_open()?;
        let there = load(&self.wire, name).await?;
        Ok(there.ok_or_else(|| unknown(name))?.0.spec)
    }

    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        self.check_open()?;
        let mut listed = Vec::new();
        for snapshot in self.durable().await? {
            listed.push(self.info(snapshot).await?);
        }
        Ok(listed)
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.check_open()?;
        let arguments = Arguments::default().text(name.as_str()).flag(paused);
        match self.text(&scripts::PAUSE, &arguments).await?.as_str() {
            "changed" => Ok(()),
            _ => Err(unknown(name)),
        }
    }

    async fn seek(&self, name: &SubscriptionName, to: &SeekTo, dry_run: bool) -> Result<Sought> {
        self.check_open()?;
        let before = self.known(name).await?;
        let mut place = self.place_of(to).await?.min(before.head);
        if !dry_run {
            let arguments = Arguments::default().text(name.as_str());
            let arguments = match to {
                SeekTo::Latest => arguments.text("latest"),
                _ => arguments.position(place),
            };
            let moved = self.text(&scripts::SEEK, &arguments).await?;
            place = crate::place::from_hex(&moved).ok_or_else(|| unknown(name))?;
        }
        let mut events = 0;
        self.scan(place, before.head, |position, slot| {
            events += u64::from(before.stored.matches(position, slot));
            true
        })
        .await?;
        Ok(Sought {
            from: Position(before.stored.frontier),
            to: Position(place),
            events,
        })
    }

    async fn audit(&self, name: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        self.check_open()?;
        self.look_for_losses().await?;
        let mut chosen = match name {
            Some(name) => vec![self.known(name).await?],
            None => self.durable().await?,
        };
        if name.is_some() && chosen.iter().any(|snapshot| snapshot.group) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "others acknowledge in a consumer group of redis: there is nothing to compare with",
            ));
        }
        chosen.retain(|snapshot| !snapshot.group);
        let mut audited = Vec::with_capacity(chosen.len());
        for snapshot in chosen {
            audited.push(self.audited(snapshot).await?);
        }
        Ok(audited)
    }

    async fn stats(&self) -> Result<StreamStats> {
        self.check_open()?;
        let mut numbers = redis::cmd("HMGET");
        numbers.arg(self.wire.key("n")).arg("events").arg("bytes");
        let (mut events, bytes): (Option<u64>, Option<u64>) = self.wire.run(&numbers).await?;
        if self.wire.config.form.is_foreign() {
            let mut length = redis::cmd("XLEN");
            length.arg(&self.wire.config.stream);
            events = Some(self.wire.run(&length).await?);
        }
        let losses = self.look_for_losses().await?;
        let first = self.log.page(0).await?;
        let last = self.log.page_before(None).await?;
        Ok(StreamStats {
            events: events.unwrap_or(0),
            bytes: bytes.unwrap_or(0),
            first: first.first().map(|frame| Position(frame.head)),
            last: last.first().map(|frame| Position(frame.last())),
            losses: losses.times,
            lost: losses.events,
        })
    }

    async fn health(&self) -> Health {
        if let Err(error) = self.check_open() {
            return Health {
                ok: false,
                detail: error.to_string(),
            };
        }
        if let Some(trouble) = self.log.trouble() {
            return Health {
                ok: false,
                detail: trouble,
            };
        }
        let ping = redis::cmd("PING");
        let patience = self.wire.config.clock.sleep(HEALTH);
        tokio::select! {
            answer = self.wire.run::<String>(&ping) => match answer {
                Ok(_) => Health { ok: true, detail: self.wellbeing() },
                Err(error) => Health { ok: false, detail: error.to_string() },
            },
            () = patience => Health { ok: false, detail: "redis does not answer".into() },
        }
    }

    async fn advice(&self) -> Result<Vec<Advice>> {
        self.check_open()?;
        advice::of(&self.wire).await
    }
}

impl RedisBackend {
    fn wellbeing(&self) -> String {
        let Losses { times, events } = *self.losses.lock();
        let lost = if times == 0 {
            String::new()
        } else {
            format!(", from which others removed events {times} times, {events} known")
        };
        let unseen = if self.wire.is_replaced_unseen() {
            "; a replica that takes over may lack what was acknowledged last: wait_replicas=1 waits \
             for one"
        } else {
            ""
        };
        format!("stream {}{lost}{unseen}", self.wire.config.stream)
    }
}

/// How long the server may take to show that it is well.
const HEALTH: std::time::Duration = std::time::Duration::from_secs(1);

fn other_kind(name: &SubscriptionName, group: bool) -> Error {
    let (is, wanted) = if group {
        ("is", "not")
    } else {
        ("is not", "is")
    };
    Error::new(
        ErrorKind::Conflict,
        format!(
            "subscription `{name}` {is} a consumer group of redis, and {wanted} meant to be one"
        ),
    )
}

fn busy(name: &SubscriptionName) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("subscription `{name}` was changed by others all the time"),
    )
}
