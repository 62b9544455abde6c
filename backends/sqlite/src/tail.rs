//! The newest events in memory, so that consumers that keep up never read the disk, and the head that
//! everybody waits on. Only committed events get here.

use std::collections::VecDeque;

use fanfare_core::event::Event;
use fanfare_core::position::Position;
use parking_lot::RwLock;
use tokio::sync::watch;

/// An event of the log, in memory.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) position: u64,
    /// When it was appended, in microseconds.
    pub(crate) recorded: i64,
    /// The number of its type.
    pub(crate) kind: u32,
    pub(crate) event: Event,
}

/// Every event above its floor, bounded by events and bytes.
#[derive(Debug)]
pub(crate) struct Tail {
    ring: RwLock<Ring>,
    head: watch::Sender<u64>,
    max_events: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Every event above is here.
    floor: u64,
}

/// What an entry takes beside its event.
const OVERHEAD: usize = 160;

impl Tail {
    /// Empty: the log ends at `head`.
    pub(crate) fn new(head: u64, max_events: usize, max_bytes: usize) -> Self {
        let ring = Ring {
            entries: VecDeque::new(),
            bytes: 0,
            floor: head,
        };
        Self {
            ring: RwLock::new(ring),
            head: watch::Sender::new(head),
            max_events,
            max_bytes,
        }
    }

    /// The newest position.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// To wait for a newer head.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Adds what was committed, in order, and tells everybody who waits.
    pub(crate) fn push(&self, entries: impl IntoIterator<Item = Entry>, head: u64) {
        {
            let mut ring = self.ring.write();
            for entry in entries {
                ring.bytes += entry.event.size() + OVERHEAD;
                ring.entries.push_back(entry);
            }
            while ring.entries.len() > self.max_events || ring.bytes > self.max_bytes {
                let Some(oldest) = ring.entries.pop_front() else {
                    break;
                };
                ring.bytes -= oldest.event.size() + OVERHEAD;
                ring.floor = oldest.position;
            }
        }
        self.head.send_replace(head);
    }

    /// Tells everybody who waits to look whether there is anything to wait for.
    pub(crate) fn nudge(&self) {
        self.head.send_modify(|_| {});
    }

    /// Hands the events above `after` to `read`, in order; none when older ones than are here would
    /// belong to them.
    pub(crate) fn above<T>(
        &self,
        after: u64,
        read: impl FnOnce(&mut dyn Iterator<Item = &Entry>) -> T,
    ) -> Option<T> {
        let ring = self.ring.read();
        if after < ring.floor {
            return None;
        }
        let from = ring.entries.partition_point(|e| e.position <= after);
        Some(read(&mut ring.entries.range(from..)))
    }

    /// The event at `position`, if it is here.
    pub(crate) fn get(&self, position: u64) -> Option<Entry> {
        let ring = self.ring.read();
        let index = ring.entries.binary_search_by_key(&position, |e| e.position);
        ring.entries.get(index.ok()?).cloned()
    }
}

impl Entry {
    pub(crate) fn position(&self) -> Position {
        Position::from(self.position)
    }
}
