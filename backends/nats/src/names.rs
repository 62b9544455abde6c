//! What the streams and subjects of one stream are called on the server.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::subscription::SubscriptionName;

/// Names of one stream.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    log: String,
    /// In the names of everything else.
    stream: String,
}

impl Names {
    pub(crate) fn new(stream: &str) -> Self {
        Self {
            log: format!("fanfare_{stream}"),
            stream: stream.to_owned(),
        }
    }

    /// On the stream of another service. What is ours beside it is told from a stream of ours by a sign
    /// that no name of those has.
    pub(crate) fn beside(stream: &str) -> Self {
        Self {
            log: stream.to_owned(),
            stream: format!("+{stream}"),
        }
    }

    /// The JetStream stream of events.
    pub(crate) fn log(&self) -> String {
        self.log.clone()
    }

    /// The JetStream stream of everything else: the last message of each subject counts.
    pub(crate) fn state(&self) -> String {
        format!("fanfarestate_{}", self.stream)
    }

    pub(crate) fn events(&self) -> String {
        format!("fanfare.e.{}.>", self.stream)
    }

    pub(crate) fn event(&self, event_type: &EventType) -> String {
        format!("fanfare.e.{}.{}", self.stream, event_type.as_str())
    }

    pub(crate) fn states(&self) -> String {
        format!("fanfare.s.{}.>", self.stream)
    }

    /// The records of all subscriptions.
    pub(crate) fn records(&self) -> String {
        format!("fanfare.s.{}.sub.*", self.stream)
    }

    pub(crate) fn record(&self, name: &SubscriptionName) -> String {
        format!("fanfare.s.{}.sub.{}", self.stream, token(name))
    }

    /// The name in [`Names::record`].
    pub(crate) fn of_record(&self, subject: &str) -> Option<SubscriptionName> {
        of_token(subject.strip_prefix(&format!("fanfare.s.{}.sub.", self.stream))?)
    }

    /// All dead letters of a subscription.
    pub(crate) fn letters(&self, name: &SubscriptionName) -> String {
        format!("fanfare.s.{}.dead.{}.>", self.stream, token(name))
    }

    pub(crate) fn letter(&self, name: &SubscriptionName, key: &str) -> String {
        format!("fanfare.s.{}.dead.{}.{key}", self.stream, token(name))
    }

    pub(crate) fn value(&self, key: &str) -> String {
        let key = URL_SAFE_NO_PAD.encode(key);
        format!("fanfare.s.{}.value.{key}", self.stream)
    }

    /// What is known of the log beside the log itself.
    pub(crate) fn note(&self) -> String {
        format!("fanfare.s.{}.log", self.stream)
    }

    /// Only to learn the server's time.
    pub(crate) fn time(&self) -> String {
        format!("fanfare.s.{}.time", self.stream)
    }

    /// What is heard where nothing is kept: events, and the marks of processes.
    pub(crate) fn live(&self) -> String {
        format!("fanfare.c.{}.e.>", self.stream)
    }

    pub(crate) fn live_event(&self, event_type: &EventType) -> String {
        format!("fanfare.c.{}.e.{event_type}", self.stream)
    }

    /// The event type in [`Names::live_event`].
    pub(crate) fn of_live(&self, subject: &str) -> Option<EventType> {
        let event_type = subject.strip_prefix("fanfare.c.")?;
        let event_type = event_type.strip_prefix(&self.stream)?.strip_prefix(".e.")?;
        EventType::parse(event_type).ok()
    }

    /// Where a process hears itself. No event type has such a sign.
    pub(crate) fn mark(&self, who: u64) -> String {
        format!("fanfare.c.{}.e.$.{who:x}", self.stream)
    }

    /// Where nobody listens, which the server says once it has done what came before.
    pub(crate) fn nobody(&self) -> String {
        format!("fanfare.c.{}.nobody", self.stream)
    }

    /// News of all subscriptions, for whoever listens; not kept.
    pub(crate) fn wakes(&self) -> String {
        format!("fanfare.w.{}.*", self.stream)
    }

    pub(crate) fn wake(&self, name: &SubscriptionName) -> String {
        format!("fanfare.w.{}.{}", self.stream, token(name))
    }

    /// The name in [`Names::wake`].
    pub(crate) fn of_wake(&self, subject: &str) -> Option<SubscriptionName> {
        of_token(subject.strip_prefix(&format!("fanfare.w.{}.", self.stream))?)
    }
}

/// A name as one token of a subject: names may hold points, and no colons.
fn token(name: &SubscriptionName) -> String {
    name.as_str().replace('.', ":")
}

fn of_token(token: &str) -> Option<SubscriptionName> {
    SubscriptionName::parse(&token.replace(':', ".")).ok()
}

/// What the server tells copies by: id and source, each with everything escaped that a header does not
/// carry, between them what an escaped text never holds.
pub(crate) fn message_id(event: &Event) -> String {
    let id = event.id().to_string();
    let mut out = String::with_capacity(id.len() + event.source().len() + 2);
    escape(&id, &mut out);
    out.push_str("%%");
    escape(event.source(), &mut out);
    out
}

fn escape(text: &str, out: &mut String) {
    use std::fmt::Write as _;
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::id::EventId;

    use super::*;

    fn id_of(source: &str, id: &str) -> String {
        let builder = Event::builder("a.b".parse().unwrap()).source(source);
        let event = builder.id(EventId::parse(id).unwrap()).build().unwrap();
        message_id(&event)
    }

    #[test]
    fn different_events_never_share_a_message_id() {
        let all = [
            id_of("/a", "b"),
            id_of("/a%20", "b"),
            id_of("/a", "b%%/a"),
            id_of("/a%25", "b"),
            id_of("/a", "b c"),
            id_of("/a", "b%20c"),
            id_of("/a", "bä"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(one.bytes().all(|b| b.is_ascii_graphic()), "{one}");
            assert!(!all[at + 1..].contains(one), "{one}");
        }
    }
}
