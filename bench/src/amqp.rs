//! The amqp backend against the raw client of RabbitMQ on a private server: quorum queues, persistent
//! messages, every publish awaited until it is confirmed, which is after the flush.

use crate::floor::amqp::{Client, Form};
use crate::report::Report;
use crate::trial::{Amounts, Trial};
use crate::{Options, Outcome};

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let of = |form, together, heard| Client {
        form,
        together,
        heard,
    };
    let whole = ("raw, with our headers", of(Form::Whole, 100, true));
    Trial {
        title: "RabbitMQ: quorum queues, persistent, confirmed once flushed".into(),
        publishers: vec![whole, ("raw, data alone", of(Form::Bare, 100, true))],
        readers: vec![
            ("raw, 100 at once, written down", of(Form::Whole, 100, true)),
            (
                "raw, 100 at once, not heard of",
                of(Form::Whole, 100, false),
            ),
            ("raw, each, not heard of", of(Form::Whole, 1, false)),
        ],
        end_to_end: whole,
        idle: whole,
        amounts: Amounts {
            // The numbers of callers are those of confirmations in flight.
            publish: [(1, 2_000), (64, 30_000), (256, 50_000), (1_024, 50_000)],
            batches: &[(100, 50_000, 4)],
            consume: 100_000,
            end_to_end: 50_000,
        },
    }
    .run(options, report)
    .await
}
