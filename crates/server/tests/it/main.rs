//! The server as its clients meet it: a real one on a free port, spoken to over HTTP.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod dead_letters;
mod destroyed;
mod guests;
mod harness;
mod history;
mod life;
mod limits;
mod openapi;
mod operating;
mod publishing;
mod pulling;
mod restart;
mod sse;
mod subscriptions;
mod tail;
