//! What is gone although nobody here removed it: a stream that somebody deleted or trimmed. It is
//! noted once, told once, and the books are mended so that they balance again.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use tokio::sync::watch;

use crate::backend::RedisBackend;
use crate::connect::{Answer, Arguments, Wire};
use crate::log::Log;
use crate::place::{block_of, end_of, entry_of, hex, of_entry};
use crate::{retention, scripts};

/// How often it is looked whether something is gone.
const EVERY: Duration = Duration::from_secs(5);
/// How often a stream is counted again that changed meanwhile.
const TRIES: usize = 5;

/// What was lost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// How often.
    pub(crate) times: u64,
    /// How many events, as far as known.
    pub(crate) events: u64,
}

impl RedisBackend {
    /// Looks whether something is gone, and mends the books then; answers what was lost so far.
    pub(crate) async fn look_for_losses(&self) -> Result<Losses> {
        let (losses, mend) = look(&self.wire, &self.log).await?;
        if !mend.is_empty() {
            self.mend(&mend).await?;
        }
        *self.losses.lock() = losses;
        Ok(losses)
    }

    /// Takes what the books count up to there, and the log has no more, for removed.
    async fn mend(&self, to: &str) -> Result<()> {
        let last = of_entry(to).map_or(0, block_of);
        let mut arguments = Arguments::default().text(to);
        for snapshot in self.durable().await? {
            if snapshot.group {
                continue;
            }
            let balance = self.balance(&snapshot).await?.0.into_iter();
            let gone = balance.filter(|(block, missing)| *block <= last && *missing < 0);
            let pairs = gone.map(|(block, missing)| format!("[\"{block:012x}\",{}]", -missing));
            let pairs = pairs.collect::<Vec<_>>().join(",");
            let stored = &snapshot.stored;
            arguments = arguments.text(stored.spec.name.as_str());
            arguments = arguments.number(stored.version).text(format!("[{pairs}]"));
        }
        self.wire.script(&scripts::MEND, &arguments).await?;
        Ok(())
    }
}

/// Notes and tells what is gone; answers what was lost so far, and up to which entry the books of
/// subscriptions are to be mended (empty: they are sound).
pub(crate) async fn look(wire: &Wire, log: &Log) -> Result<(Losses, String)> {
    let needed = needed(wire).await?;
    let mut counted = Vec::new();
    for _ in 0..TRIES {
        let seen = log.newest().map_or_else(String::new, entry_of);
        let mut arguments = Arguments::default().text(&needed).text(seen);
        for part in &counted {
            arguments = arguments.text(part);
        }
        let answer = wire.look(&scripts::CHECK, &arguments).await?;
        let mut answer = Answer::new(answer, "check")?;
        if answer.next::<String>()? == "count" {
            counted = count(log).await?;
            continue;
        }
        let losses = Losses {
            times: answer.next::<String>()?.parse().unwrap_or(0),
            events: answer.next::<String>()?.parse().unwrap_or(0),
        };
        let mend: String = answer.next()?;
        while let Some(told) = answer.next_if_any::<String>()? {
            tell(wire, &told);
        }
        return Ok((losses, mend));
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "others change the stream all the time",
    ))
}

/// On a stream of others, from where on it is needed.
async fn needed(wire: &Wire) -> Result<String> {
    if !wire.config.form.is_foreign() {
        return Ok(String::new());
    }
    let needs = retention::needs(wire).await?;
    let lowest = needs.iter().map(|need| need.lowest).min();
    Ok(lowest.map_or_else(|| hex(u128::MAX >> 16), hex))
}

/// The first and the last entry, and how many events and bytes stand there.
async fn count(log: &Log) -> Result<Vec<String>> {
    let (mut first, mut last) = (None, 0);
    let (mut at, mut events, mut bytes) = (0, 0, 0);
    loop {
        let page = log.page(at).await?;
        let Some(end) = page.last() else {
            break;
        };
        first = first.or_else(|| page.first().map(|frame| frame.head));
        last = end.head;
        at = end_of(end.head);
        events += page.iter().map(|frame| frame.slots.len()).sum::<usize>();
        bytes += page.iter().map(|frame| frame.bytes).sum::<usize>();
    }
    let ends = [entry_of(first.unwrap_or(0)), entry_of(last)];
    let sums = [events.to_string(), bytes.to_string()];
    Ok(ends.into_iter().chain(sums).collect())
}

fn tell(wire: &Wire, told: &str) {
    let stream = &wire.config.stream;
    let mut parts = told.split(' ');
    let (from, to) = (parts.next(), parts.next());
    let events = parts.next().filter(|events| !events.is_empty());
    let events = events.unwrap_or("unknown");
    tracing::error!(stream, from, to, events, "events are gone from the stream");
}

/// Looks from time to time, until `closed`.
pub(crate) fn start(backend: &Arc<RedisBackend>, mut closed: watch::Receiver<bool>) {
    let weak = Arc::downgrade(backend);
    let clock = backend.wire.config.clock.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = closed.wait_for(|closed| *closed) => return,
                () = clock.sleep(EVERY) => {}
            }
            let Some(backend) = weak.upgrade() else {
                return;
            };
            if let Err(error) = backend.look_for_losses().await {
                tracing::debug!(%error, "cannot look whether events are gone");
            }
        }
    });
}
