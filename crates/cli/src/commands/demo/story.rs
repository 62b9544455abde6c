//! What the demo tells: one line for each thing that happens, with who and when.

use fanfare::core::clock::Clock;
use fanfare::core::timestamp::Timestamp;
use serde_json::json;

use crate::failure::Result;
use crate::output::{Output, Tone};

/// Tells what happens. Cheap to clone; handlers take it as their state.
#[derive(Debug, Clone)]
pub(super) struct Story {
    out: Output,
    clock: Clock,
    started: Timestamp,
}

impl Story {
    /// A story that begins now.
    pub(super) fn new(out: Output, clock: Clock) -> Self {
        let started = clock.now();
        Self {
            out,
            clock,
            started,
        }
    }

    /// Tells one thing.
    pub(super) fn tell(&self, who: &str, tone: Tone, text: &str) -> Result<()> {
        let seconds = self.clock.now().since(self.started).as_secs_f64();
        if self.out.json() {
            return self
                .out
                .object(&json!({ "seconds": seconds, "who": who, "text": text }));
        }
        let time = self.out.paint(Tone::Faint, &format!("{seconds:6.1}s"));
        let who = self.out.paint(Tone::Strong, &format!("{who:<10}"));
        self.out
            .line(&format!("{time}  {who}  {}", self.out.paint(tone, text)))
    }

    /// Tells one thing where nobody can be told that the telling failed.
    pub(super) fn mention(&self, who: &str, tone: Tone, text: &str) {
        // The reader is gone: the next line of the main task ends the demo.
        let _ = self.tell(who, tone, text);
    }
}
