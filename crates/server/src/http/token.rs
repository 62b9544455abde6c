//! Delivery tokens: opaque to clients, bound to subscription, attempt and lease epoch.

use std::fmt;

use fanfare::core::delivery::Receipt;
use fanfare::core::subscription::SubscriptionName;

/// `<subscription>.<attempt>.<position>-<epoch>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) subscription: SubscriptionName,
    pub(crate) attempt: u32,
    pub(crate) receipt: Receipt,
}

impl Token {
    /// Reads a token; none where it is not one of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // Names may hold dots, the rest may not.
        let (rest, receipt) = text.rsplit_once('.')?;
        let (subscription, attempt) = rest.rsplit_once('.')?;
        Some(Self {
            subscription: SubscriptionName::parse(subscription).ok()?,
            attempt: attempt.parse().ok()?,
            receipt: receipt.parse().ok()?,
        })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subscription,
            attempt,
            receipt,
        } = self;
        write!(f, "{subscription}.{attempt}.{receipt}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text() {
        for text in [
            "billing.1.7-3",
            "app.billing.12.340282366920938463463374607431768211455-9",
        ] {
            assert_eq!(Token::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "a", "a.1", "a.1.7", "a.x.7-3", ".1.7-3", "a b.1.7-3"] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }
}
