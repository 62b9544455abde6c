//! A delivery given up, kept with everything needed to understand, mend and redrive it.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::error::Result;
use crate::event::Event;
use crate::pattern::PatternSet;
use crate::position::Position;
use crate::subscription::SubscriptionName;
use crate::timestamp::Timestamp;

/// One dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Names it on this stream.
    pub id: String,
    /// Which subscription gave up.
    pub subscription: SubscriptionName,
    /// Where the event stands in the stream.
    pub position: Position,
    /// What was to be delivered.
    pub body: DeadBody,
    /// The data before somebody edited them.
    pub original: Option<Data>,
    /// Why: `max_attempts`, `rejected`, `undecodable`, `unhandled`.
    pub reason: String,
    /// What failed last.
    pub error: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it first failed.
    pub first_failure: Timestamp,
    /// When it last failed.
    pub last_failure: Timestamp,
    /// The same for failures that look the same; see [`fingerprint`].
    pub fingerprint: String,
}

/// An event, or the bytes that could not be read as one.
#[derive(Debug, Clone)]
pub enum DeadBody {
    /// A whole event.
    Event(Event),
    /// Undecodable input as it came.
    Raw(Bytes),
}

impl DeadBody {
    /// The event, where it is one.
    pub fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Raw(_) => None,
        }
    }
}

/// Which dead letters; an empty filter means all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeadLetterFilter {
    /// Of this subscription.
    pub subscription: Option<SubscriptionName>,
    /// Whose event type matches.
    pub patterns: Option<PatternSet>,
    /// With this reason.
    pub reason: Option<String>,
    /// That look the same.
    pub fingerprint: Option<String>,
    /// Last failed at or after.
    pub since: Option<Timestamp>,
    /// Last failed before.
    pub until: Option<Timestamp>,
}

impl DeadLetterFilter {
    /// Whether `letter` is meant.
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let type_matches = |patterns: &PatternSet| {
            letter
                .body
                .event()
                .is_some_and(|event| patterns.matches(event.event_type()))
        };
        self.subscription
            .as_ref()
            .is_none_or(|name| *name == letter.subscription)
            && self.patterns.as_ref().is_none_or(type_matches)
            && self
                .reason
                .as_ref()
                .is_none_or(|reason| *reason == letter.reason)
            && self
                .fingerprint
                .as_ref()
                .is_none_or(|print| *print == letter.fingerprint)
            && self.since.is_none_or(|since| letter.last_failure >= since)
            && self.until.is_none_or(|until| letter.last_failure < until)
    }
}

/// Dead letters to act on.
#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    /// These; ids that are gone are passed over.
    Ids(Vec<String>),
    /// All that match.
    Filter(DeadLetterFilter),
}

/// A page of dead letters, oldest first.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterPage {
    /// The letters.
    pub items: Vec<DeadLetter>,
    /// Pass it as `after` to go on; none at the end.
    pub next: Option<String>,
}

/// What acting on a selection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acted {
    /// How many were meant.
    pub matched: u64,
    /// How many were redriven or discarded.
    pub done: u64,
}

/// Listing and mending dead letters.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// At most `limit` letters after the one named `after`, oldest first.
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage>;

    /// One letter; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when it is gone.
    async fn get(&self, id: &str) -> Result<DeadLetter>;

    /// How many match.
    async fn count(&self, selection: &Selection) -> Result<u64>;

    /// MUST return at most `limit` of the selected letters, oldest first, to their own subscription
    /// only, as fresh deliveries with attempt 1; each letter once, however often this is called.
    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted>;

    /// MUST remove the selected letters for good and count them as dropped.
    async fn discard(&self, selection: &Selection) -> Result<Acted>;

    /// MUST replace the data and keep the first original beside them.
    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter>;
}

/// A short print of a failure that is the same for failures that differ only in numbers, ids and
/// quoted values: 16 hexadecimal digits.
pub fn fingerprint(reason: &str, error: &str) -> String {
    // FNV-1a: stable across versions and machines, which a hasher of the standard library is not.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut feed = |byte: u8| {
        hash ^= u64::from(byte);
        hash = hash.wrapping_mul(0x0100_0000_01b3);
    };
    reason.bytes().chain([0]).for_each(&mut feed);
    // Words with a digit are values, not part of the message.
    for word in error
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
    {
        if !word.bytes().any(|b| b.is_ascii_digit()) {
            word.bytes().chain([b' ']).for_each(&mut feed);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_look_the_same_share_a_fingerprint() {
        let a = fingerprint("max_attempts", "user 17 not found in shard-3");
        assert_eq!(
            a,
            fingerprint("max_attempts", "user 9 not found in shard-12")
        );
        assert_ne!(
            a,
            fingerprint("max_attempts", "user 17 not allowed in shard-3")
        );
        assert_ne!(a, fingerprint("rejected", "user 17 not found in shard-3"));
    }
}
