//! One subscription in memory: its cursor, its patterns, and the bodies that differ from the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare_core::event::Event;
use fanfare_core::subscription::{OnDead, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::{Cursor, Interest, Options};
use tokio::sync::Notify;

use crate::log::Log;

/// The most events that may stand behind their keys.
const MAX_BLOCKED: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) spec: SubscriptionSpec,
    pub(crate) created: Timestamp,
    pub(crate) paused: bool,
    pub(crate) cursor: Cursor,
    pub(crate) interest: Interest,
    /// Redriven events: they may be edited, or evicted from the log.
    pub(crate) bodies: BTreeMap<u64, Event>,
    /// How many matching events of each block were evicted.
    pub(crate) evicted: BTreeMap<u64, u64>,
    /// Something may be claimable.
    pub(crate) wake: Arc<Notify>,
}

impl Subscription {
    pub(crate) fn new(spec: SubscriptionSpec, created: Timestamp, base: u64) -> Self {
        Self {
            cursor: Cursor::new(cursor_options(&spec), base, 0),
            interest: Interest::new(spec.patterns.clone()),
            spec,
            created,
            paused: false,
            bodies: BTreeMap::new(),
            evicted: BTreeMap::new(),
            wake: Arc::new(Notify::new()),
        }
    }

    /// Whether the event at `position` was, is, or will be delivered to it.
    pub(crate) fn concerns(&self, position: u64, event: &Event) -> bool {
        position > self.cursor.place().base && self.interest.matches(position, event.event_type())
    }

    /// Whether the event at `position` is still needed for it.
    pub(crate) fn needs(&self, position: u64, event: &Event) -> bool {
        if position > self.cursor.frontier() {
            return self.concerns(position, event);
        }
        self.cursor.standing(position).is_some()
    }

    /// The event to deliver.
    pub(crate) fn body<'a>(&'a self, log: &'a Log, position: u64) -> Option<&'a Event> {
        self.bodies
            .get(&position)
            .or_else(|| log.get(position).map(|slot| &slot.event))
    }

    /// Forgets redriven bodies that are settled.
    pub(crate) fn drop_settled_bodies(&mut self) {
        let cursor = &self.cursor;
        self.bodies
            .retain(|position, _| cursor.standing(*position).is_some());
    }
}

pub(crate) fn cursor_options(spec: &SubscriptionSpec) -> Options {
    Options {
        ordered: spec.ordered,
        park: spec.on_dead == OnDead::Park,
        lease: spec.lease,
        max_attempts: spec.retry.max_attempts,
        dead_letter: spec.dead_letter,
        max_blocked: MAX_BLOCKED,
    }
}
