//! One message of the log as what stands at a position: its sequence on the server.

use bytes::Bytes;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::{Page, Slot, Stored};

use crate::form::Form;

/// What a row costs in memory beside its bytes.
const OVERHEAD: usize = 200;

/// One message of the log.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) position: u64,
    pub(crate) recorded: Timestamp,
    pub(crate) slot: Slot,
    pub(crate) size: usize,
    /// On a stream that is not only ours a message may be nothing of ours.
    concerns_us: bool,
}

impl Row {
    pub(crate) fn new(
        form: &Form,
        position: u64,
        recorded: Timestamp,
        (subject, payload): (&str, &Bytes),
    ) -> Self {
        let slot = form.read(subject, payload);
        Self {
            position,
            recorded,
            size: payload.len() + OVERHEAD,
            concerns_us: slot.is_some(),
            slot: slot.unwrap_or_else(|| Slot::Raw(Bytes::new())),
        }
    }

    /// A message as a consumer of the log gets it, in the life of the log that begins behind `base`.
    pub(crate) fn of(
        message: &async_nats::Message,
        base: u64,
        form: &Form,
    ) -> Option<(Self, Place)> {
        let mut place = Place::of(message.reply.as_deref()?)?;
        place.position += base;
        let what = (message.subject.as_str(), &message.payload);
        let row = Self::new(form, place.position, place.recorded, what);
        Some((row, place))
    }

    pub(crate) fn matches(&self, stored: &Stored) -> bool {
        self.concerns_us && stored.matches(self.position.into(), &self.slot)
    }
}

/// What the subject for acknowledgements tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: u64,
    /// The how many-th message of this consumer.
    pub(crate) number: u64,
    pub(crate) recorded: Timestamp,
    /// How many more this consumer is to get.
    pub(crate) pending: u64,
}

impl Place {
    fn of(reply: &str) -> Option<Self> {
        let parts: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        // Later servers put a domain and an account before the names, and perhaps a word behind.
        let numbers = parts.get(if parts.len() >= 9 { 5.. } else { 3.. })?;
        let number = |at: usize| numbers.get(at)?.parse().ok();
        Some(Self {
            position: number(0)?,
            number: number(1)?,
            recorded: Timestamp::from_nanos(i128::from(number(2)?)),
            pending: number(3)?,
        })
    }
}

impl Page for Row {
    fn after(&self, position: u128) -> impl Iterator<Item = (u128, &Slot)> + Send {
        let own = u128::from(self.position);
        let is_next = own > position && self.concerns_us;
        is_next.then_some((own, &self.slot)).into_iter()
    }

    fn last(&self) -> u128 {
        self.position.into()
    }

    fn end(&self) -> u128 {
        self.position.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_from_both_forms_of_its_subject() {
        let place = Place {
            position: 41,
            number: 7,
            recorded: Timestamp::from_nanos(1_700_000_000_000_000_001),
            pending: 3,
        };
        for reply in [
            "$JS.ACK.log.tail.1.41.7.1700000000000000001.3",
            "$JS.ACK.hub.acc.log.tail.1.41.7.1700000000000000001.3",
            "$JS.ACK._.acc.log.tail.1.41.7.1700000000000000001.3.x1",
        ] {
            assert_eq!(Place::of(reply), Some(place), "{reply}");
        }
        assert_eq!(Place::of("_INBOX.1"), None);
    }
}
