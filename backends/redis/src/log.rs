//! Reading the stream: one blocking reader per process keeps its newest frames in memory, wakes who
//! waits for them, and passes on the wake-ups that scripts leave for other processes. It rests while
//! nobody waits: who only publishes does not read everything again. Older frames are read in pages.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fanfare_core::error::Result;
use fanfare_core::subscription::SubscriptionName;
use fanfare_fleet::{Page, Wakes};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::connect::{Blocking, Wire};
use crate::form::Form;
use crate::frame::{self, Slot};
use crate::place::{end_of, entry_of, head_of, index_of, of_entry};
use crate::retention;

/// Frames in one page.
const PAGE: usize = 64;
/// Entries in one blocking read.
const READ: usize = 256;
/// The most events looked at to find where the first one of a duplicate stands.
const LOOK: usize = 20_000;
/// How long one blocking read waits.
const BLOCK: Duration = Duration::from_secs(2);
/// Between attempts to reach a server that is gone: the first pause and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Where the memory begins while nothing is in it.
const NOWHERE: u128 = u128::MAX;

/// The events of one stream entry.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The position of the first.
    pub(crate) head: u128,
    pub(crate) slots: Vec<Slot>,
    /// As stored.
    pub(crate) bytes: usize,
}

impl Page for Frame {
    fn after(&self, position: u128) -> impl Iterator<Item = (u128, &Slot)> + Send {
        let head = self.head;
        let all = self.slots.iter().enumerate();
        all.map(move |(index, slot)| (head | index as u128, slot))
            .filter(move |(at, _)| *at > position)
    }

    fn last(&self) -> u128 {
        self.head | (self.slots.len().saturating_sub(1)) as u128
    }

    fn end(&self) -> u128 {
        end_of(self.head)
    }
}

impl Frame {
    pub(crate) fn get(&self, position: u128) -> Option<&Slot> {
        self.slots.get(index_of(position))
    }

    fn read(form: &Form, entry: &Entry) -> Option<Self> {
        let (id, fields) = entry;
        let Some(head) = of_entry(id) else {
            tracing::error!(
                id,
                "an entry whose sequence number has no position is passed over"
            );
            return None;
        };
        let (slots, bytes) = form.read(fields);
        Some(Self { head, slots, bytes })
    }
}

pub(crate) type Entry = (String, Vec<Vec<u8>>);
pub(crate) type Streams = Option<Vec<(String, Vec<Entry>)>>;

/// The newest frames, without a gap.
#[derive(Debug, Default)]
struct Cache {
    /// Everything after it and up to the end is here.
    from: u128,
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
}

impl Cache {
    fn push(&mut self, frame: Arc<Frame>, most: usize) {
        self.bytes += frame.bytes;
        self.frames.push_back(frame);
        while self.bytes > most && self.frames.len() > 1 {
            if let Some(oldest) = self.frames.pop_front() {
                self.bytes -= oldest.bytes;
                self.from = end_of(oldest.head);
            }
        }
    }

    fn start(&self, position: u128) -> usize {
        let head = head_of(position);
        self.frames.partition_point(|frame| frame.head < head)
    }
}

/// The stream as this process sees it.
#[derive(Debug)]
pub(crate) struct Log {
    wire: Arc<Wire>,
    cache: Mutex<Cache>,
    /// Changes when frames were appended.
    appended: watch::Sender<u64>,
    waiting: Wakes,
    /// Somebody waits again.
    wanted: Arc<Notify>,
    /// Up to where each subscription had settled everything, when last asked.
    settled: Mutex<BTreeMap<String, u128>>,
    /// Why the reader cannot read, while it cannot.
    trouble: Mutex<Option<String>>,
}

impl Log {
    /// Checks that it can be read; the reader runs until `closed`.
    pub(crate) async fn open(wire: Arc<Wire>, closed: watch::Receiver<bool>) -> Result<Arc<Self>> {
        ends(&wire).await?;
        let log = Arc::new(Self {
            wire,
            cache: Mutex::new(Cache {
                from: NOWHERE,
                ..Cache::default()
            }),
            appended: watch::Sender::new(0),
            waiting: Wakes::default(),
            wanted: Arc::default(),
            settled: Mutex::default(),
            trouble: Mutex::default(),
        });
        tokio::spawn(read(Arc::downgrade(&log), closed));
        Ok(log)
    }

    /// Changes when frames were appended, as long as somebody holds what [`Log::woken`] gave.
    pub(crate) fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// Notified when a subscription may have something other than new events.
    pub(crate) fn woken(&self, name: &str) -> Arc<Notify> {
        let woken = self.waiting.of(name);
        self.wanted.notify_one();
        woken
    }

    /// Whether anybody waits for anything.
    fn is_followed(&self) -> bool {
        self.waiting.any()
    }

    /// Whether the reader rests; then nothing is in memory.
    fn rests(&self) -> bool {
        let rests = !self.is_followed();
        if rests {
            self.begin(NOWHERE);
            *self.trouble.lock() = None;
        }
        rests
    }

