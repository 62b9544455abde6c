//! Operating subscriptions. What must happen at once is a script; counting reads the stream.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use fanfare_core::admin::{
    Admin, Audited, Breach, Counts, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use redis::Value;

use crate::backend::RedisBackend;
use crate::connect::{Answer, Arguments};
use crate::error::unexpected;
use crate::frame::Slot;
use crate::place::{before, block_of, block_range, hex, recorded};
use crate::scripts::{self, Script};
use crate::subscription::{Stored, unknown, write_patterns, write_spec};

/// The most ids that a breach names.
const MAX_IDS: usize = 1_000;
/// How often an operation is tried again when the subscription changed under it.
const TRIES: usize = 20;

/// One subscription at one moment.
pub(crate) struct Snapshot {
    pub(crate) stored: Stored,
    /// By block and kind: a, d, x, e, v (trimmed).
    counters: BTreeMap<(u128, char), i64>,
    pub(crate) in_flight: u64,
    pub(crate) waiting: u64,
    lowest: Option<u128>,
    /// How many are unsettled, by block.
    open: BTreeMap<u128, i64>,
    /// The end of the stream.
    pub(crate) head: u128,
}

impl Snapshot {
    fn total(&self, kind: char) -> u64 {
        let of_kind = self.counters.iter().filter(|((_, k), _)| *k == kind);
        u64::try_from(of_kind.map(|(_, n)| n).sum::<i64>()).unwrap_or(0)
    }

    /// `matching` of the events below the frontier and `above` of those beyond are its.
    fn counts(&self, matching: u64, above: u64) -> Counts {
        Counts {
            published: matching + above + self.total('e'),
            acknowledged: self.total('a'),
            dropped: self.total('d'),
            dead: self.total('x'),
            in_flight: self.in_flight,
            waiting: self.waiting + above,
        }
    }
}

impl RedisBackend {
    pub(crate) async fn snapshot(&self, name: &SubscriptionName) -> Result<Option<Snapshot>> {
        let arguments = Arguments::default().text(name.as_str());
        let answer = self.wire.look(&scripts::SNAPSHOT, &arguments).await?;
        if answer == Value::Nil {
            return Ok(None);
        }
        let mut answer = Answer::new(answer, "snapshot")?;
        let fields: HashMap<String, String> = answer.next()?;
        let mut counters = BTreeMap::new();
        let mut counted: BTreeMap<String, i64> = answer.next()?;
        while let Some((mut field, n)) = counted.pop_first() {
            let kind = field.pop().unwrap_or(' ');
            let block = u128::from_str_radix(&field, 16).map_err(|_| unexpected("snapshot"))?;
            counters.insert((block, kind), n);
        }
        let (in_flight, waiting) = (answer.next()?, answer.next()?);
        let lowest = crate::place::from_hex(&answer.next::<String>()?);
        let mut open = BTreeMap::new();
        for (block, n) in answer.next::<BTreeMap<String, i64>>()? {
            let block = u128::from_str_radix(&block, 16).map_err(|_| unexpected("snapshot"))?;
            open.insert(block, n);
        }
        Ok(Some(Snapshot {
            stored: Stored::read(name, &fields)?,
            counters,
            in_flight,
            waiting,
            lowest,
            open,
            head: answer.next_position()?,
        }))
    }

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

    async fn above(&self, snapshot: &Snapshot) -> Result<(u64, Option<u128>)> {
        let (mut above, mut first) = (0, None);
        let stored = &snapshot.stored;
        self.scan(stored.frontier, snapshot.head, |position, slot| {
            if stored.matches(position, slot) {
                above += 1;
                first.get_or_insert(position);
            }
            true
        })
        .await?;
        Ok((above, first))
    }

