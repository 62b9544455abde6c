//! Retention: entries that every subscription has settled go after their time, or earlier where the
//! stream is bounded and full. What is removed is counted first, so that the books still balance.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fanfare_core::error::Result;
use fanfare_core::subscription::SubscriptionName;
use fanfare_fleet::{Page, Stored};
use redis::Value;
use tokio::sync::watch;

use crate::connect::{Answer, Arguments, Wire};
use crate::log::Log;
use crate::place::{before, block_of, end_of, entry_of, from_hex};
use crate::scripts;
use crate::subscription;

/// How often old entries are looked for.
const EVERY: Duration = Duration::from_mins(1);
/// How long an ephemeral subscription may be silent before it is removed.
const SILENT: Duration = Duration::from_mins(1);
/// Entries removed in one step.
const STEP: usize = 2_048;
/// What a full stream is brought down to, in percent of its bound.
const ROOM: u64 = 75;

#[derive(Debug)]
pub(crate) struct Retention {
    wire: Arc<Wire>,
    log: Arc<Log>,
}

/// One subscription and where it still needs the stream from.
pub(crate) struct Need {
    pub(crate) name: SubscriptionName,
    version: u64,
    pub(crate) lowest: u128,
}

impl Retention {
    pub(crate) fn start(
        wire: Arc<Wire>,
        log: Arc<Log>,
        closed: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let retention = Arc::new(Self { wire, log });
        tokio::spawn(run(Arc::downgrade(&retention), closed));
        retention
    }

    /// Removes settled entries, whatever their age, until there is room.
    pub(crate) async fn make_room(&self) -> Result<()> {
        let goal = self.wire.config.max_bytes / 100 * ROOM;
        let mut bytes = redis::cmd("HGET");
        bytes.arg(self.wire.key("n")).arg("bytes");
        let bytes: Option<u64> = self.wire.run(&bytes).await?;
        self.trim(u128::MAX, bytes.unwrap_or(0).saturating_sub(goal))
            .await
    }

    async fn keep(&self) -> Result<()> {
        self.forget_silent().await?;
        self.log.note_settled().await?;
        let now = self.wire.config.clock.now();
        self.trim(before(now - self.wire.config.retention), u64::MAX)
            .await
    }

    /// Removes entries at or before `until` that nobody needs, about `most` bytes of them.
    async fn trim(&self, until: u128, most: u64) -> Result<()> {
        if self.wire.config.form.is_foreign() {
            // Others may still need it.
            return Ok(());
        }
        let mut left = most;
        loop {
            let (removed, more) = self.trim_step(until, left).await?;
            left = left.saturating_sub(removed);
            if !more || left == 0 {
                return Ok(());
            }
        }
    }

    async fn trim_step(&self, until: u128, most: u64) -> Result<(u64, bool)> {
        let needs = needs(&self.wire).await?;
        let lowest = needs.iter().map(|need| need.lowest).min();
        let mut stored = Vec::with_capacity(needs.len());
        for need in &needs {
            match subscription::load(&self.wire, &need.name).await? {
                Some((now, _)) if now.version == need.version => {
                    stored.push((now, BTreeMap::new()));
                }
                _ => return Ok((0, false)),
            }
        }
        let (mut at, mut bytes, mut events, mut entries) = (0_u128, 0_u64, 0_u64, 0);
        let mut cut = None;
        'pages: while entries < STEP {
            let page = self.log.page(at).await?;
            if page.is_empty() {
                break;
            }
            for frame in page {
                let end = end_of(frame.head);
                let needed = lowest.is_some_and(|lowest| lowest <= frame.last());
                if needed || end > until || bytes >= most {
                    break 'pages;
                }
                for (known, blocks) in &mut stored {
                    count(known, blocks, &frame);
                }
                bytes += frame.bytes as u64;
                events += frame.slots.len() as u64;
                entries += 1;
                at = end;
                cut = Some(end);
            }
        }
        let Some(cut) = cut else {
            return Ok((0, false));
        };
        let mut arguments = Arguments::default()
            .text(entry_of(cut + 1))
            .number(bytes)
            .number(events);
        for (known, blocks) in &stored {
            let pairs = blocks.iter();
            let pairs = pairs.map(|(block, n)| format!("[\"{block:012x}\",{n}]"));
            let counts = pairs.collect::<Vec<_>>().join(",");
            arguments = arguments
                .text(known.spec.name.as_str())
                .number(known.version);
            arguments = arguments.text(format!("[{counts}]"));
        }
        let done = self.wire.script(&scripts::TRIM, &arguments).await?;
        Ok((bytes, done == Value::Int(1) && entries >= STEP))
    }

    /// Ephemeral subscriptions whose process died.
    async fn forget_silent(&self) -> Result<()> {
        for need in needs(&self.wire).await? {
            let arguments = Arguments::default().text(need.name.as_str());
            let arguments = arguments.number(SILENT.as_micros());
            self.wire.script(&scripts::DELETE, &arguments).await?;
        }
        Ok(())
    }
}

pub(crate) async fn needs(wire: &Wire) -> Result<Vec<Need>> {
    let answer = wire.script(&scripts::LOW, &[]).await?;
    let mut answer = Answer::new(answer, "low")?;
    let mut needs = Vec::new();
    while !answer.is_empty() {
        let name: String = answer.next()?;
        let version = answer.next()?;
        let lowest: String = answer.next()?;
        let frontier = answer.next_position()?;
        if let Ok(name) = SubscriptionName::parse(&name) {
            needs.push(Need {
                name,
                version,
                lowest: from_hex(&lowest).map_or(frontier + 1, |low| low.min(frontier + 1)),
            });
        }
    }
    Ok(needs)
}

fn count(stored: &Stored, blocks: &mut BTreeMap<u128, u64>, frame: &crate::log::Frame) {
    for (position, slot) in frame.after(stored.base) {
        if stored.matches(position, slot) {
            *blocks.entry(block_of(position)).or_default() += 1;
        }
    }
}

async fn run(retention: Weak<Retention>, mut closed: watch::Receiver<bool>) {
    loop {
        let Some(clock) = retention.upgrade().map(|r| r.wire.config.clock.clone()) else {
            return;
        };
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = clock.sleep(EVERY) => {}
        }
        let Some(retention) = retention.upgrade() else {
            return;
        };
        if let Err(error) = retention.keep().await {
            tracing::warn!(stream = retention.wire.config.stream, %error, "cannot trim the stream");
        }
    }
}
