//! The nats backend against the raw client of JetStream on a private server, streams in files. The server
//! acknowledges what the system has; versions that can be told to flush first are not measured here.

use crate::floor::nats::Form;
use crate::report::Report;
use crate::trial::{Amounts, Trial};
use crate::{Options, Outcome};

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let exact = ("raw, duplicates recognised", Form::Exact);
    Trial {
        title: "NATS: JetStream in files, one replica".into(),
        publishers: vec![exact, ("raw without an id", Form::Bare)],
        readers: vec![("raw, pulls of 1,000, each acknowledged", Form::Exact)],
        end_to_end: exact,
        idle: exact,
        amounts: Amounts {
            // The numbers of callers are those of answers in flight.
            publish: [(1, 5_000), (64, 50_000), (256, 100_000), (1_024, 150_000)],
            batches: &[(100, 150_000, 4)],
            consume: 150_000,
            end_to_end: 100_000,
        },
    }
    .run(options, report)
    .await
}