    /// The reader reads again, behind this entry where it has rested.
    fn go_on(&self, rested: Option<&String>) {
        *self.trouble.lock() = None;
        if let Some(id) = rested {
            self.begin(of_entry(id).filter(|head| *head > 0).map_or(0, end_of));
        }
        // Whatever happened meanwhile.
        self.wake(None);
    }

    fn begin(&self, from: u128) {
        *self.cache.lock() = Cache {
            from,
            ..Cache::default()
        };
        self.appended.send_modify(|n| *n += 1);
    }

    /// Asks up to where each subscription has settled everything.
    pub(crate) async fn note_settled(&self) -> Result<()> {
        let needs = retention::needs(&self.wire).await?;
        let settled = needs
            .into_iter()
            .map(|need| (need.name.as_str().to_owned(), need.lowest.saturating_sub(1)));
        *self.settled.lock() = settled.collect();
        Ok(())
    }

    /// Up to where a subscription had settled everything, when last asked.
    pub(crate) fn settled(&self, name: &SubscriptionName) -> Option<u128> {
        self.settled.lock().get(name.as_str()).copied()
    }

    /// Why the reader cannot read, if it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// The newest entry that was read, if any is still held.
    pub(crate) fn newest(&self) -> Option<u128> {
        self.cache.lock().frames.back().map(|frame| frame.head)
    }

    /// Some frames with events after `position`, in order: none at the end of the stream.
    pub(crate) async fn after(&self, position: u128) -> Result<Vec<Arc<Frame>>> {
        {
            let cache = self.cache.lock();
            if position >= cache.from {
                let frames = cache.frames.iter().skip(cache.start(position));
                let later = frames.filter(|frame| frame.last() > position);
                return Ok(later.take(PAGE).cloned().collect());
            }
        }
        self.page(position).await
    }

    /// The same, from the server.
    pub(crate) async fn page(&self, position: u128) -> Result<Vec<Arc<Frame>>> {
        let mut from = entry_of(position);
        if end_of(position) == position {
            from.insert(0, '(');
        }
        let mut range = redis::cmd("XRANGE");
        range.arg(&self.wire.config.stream).arg(from).arg("+");
        range.arg("COUNT").arg(PAGE);
        let entries: Vec<Entry> = self.wire.run(&range).await?;
        Ok(self.frames(entries))
    }

    /// Frames that end before `position`, or hold it, newest first.
    pub(crate) async fn page_before(&self, position: Option<u128>) -> Result<Vec<Arc<Frame>>> {
        let mut range = redis::cmd("XREVRANGE");
        let from = position.map_or_else(|| "+".to_owned(), entry_of);
        range.arg(&self.wire.config.stream).arg(from).arg("-");
        range.arg("COUNT").arg(PAGE);
        let entries: Vec<Entry> = self.wire.run(&range).await?;
        Ok(self.frames(entries))
    }

    /// The slots at these positions, as far as they are still there.
    pub(crate) async fn find(&self, positions: &[u128]) -> Result<BTreeMap<u128, Slot>> {
        let mut found = BTreeMap::new();
        let mut heads = Vec::new();
        {
            let cache = self.cache.lock();
            for position in positions {
                let frame = cache.frames.get(cache.start(*position));
                match frame.filter(|frame| frame.head == head_of(*position)) {
                    Some(frame) => {
                        let slot = frame.get(*position).map(|slot| (*position, slot.clone()));
                        found.extend(slot);
                    }
                    None => heads.push(head_of(*position)),
                }
            }
        }
        heads.sort_unstable();
        heads.dedup();
        for some in heads.chunks(PAGE) {
            let mut pipeline = redis::pipe();
            for head in some {
                let id = entry_of(*head);
                pipeline
                    .cmd("XRANGE")
                    .arg(&self.wire.config.stream)
                    .arg(&id)
                    .arg(&id);
            }
            let answers: Vec<Vec<Entry>> = self.wire.run_all(&pipeline).await?;
            let frames = self.frames(answers.into_iter().flatten());
            for position in positions {
                let frame = frames.iter().find(|frame| frame.head == head_of(*position));
                let slot = frame.and_then(|frame| frame.get(*position));
                found.extend(slot.map(|slot| (*position, slot.clone())));
            }
        }
        Ok(found)
    }

