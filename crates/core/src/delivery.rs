//! An event on its way to one subscription: attempt number, lease, settlement.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::event::Event;
use crate::position::Position;
use crate::timestamp::Timestamp;

/// One event leased to one member of one subscription.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What was published.
    pub event: Event,
    /// Where it stands in the stream.
    pub position: Position,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// What to settle and extend it with.
    pub receipt: Receipt,
    /// When the lease ends unless extended.
    pub lease_until: Timestamp,
}

/// Names one leased delivery of a subscription. The epoch fences it: once another member took
/// over, the old receipt settles nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt {
    /// The event's position.
    pub position: Position,
    /// Which lease; grows with each one of the subscription.
    pub epoch: u64,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.position, self.epoch)
    }
}

impl FromStr for Receipt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(
                "",
                format!("`{}` is not a delivery token", text.escape_debug()),
            )
        };
        let (position, epoch) = text.split_once('-').ok_or_else(bad)?;
        Ok(Self {
            position: position.parse().map_err(|_| bad())?,
            epoch: epoch.parse().map_err(|_| bad())?,
        })
    }
}

/// How a delivery ends, or is put off.
#[derive(Debug, Clone, PartialEq)]
pub enum Settlement {
    /// Done.
    Ack,
    /// Failed; comes back no sooner than `after`, with the next attempt number.
    Retry {
        /// The delay.
        after: Duration,
        /// What failed, kept for the dead letter.
        error: String,
    },
    /// Given up; kept as a dead letter.
    DeadLetter {
        /// Why, in one word or a few: `max_attempts`, `rejected`, `undecodable`, `unhandled`.
        reason: String,
        /// What failed.
        error: String,
    },
    /// Given up and not kept.
    Drop,
    /// Not started: back to the subscription at once, no attempt counted.
    Release,
}

/// What became of a settlement or an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It counted.
    Done,
    /// The lease was over: somebody else may own the delivery.
    Late,
    /// It was settled before, with this receipt or another. No receipt is remembered for ever: one
    /// that was never given out, for a place behind which everything is settled, is answered so too.
    Already,
    /// This subscription never leased such a delivery: it has not come so far, or another lease
    /// with this epoch lies elsewhere.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_survives_its_text() {
        let receipt = Receipt {
            position: Position(u128::MAX),
            epoch: u64::MAX,
        };
        assert_eq!(receipt.to_string().parse::<Receipt>().unwrap(), receipt);
        for bad in ["", "1", "1-", "-1", "1-2-3", "x-1"] {
            assert!(bad.parse::<Receipt>().is_err(), "{bad}");
        }
    }
}
