//! One message that this process holds, and what it becomes on its way out. Not who gets it.

use std::time::Duration;

use fanfare_core::event::Event;

use crate::wire::Note;

/// One message that this process holds.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) event: Event,
    pub(crate) note: Note,
    /// Acknowledges it on the channel of this line, and on no other.
    pub(crate) tag: u64,
    pub(super) line: u64,
    /// From the queue of those that run alone.
    pub(crate) alone: bool,
    /// It ran alone with somebody who died, and only comes by here to run alone again.
    pub(super) passes: bool,
    /// Its settlement is on the way.
    pub(super) settling: bool,
}

impl Item {
    pub(crate) fn new(event: Event, note: Note, tag: u64, alone: bool) -> Self {
        Self {
            event,
            note,
            tag,
            line: 0,
            alone,
            passes: false,
            settling: false,
        }
    }

    pub(crate) fn passing(self, passes: bool) -> Self {
        Self { passes, ..self }
    }
}

/// What a message that came was to the desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// It is kept, until it is settled or goes back.
    Taken,
    /// One more of what is held, or was done with here: where it was moved to another queue, and the
    /// server died before it heard that the first was to go. Nobody needs it.
    Copy,
}

/// A delivery that goes back to the broker when the process leaves.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) item: Item,
    /// It waits for a retry, so much longer.
    pub(crate) wait: Option<Duration>,
    /// Whoever gets it next runs it alone.
    pub(crate) alone: bool,
}

/// A delivery that a settlement is about to end.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) place: u64,
    pub(super) epoch: u64,
    pub(crate) item: Item,
}

/// A delivery that ran out of attempts.
#[derive(Debug)]
pub(crate) struct Exhausted {
    pub(crate) item: Item,
    pub(crate) attempts: u32,
    /// None where dead letters are off.
    pub(crate) error: Option<String>,
}