    async fn info(&self, snapshot: Snapshot) -> Result<SubscriptionInfo> {
        let (above, first) = self.above(&snapshot).await?;
        Ok(SubscriptionInfo {
            counts: snapshot.counts(snapshot.stored.claimed, above),
            oldest_unsettled: snapshot.lowest.or(first).map(recorded),
            frontier: Position(snapshot.stored.frontier),
            created: snapshot.stored.created,
            paused: snapshot.stored.paused,
            spec: snapshot.stored.spec,
        })
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

    async fn audited(&self, snapshot: Snapshot) -> Result<Audited> {
        let stored = &snapshot.stored;
        let mut balance: BTreeMap<u128, i64> = BTreeMap::new();
        let (mut below, mut above) = (0, 0);
        self.scan(stored.base, snapshot.head, |position, slot| {
            if stored.matches(position, slot) {
                if position > stored.frontier {
                    above += 1;
                } else {
                    below += 1;
                    *balance.entry(block_of(position)).or_default() += 1;
                }
            }
            true
        })
        .await?;
        for ((block, kind), n) in &snapshot.counters {
            let sign = if matches!(kind, 'e' | 'v') { 1 } else { -1 };
            *balance.entry(*block).or_default() += sign * n;
        }
        for (block, n) in &snapshot.open {
            *balance.entry(*block).or_default() -= n;
        }
        let mut breaches = Vec::new();
        for (block, missing) in balance.into_iter().filter(|(_, missing)| *missing != 0) {
            breaches.push(self.breach(&snapshot, block, missing).await?);
        }
        Ok(Audited {
            name: stored.spec.name.clone(),
            counts: snapshot.counts(below + snapshot.total('v'), above),
            breaches,
        })
    }

    async fn breach(&self, snapshot: &Snapshot, block: u128, missing: i64) -> Result<Breach> {
        let (first, last) = block_range(block);
        let stored = &snapshot.stored;
        let from = first.0.saturating_sub(1).max(stored.base);
        let mut ids = Vec::new();
        self.scan(from, last.0.min(stored.frontier), |position, slot| {
            if let Some(event) = slot.event().filter(|_| stored.matches(position, slot)) {
                ids.push(event.id().to_string());
            }
            ids.len() < MAX_IDS
        })
        .await?;
        Ok(Breach {
            first,
            last,
            missing,
            ids,
        })
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
        for _ in 0..TRIES {
            let there = Stored::load(&self.wire, &spec.name).await?;
            let (mut version, mut wanted) = (String::new(), spec.clone());
            if let Some(there) = &there {
                there.spec.agrees_with(spec)?;
                wanted.start = there.spec.start;
                if wanted == there.spec {
                    return Ok(Put::Unchanged);
                }
                version.clone_from(&there.version);
            }
            let arguments = Arguments::default()
                .text(spec.name.as_str())
                .text(version)
                .text(write_spec(&wanted)?)
                .number(wanted.lease.as_micros())
                .number(wanted.retry.max_attempts)
                .text(&start)
                .number(self.wire.config.clock.now().as_nanos())
                .flag(wanted.ephemeral)
                .text(write_patterns(&wanted.patterns));
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
            let there = Stored::load(&self.wire, name).await?;
            let there = there.ok_or_else(|| unknown(name))?;
            let spec = SubscriptionSpec {
                patterns: patterns.clone(),
                ..there.spec
            };
            let arguments = Arguments::default()
                .text(name.as_str())
                .text(&there.version)
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
        let stored = Stored::load(&self.wire, name).await?;
        Ok(stored.ok_or_else(|| unknown(name))?.spec)
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
        let chosen = match name {
            Some(name) => vec![self.known(name).await?],
            None => self.durable().await?,
        };
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
        let first = self.log.page(0).await?;
        let last = self.log.page_before(None).await?;
        Ok(StreamStats {
            events: events.unwrap_or(0),
            bytes: bytes.unwrap_or(0),
            first: first.first().map(|frame| Position(frame.head)),
            last: last.first().map(|frame| Position(frame.last())),
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
                Ok(_) => Health { ok: true, detail: format!("stream {}", self.wire.config.stream) },
                Err(error) => Health { ok: false, detail: error.to_string() },
            },
            () = patience => Health { ok: false, detail: "redis does not answer".into() },
        }
    }
}

/// How long the server may take to show that it is well.
const HEALTH: std::time::Duration = std::time::Duration::from_secs(1);

fn busy(name: &SubscriptionName) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("subscription `{name}` was changed by others all the time"),
    )
}
