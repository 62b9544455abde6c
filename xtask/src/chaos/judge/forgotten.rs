//! The verdict on a broker that hands over and forgets. It holds no history and no audit to compare with, so
//! whatever was acknowledged must have been settled by every subscription. It does not tell copies
//! apart: an event that was in doubt may have been stored as often as it was published, and is only
//! asked whether it came. How often an event was tried before a retry of a few milliseconds is
//! known to the process that waits for it, and gone with that.

use std::collections::BTreeMap;

use super::{Ending, Judge, ending, order};
use crate::chaos::load::{SUBSCRIPTIONS, publisher};
use crate::chaos::record::Entry;

/// How many deliveries of acknowledged events nobody has settled yet, of those published since the last
/// loss was told.
pub(in crate::chaos) fn unsettled(record: &[Entry]) -> u64 {
    let told = record.iter().rposition(|entry| *entry == Entry::Told);
    let since = told.map_or(0, |at| at + 1);
    let mut judge = Judge::default();
    for (line, entry) in (1..).zip(record.iter().skip(since)) {
        judge.read(line, entry);
    }
    judge.unsettled().count() as u64
}

impl Judge {
    /// What the record alone says of every event.
    pub(super) fn conclude(&mut self) {
        let unsettled: Vec<_> = self.unsettled().collect();
        let mut wrong = Vec::new();
        let (mut lost, mut before) = (0, "");
        for (id, sub) in unsettled {
            if self.leases.contains_key(&(sub.to_owned(), id.to_owned())) {
                wrong.push(format!("{sub}: {id} was never settled"));
            } else {
                wrong.push(format!("{sub}: {id}: acknowledged and LOST"));
                lost += u64::from(before != id);
                before = id;
            }
        }
        let acknowledged = self.events.values().filter(|event| event.acknowledged);
        self.verdict.lost = lost;
        self.verdict.acknowledged = acknowledged.count() as u64;
        wrong.extend(self.orders());
        self.verdict.broken.extend(wrong);
    }

    /// Acknowledged events, each with a subscription that has not settled it.
    fn unsettled(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let acknowledged = self.events.iter().filter(|(_, event)| event.acknowledged);
        let each = acknowledged.flat_map(|(id, _)| SUBSCRIPTIONS.map(|sub| (id.as_str(), sub)));
        each.filter(|(id, sub)| {
            let leases = self.leases.get(&((*sub).to_owned(), (*id).to_owned()));
            leases.is_none_or(|leases| matches!(ending(leases), Ending::None))
        })
    }

    /// Order by key, of each publisher alone: which of two was first only the broker knew.
    fn orders(&self) -> Vec<String> {
        let mut orders: BTreeMap<u64, Vec<(String, String)>> = BTreeMap::new();
        for id in &self.stored {
            let once = self.events.get(id).is_some_and(|event| !event.in_doubt);
            if let Some(publisher) = publisher(id).filter(|_| once) {
                let order = orders.entry(publisher).or_default();
                order.push((id.clone(), String::new()));
            }
        }
        let wrong = orders.values();
        wrong
            .flat_map(|order| order::check(order, &self.leases))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Held, Outcome, Said, judge};
    use super::*;

    /// Of the first publisher, with one key.
    const ONE: &str = "order-0-1-a";
    const OTHER: &str = "order-1-0-a";

    fn acked(id: &str) -> Vec<Entry> {
        let id = id.to_owned();
        let intent = Entry::Intent { id: id.clone() };
        let acked = Entry::Acked {
            id,
            position: Some("7".into()),
            duplicate: false,
            at: 9_000,
        };
        vec![intent, acked]
    }

    /// Delivered to this subscription, and settled.
    fn handled(id: &str, sub: &str, copy: u64) -> Vec<Entry> {
        let (sub, token) = (sub.to_owned(), format!("{id}-{copy}"));
        let (asked, at) = (9_000 + copy * 1_000, 10_000 + copy * 1_000);
        let delivered = Entry::Delivered {
            sub: sub.clone(),
            id: id.into(),
            token: token.clone(),
            attempt: 1,
            since: copy * 100,
            asked,
            at,
        };
        let settling = Entry::Settling {
            sub: sub.clone(),
            token: token.clone(),
            outcome: Outcome::Ack,
            at,
        };
        let said = Said::Done;
        let settled = Entry::Settled {
            sub,
            token,
            said,
            at,
        };
        vec![delivered, settling, settled]
    }

    fn whole(id: &str) -> Vec<Entry> {
        let handled = SUBSCRIPTIONS.map(|sub| handled(id, sub, 0));
        [acked(id), handled.concat()].concat()
    }

    fn found(record: &[Entry]) -> Vec<String> {
        let held = Held {
            forgets: true,
            audit_ok: true,
            ..Held::default()
        };
        judge(record, &held, 500_000).broken
    }

    fn finds(record: &[Entry], what: &str) {
        let found = found(record);
        assert!(found.iter().any(|said| said.contains(what)), "{found:?}");
    }

    #[test]
    fn what_was_settled_everywhere_is_all_there_is_to_know() {
        assert_eq!(found(&whole(ONE)), Vec::<String>::new());
        assert_eq!(unsettled(&whole(ONE)), 0);
        let mut missed = whole(ONE);
        missed.truncate(missed.len() - 3);
        finds(&missed, "LOST");
        let mut left = whole(ONE);
        left.pop();
        finds(&left, "never settled");
        assert_eq!((unsettled(&missed), unsettled(&left)), (1, 1));
        // What was lost with its queue is not waited for once that was told.
        missed.push(Entry::Told);
        assert_eq!(unsettled(&missed), 0);
    }

    #[test]
    fn only_what_was_in_doubt_may_come_twice() {
        let again = |mut record: Vec<Entry>| {
            record.extend(handled(ONE, "immediate", 1));
            record
        };
        finds(&again(whole(ONE)), "after it was settled");
        let mut doubtful = whole(ONE);
        doubtful.insert(1, Entry::InDoubt { id: ONE.into() });
        assert_eq!(found(&again(doubtful)), Vec::<String>::new());
    }

    #[test]
    fn a_broker_doubles_no_more_than_it_may() {
        let mut record = whole(ONE);
        record.extend(handled(ONE, "immediate", 1));
        record.extend(handled(ONE, "retrying", 1));
        let allowed = |copies| {
            let held = Held {
                forgets: true,
                audit_ok: true,
                copies,
                ..Held::default()
            };
            judge(&record, &held, 500_000)
        };
        assert_eq!((allowed(2).breaches, allowed(2).copies), (0, 2));
        assert_eq!((allowed(1).breaches, allowed(1).copies), (2, 0));
    }

    #[test]
    fn a_publisher_finds_its_own_order_kept() {
        let crossed = |other: &str| {
            let both = [acked(ONE), acked(other)].concat();
            let handled = |id| SUBSCRIPTIONS.map(|sub| handled(id, sub, 0)).concat();
            [both, handled(other), handled(ONE)].concat()
        };
        finds(&crossed("order-0-a-1"), "came before");
        assert_eq!(found(&crossed(OTHER)), Vec::<String>::new());
    }
}
