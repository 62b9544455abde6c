//! The redis backend against raw Redis Streams on a private server, with three settings of durability.

use fanfare_conformance::broker::Durability;

use crate::floor::redis::{Client, Form};
use crate::report::Report;
use crate::trial::{Amounts, Trial};
use crate::{Options, Outcome};

/// The settings, and how people call them.
const SETTINGS: [(Durability, &str); 3] = [
    (Durability::Off, "no append-only file"),
    (Durability::Periodic, "appendfsync everysec"),
    (Durability::Always, "appendfsync always"),
];

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    for (durability, called) in SETTINGS {
        let client = |form| Client { durability, form };
        let exact = ("raw, duplicates recognised", client(Form::Exact));
        let trial = Trial {
            title: format!("Redis: {called}"),
            publishers: vec![exact, ("bare XADD", client(Form::Bare))],
            readers: vec![("raw, XREADGROUP 100 and XACK", client(Form::Bare))],
            end_to_end: exact,
            idle: exact,
            amounts: Amounts {
                publish: [(1, 10_000), (64, 100_000), (256, 150_000), (1_024, 200_000)],
                batches: &[(100, 300_000, 4)],
                consume: 300_000,
                end_to_end: 150_000,
            },
        };
        trial.run(options, report).await?;
    }
    Ok(())
}
