//! Every case of the suite, one module per topic.

use crate::case::Case;

mod conservation;
mod crash;
mod dead_letter;
mod deliver;
mod drain;
mod enqueue;
mod handle;
mod history;
mod lease;
mod order;
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
    deliver::CASES,
    settle::CASES,
    lease::CASES,
    crash::CASES,
    retry::CASES,
    order::CASES,
    dead_letter::CASES,
    pattern::CASES,
    subscription::CASES,
    seek::CASES,
    state::CASES,
    history::CASES,
    retention::CASES,
    shutdown::CASES,
    conservation::CASES,
    restart::CASES,
    wait::CASES,
    handle::CASES,
    enqueue::CASES,
    drain::CASES,
];

/// Every case, by topic.
pub fn all() -> impl Iterator<Item = &'static Case> {
    TOPICS.iter().flat_map(|cases| cases.iter())
}
