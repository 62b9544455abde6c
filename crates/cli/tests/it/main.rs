//! The real binary against a real server in a process of its own. What the commands print and how
//! they end is tested here; what the backends promise is the conformance suite's.
#![cfg(test)]

mod backup;
mod config;
mod conformance;
mod dead_letters;
mod demo;
mod doctor;
mod events;
mod forward;
mod guide;
mod import;
mod journal;
mod pairs;
mod process;
mod publish;
mod serve;
mod subscriptions;
mod tail;
mod whole_life;