    /// Where the first events of these identities stand, among the newest [`LOOK`] of the stream.
    pub(crate) async fn firsts(&self, identities: Vec<&[u8]>) -> HashMap<Vec<u8>, u128> {
        let mut left: HashSet<&[u8]> = identities.into_iter().collect();
        let mut found = HashMap::new();
        let mut look = |frame: &Frame| {
            for (position, slot) in frame.after(0) {
                let identity = slot.event().map(frame::identity).unwrap_or_default();
                if left.remove(&identity[..]) {
                    found.insert(identity, position);
                }
            }
            left.is_empty()
        };
        let mut before = {
            let cache = self.cache.lock();
            if cache.frames.iter().rev().any(|frame| look(frame)) {
                return found;
            }
            cache.frames.front().map(|frame| frame.head)
        };
        let mut looked = 0;
        while looked < LOOK {
            // Where it stands is good to know, and no reason to fail.
            let page = self.page_before(before).await.unwrap_or_default();
            let oldest = page.last().map(|frame| frame.head);
            looked += page.iter().map(|frame| frame.slots.len()).sum::<usize>();
            let over = oldest.is_none() || oldest == before;
            if page.iter().any(|frame| look(frame)) || over {
                break;
            }
            before = oldest;
        }
        found
    }

    /// Entries as what stands in them.
    pub(crate) fn frames(&self, entries: impl IntoIterator<Item = Entry>) -> Vec<Arc<Frame>> {
        let form = &self.wire.config.form;
        let read = entries
            .into_iter()
            .filter_map(|entry| Frame::read(form, &entry));
        read.map(Arc::new).collect()
    }

    fn append(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let most = self.wire.config.cache_bytes;
        let mut cache = self.cache.lock();
        for frame in self.frames(entries) {
            cache.push(frame, most);
        }
        drop(cache);
        self.appended.send_modify(|n| *n += 1);
    }

    fn wake(&self, name: Option<&str>) {
        self.waiting.wake(name);
    }
}

/// The ids of the newest entry and of the newest wake-up.
async fn ends(wire: &Wire) -> Result<(String, String)> {
    let newest = |key: &str| {
        let mut newest = redis::cmd("XREVRANGE");
        newest.arg(key).arg("+").arg("-").arg("COUNT").arg(1);
        newest
    };
    let last = |entries: Vec<Entry>| {
        let last = entries.into_iter().next().map(|(id, _)| id);
        last.unwrap_or_else(|| "0-0".to_owned())
    };
    let stream = wire.run(&newest(&wire.config.stream)).await?;
    let wakes = wire.run(&newest(&wire.key("w"))).await?;
    Ok((last(stream), last(wakes)))
}

/// The reader. It ends with the log, or when the backend closes.
async fn read(log: Weak<Log>, mut closed: watch::Receiver<bool>) {
    let mut last = None;
    let mut pause = RECONNECT.0;
    loop {
        let Some(there) = log.upgrade() else {
            return;
        };
        let (wire, wanted) = (there.wire.clone(), there.wanted.clone());
        let rests = there.rests();
        drop(there);
        let reading = async {
            if rests {
                last = None;
                wanted.notified().await;
                return Ok(());
            }
            read_on(&wire, &log, &mut last, &mut pause).await
        };
        let ended = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return,
            ended = reading => ended,
        };
        let (Err(error), Some(there)) = (ended, log.upgrade()) else {
            continue;
        };
        tracing::warn!(stream = wire.config.stream, %error, "cannot read the stream");
        *there.trouble.lock() = Some(error.to_string());
        drop(there);
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = wire.config.clock.sleep(pause) => {}
        }
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// Reads on one connection until it breaks, or nobody waits any more. `last` is up to where everything
/// was read; without it that is where the stream ends now.
async fn read_on(
    wire: &Wire,
    log: &Weak<Log>,
    last: &mut Option<(String, String)>,
    pause: &mut Duration,
) -> Result<()> {
    let mut connection = wire.blocking().await?;
    let mut from = match last.clone() {
        Some(last) => last,
        None => ends(wire).await?,
    };
    if let Some(log) = log.upgrade() {
        log.go_on(last.is_none().then_some(&from.0));
    }
    *pause = RECONNECT.0;
    loop {
        *last = Some(from.clone());
        let answer = read_once(wire, &mut connection, &from).await?;
        let Some(log) = log.upgrade() else {
            return Ok(());
        };
        for (key, entries) in answer.into_iter().flatten() {
            let Some(newest) = entries.last().map(|(id, _)| id.clone()) else {
                continue;
            };
            if key == wire.config.stream {
                from.0 = newest;
                log.append(entries);
            } else {
                from.1 = newest;
                for (_, fields) in entries {
                    let name = fields
                        .get(1)
                        .and_then(|name| std::str::from_utf8(name).ok());
                    log.wake(Some(name.unwrap_or_default()));
                }
            }
        }
        if !log.is_followed() {
            return Ok(());
        }
    }
}

async fn read_once(
    wire: &Wire,
    connection: &mut Blocking,
    last: &(String, String),
) -> Result<Streams> {
    let mut command = redis::cmd("XREAD");
    command.arg("BLOCK").arg(BLOCK.as_millis().to_string());
    command.arg("COUNT").arg(READ).arg("STREAMS");
    command.arg(&wire.config.stream).arg(wire.key("w"));
    command.arg(&last.0).arg(&last.1);
    connection.read(&command, BLOCK).await
}
