//! What backends offer, side by side, as Markdown: the generated part of
//! `docs/guide/choosing-a-backend.md`. The words around it are written by hand.

use std::collections::BTreeMap;
use std::fmt::Write;

use fanfare_core::capability::{
    Capabilities, Dedup, Fencing, HistoryKind, Known, Order, SettleFrom,
};

use crate::case::Case;
use crate::promise::PROMISES;

/// A backend, or a mode of one.
#[derive(Debug, Clone)]
pub struct Offer {
    /// As the table calls it.
    pub name: &'static str,
    /// As it says of itself.
    pub capabilities: Capabilities,
    /// Cases that it has no place for, although its capabilities do not say so: what the name of the
    /// case begins with (`topic::name`), and why.
    pub lacks: &'static [(&'static str, &'static str)],
}

impl Offer {
    fn missing(&self, case: &Case) -> Option<&'static str> {
        let full = format!("{}::{}", case.topic, case.name);
        let lacks = self.lacks.iter().find(|(name, _)| full.starts_with(name));
        let by_itself = case.missing(&self.capabilities);
        by_itself.or(lacks.map(|(_, why)| *why))
    }
}

/// A capability in words, and how one says it of a backend.
type Row = (&'static str, fn(&Capabilities) -> String);

const ROWS: &[Row] = &[
    ("delivers", |has| {
        if has.at_most_once {
            "at most once"
        } else {
            "at least once"
        }
        .into()
    }),
    ("outlives our process", |has| yes(has.durable)),
    ("outlives a power cut, at its safest", |has| {
        match has.power_safe {
            Known::Yes => "yes".into(),
            Known::No => "**no**".into(),
            Known::Unknown => "does not say".into(),
        }
    }),
    ("several processes", |has| yes(has.shared)),
    ("recognises duplicates", |has| match has.dedup {
        Dedup::Retention => "as long as the event is kept".into(),
        Dedup::Window => "for a time".into(),
        Dedup::None => "**no**".into(),
    }),
    ("refuses a late settlement", |has| match has.fencing {
        Fencing::Backend => "itself".into(),
        Fencing::ClientClock => "by our clock".into(),
    }),
    ("settles from", |has| match has.settle_from {
        SettleFrom::Any => "any process".into(),
        SettleFrom::Node => "the one that received".into(),
    }),
    ("a subscription may start at", |has| {
        let offered = [
            (has.start.earliest, "the earliest"),
            (has.start.time, "a time"),
            (has.start.position, "a position"),
        ];
        let offered = offered.iter().filter(|(is, _)| *is);
        let words: Vec<_> = offered.map(|(_, word)| *word).collect();
        if words.is_empty() {
            "**the next event only**".into()
        } else {
            words.join(", ")
        }
    }),
    ("order per key", |has| match has.order {
        Order::Lanes => "members share the keys".into(),
        Order::OneProcess => "one process is active, its members share the keys".into(),
    }),
    ("a key waits behind its dead letter", |has| yes(has.park)),
    ("past events", |has| match has.history {
        HistoryKind::Full => "by every filter".into(),
        HistoryKind::Range => "by position and time".into(),
        HistoryKind::None => "**no**".into(),
    }),
    ("pause", |has| yes(has.pause)),
    ("seek", |has| yes(has.seek)),
    ("audit", |has| yes(has.audit)),
    ("reads what other services write", |has| {
        yes(has.foreign_input)
    }),
    ("a batch is kept whole or not at all", |has| {
        yes(has.atomic_batch)
    }),
    ("a retry is late by about", |has| {
        format!("{} ms", has.delay_precision_millis)
    }),
    ("most data in one event", |has| size(has.limits.data_bytes)),
    ("most events in one publish", |has| {
        has.limits.batch_events.to_string()
    }),
    ("longest delay of a retry", |has| {
        format!("{} days", has.limits.delay_millis / 86_400_000)
    }),
];

/// What Fanfare does where a case is not offered, by the reason that the suite gives.
const INSTEAD: &[(&str, &str)] = &[
    (
        "at_most_once = true",
        "retries, delays, order and dead letters in the process; a break is told as a loss. Take `mode` out \
         of the URL to lose nothing",
    ),
    (
        "history is not full",
        "nothing on the backend itself; `fanfare forward` carries every event to one that lists by every \
         filter",
    ),
    (
        "durable = false",
        "nothing: use `sqlite:` where events must outlive the process",
    ),
    (
        "shared = false",
        "one server has it, and any number of processes work through its HTTP API",
    ),
    (
        "dedup = none",
        "ids come back unchanged: make handlers idempotent by them",
    ),
    ("park = false", "the key goes on after its dead letter"),
    ("seek = false", A_JOURNAL),
    ("start.earliest = false", A_JOURNAL),
    ("start.position = false", A_JOURNAL),
    ("start.time = false", A_JOURNAL),
    (
        SETTLED_THERE,
        "a token of a server that is gone is answered `late`; the event comes again",
    ),
    (
        "audit = false",
        "counts all the same; who else settles there is not known, so that nothing can be proven",
    ),
    (
        NO_TRANSACTION,
        "`publish` answers only when the event is kept; publish after your commit, or use PostgreSQL",
    ),
    (
        NO_BOUND,
        "nothing: others may still need what is there, so nothing is removed and nobody refused",
    ),
    (NO_NETWORK, "nothing is needed"),
    (NOBODY_ELSE, "nothing is needed"),
];

/// What a server does for a broker that forgets.
const A_JOURNAL: &str = "`fanfare serve` keeps a [journal](journal.md), and subscriptions made through it \
                         start anywhere and are moved";

/// What a process holds goes with it.
pub const SETTLED_THERE: &str = "settle_from = node";
/// Nothing can be published in a transaction of the caller's.
pub const NO_TRANSACTION: &str = "no transactions of the caller's";
/// There is no line that could break.
pub const NO_NETWORK: &str = "no network in between";
/// A stream takes what the server has room for.
pub const NO_BOUND: &str = "no bound on a stream's size";
/// Only Fanfare reaches it.
pub const NOBODY_ELSE: &str = "nobody else can write to it";

/// Three tables: what each offers, how many cases of each promise are run, and what is done about each
/// no.
pub fn offer_table(offers: &[Offer]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = capabilities(&mut out, offers);
    let _ = promises(&mut out, offers);
    let _ = reasons(&mut out, offers);
    out
}

fn capabilities(out: &mut String, offers: &[Offer]) -> std::fmt::Result {
    header(out, "", offers)?;
    for (name, say) in ROWS {
        let cells: Vec<_> = offers
            .iter()
            .map(|offer| say(&offer.capabilities))
            .collect();
        writeln!(out, "| {name} | {} |", cells.join(" | "))?;
    }
    writeln!(out)
}

fn promises(out: &mut String, offers: &[Offer]) -> std::fmt::Result {
    writeln!(out, "### What the suite checks there\n")?;
    writeln!(
        out,
        "Cases of each promise that are run on every change, and must pass; behind the plus those that are \
         not offered.\n"
    )?;
    header(out, "promise", offers)?;
    for promise in PROMISES.iter().filter(|promise| promise.planned.is_none()) {
        let cells = offers.iter().map(|offer| {
            let cases = crate::cases().filter(|case| case.promise == promise.number);
            let (mut run, mut absent) = (0, 0);
            for case in cases {
                let missing = offer.missing(case).is_some();
                *if missing { &mut absent } else { &mut run } += 1;
            }
            match absent {
                0 => run.to_string(),
                absent => format!("{run} + {absent}"),
            }
        });
        let cells: Vec<_> = cells.collect();
        let (number, title) = (promise.number, promise.title);
        writeln!(out, "| {number}. {title} | {} |", cells.join(" | "))?;
    }
    writeln!(out)
}

fn reasons(out: &mut String, offers: &[Offer]) -> std::fmt::Result {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for offer in offers {
        let mut of_this: BTreeMap<&str, usize> = BTreeMap::new();
        for why in crate::cases().filter_map(|case| offer.missing(case)) {
            *of_this.entry(why).or_default() += 1;
        }
        for (why, cases) in of_this {
            let told = format!("{} ({cases})", offer.name);
            reasons.entry(why).or_default().push(told);
        }
    }
    writeln!(out, "### Each no\n")?;
    writeln!(
        out,
        "| not offered, because | where (cases) | instead |\n|---|---|---|"
    )?;
    for (why, places) in reasons {
        let known = INSTEAD.iter().find(|(reason, _)| *reason == why);
        let instead = known.map_or("nothing", |(_, instead)| instead);
        writeln!(out, "| {why} | {} | {instead} |", places.join(", "))?;
    }
    Ok(())
}

fn header(out: &mut String, first: &str, offers: &[Offer]) -> std::fmt::Result {
    let names: Vec<_> = offers.iter().map(|offer| offer.name).collect();
    writeln!(out, "| {first} | {} |", names.join(" | "))?;
    writeln!(out, "|---|{}", "---|".repeat(offers.len()))
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "**no**" }.into()
}

fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => {
            format!("{} MiB", bytes >> 20)
        }
        bytes => format!("{} KiB", bytes >> 10),
    }
}
