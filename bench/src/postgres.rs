//! The postgres backend against raw SQL that does the same work, on a private server with fsync on.

use crate::floor::postgres::Cursor;
use crate::report::Report;
use crate::trial::{Amounts, Trial};
use crate::{Options, Outcome};

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let of = |most| Cursor { most, told: false };
    let told = Cursor {
        told: true,
        ..of(100)
    };
    Trial {
        title: "PostgreSQL: fsync on, every publish awaited until it is committed".into(),
        publishers: vec![("raw, one commit each, pipelined", of(100))],
        readers: vec![
            ("raw cursor, 100 per commit", of(100)),
            ("raw cursor, 1,000 per commit", of(1_000)),
        ],
        end_to_end: ("raw, one commit each, cursor of 1,000", of(1_000)),
        idle: ("raw, NOTIFY in the commit", told),
        amounts: Amounts {
            publish: [(1, 2_000), (64, 15_000), (256, 20_000), (1_024, 30_000)],
            batches: &[(100, 150_000, 4), (1_000, 200_000, 4)],
            consume: 200_000,
            end_to_end: 20_000,
        },
    }
    .run(options, report)
    .await
}
