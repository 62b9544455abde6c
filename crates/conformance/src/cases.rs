//! Every case of the suite, one module per topic.

use crate::case::Case;

mod conservation;
mod crash;
mod dead_letter;
mod deliver;
mod drain;
mod enqueue;
mod external;
mod fleet;
mod foreign;
mod gap;
mod handle;
mod history;
mod lease;
mod order;
mod outbox;
mod park;
mod pattern;
mod publish;
mod restart;
mod retention;
mod retry;
mod seek;
mod settle;
mod shutdown;
mod state;
mod subscription;
mod wait;

const TOPICS: &[&[Case]] = &[
    publish::CASES,
    enqueue::CASES,
    deliver::CASES,
    pattern::CASES,
    settle::CASES,
    lease::CASES,
    external::CASES,
    crash::CASES,
    fleet::CASES,
    foreign::CASES,
    outbox::CASES,
    gap::CASES,
    retry::CASES,
    order::CASES,
    park::CASES,
    handle::CASES,
    wait::CASES,
    dead_letter::CASES,
    subscription::CASES,
    seek::CASES,
    state::CASES,
    history::CASES,
    retention::CASES,
    shutdown::CASES,
    drain::CASES,
    conservation::CASES,
    restart::CASES,
];

/// Every case, by topic.
pub fn all() -> impl Iterator<Item = &'static Case> {
    TOPICS.iter().flat_map(|cases| cases.iter())
}
