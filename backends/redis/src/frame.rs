//! What stands in the stream's field `f`: a frame, see the fleet crate; and what makes two events in
//! it the same one.

use fanfare_core::event::Event;
use fanfare_core::id::EventId;

pub(crate) use fanfare_fleet::{Slot, decode, encode_all};

const UUID: u8 = 0;
const TEXT: u8 = 1;

/// What makes two events the same one, short.
pub(crate) fn identity(event: &Event) -> Vec<u8> {
    /// Longer ones are hashed, so that each costs the server a bounded amount.
    const LONGEST: usize = 64;
    let (source, id) = (event.source(), event.id());
    let whole = match id {
        EventId::Uuid(id) => [&[UUID], &id.as_bytes()[..], source.as_bytes()].concat(),
        EventId::Text(id) => [&[TEXT], source.as_bytes(), &[0], id.as_bytes()].concat(),
    };
    if whole.len() <= LONGEST {
        return whole;
    }
    let id = id.to_string();
    match EventId::derived(&[source, &id]) {
        EventId::Uuid(hash) => [&[2], &hash.as_bytes()[..]].concat(),
        EventId::Text(_) => whole,
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::data::Data;

    use super::*;

    fn event(id: &str) -> Event {
        Event::builder("a.b".parse().unwrap())
            .id(EventId::parse(id).unwrap())
            .key("k")
            .data(Data::json("{}"))
            .build()
            .unwrap()
    }

    #[test]
    fn identities_differ_where_events_do() {
        let long = "x".repeat(500);
        let ids = ["1", "2", &long, "0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a"];
        let mut all: Vec<_> = ids.iter().map(|id| identity(&event(id))).collect();
        assert!(all.iter().all(|identity| identity.len() <= 64));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), ids.len());
    }
}
