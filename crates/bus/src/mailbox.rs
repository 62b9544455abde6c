//! Deliveries that wait for a worker of their subscription. Filled by its receive loop, which
//! bounds what is in it; emptied by its workers, a few at a time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use fanfare_core::delivery::Delivery;
use parking_lot::Mutex;

pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
    /// Set under the lock, read without it.
    closed: AtomicBool,
}

struct Inner {
    waiting: VecDeque<Delivery>,
    /// By worker; set while it waits.
    wakers: Vec<Option<Waker>>,
}

impl Mailbox {
    /// For `workers` workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                wakers: vec![None; workers],
            }),
            closed: AtomicBool::new(false),
        }
    }

    /// Adds deliveries and wakes as many waiting workers as can be of use; answers what cannot be
    /// taken any more because it was closed.
    pub(crate) fn push(&self, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let mut inner = self.inner.lock();
        if self.is_closed() {
            return deliveries;
        }
        let useful = deliveries.len();
        inner.waiting.extend(deliveries);
        let wake: Vec<Waker> = inner
            .wakers
            .iter_mut()
            .filter_map(Option::take)
            .take(useful)
            .collect();
        drop(inner);
        wake.into_iter().for_each(Waker::wake);
        Vec::new()
    }

    /// Moves at most `max` deliveries into `into`.
    pub(crate) fn take(&self, max: usize, into: &mut VecDeque<Delivery>) {
        let mut inner = self.inner.lock();
        let n = max.min(inner.waiting.len());
        into.extend(inner.waiting.drain(..n));
    }

    /// Arranges for `worker` to be woken by the next delivery; answers whether it has to look
    /// again at once, because there is one already.
    pub(crate) fn wait(&self, worker: usize, waker: &Waker) -> bool {
        let mut inner = self.inner.lock();
        if !inner.waiting.is_empty() {
            return true;
        }
        if let Some(slot) = inner.wakers.get_mut(worker) {
            slot.get_or_insert_with(|| waker.clone()).clone_from(waker);
        }
        false
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Takes no more, wakes every worker, and answers what nobody started.
    pub(crate) fn close(&self) -> VecDeque<Delivery> {
        let mut inner = self.inner.lock();
        self.closed.store(true, Ordering::Release);
        let wakers: Vec<Waker> = inner.wakers.iter_mut().filter_map(Option::take).collect();
        let left = std::mem::take(&mut inner.waiting);
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        left
    }
}
