//! One subscription of this process: its queue, and who waits for it.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::queue::Queue;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) name: SubscriptionName,
    pub(super) ephemeral: bool,
    queue: Mutex<Queue>,
    /// Something may be claimable, or it is over.
    pub(super) claimable: Notify,
    ended: AtomicBool,
    /// The last event that came had no room.
    behind: AtomicBool,
}

/// What became of something that came.
pub(super) enum Took {
    It,
    /// It is none of its business.
    Nothing,
    /// It is no event: there is a dead letter to collect.
    Letter,
    /// There was no room, and there had been for the one before.
    Dropped {
        first: bool,
    },
}

impl Subscription {
    pub(super) fn new(queue: Queue) -> Self {
        Self {
            name: queue.spec.name.clone(),
            ephemeral: queue.spec.ephemeral,
            queue: Mutex::new(queue),
            claimable: Notify::new(),
            ended: AtomicBool::new(false),
            behind: AtomicBool::new(false),
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Changes the queue and wakes whoever may have waited for that.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let done = change(&mut self.queue.lock());
        self.claimable.notify_waiters();
        done
    }

    /// No more deliveries.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.claimable.notify_waiters();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn take(
        &self,
        event_type: &EventType,
        event: &Result<Event>,
        payload: &Bytes,
        now: Timestamp,
    ) -> Took {
        let mut queue = self.queue.lock();
        if !queue.spec.patterns.matches(event_type) {
            return Took::Nothing;
        }
        if !queue.has_room() {
            let first = !self.behind.swap(true, Ordering::Relaxed);
            return Took::Dropped { first };
        }
        self.behind.store(false, Ordering::Relaxed);
        let took = match event {
            Ok(event) => {
                queue.push(event.clone(), now);
                Took::It
            }
            Err(error) => {
                queue.push_undecodable(payload.clone(), error, now);
                Took::Letter
            }
        };
        drop(queue);
        self.claimable.notify_waiters();
        took
    }
}
