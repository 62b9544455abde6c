//! A worker: polls the handlers of its share. A handler that answers at once costs one poll in
//! place; only those that wait are kept in a set.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use fanfare_core::delivery::Delivery;
use fanfare_core::timestamp::Timestamp;
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;

use super::{Busy, Core, Finished, Stage};
use crate::dispatch::{Handling, Running};
use crate::handler::Outcome;
use crate::retry;

/// How many handlers are started before others on this thread get a turn.
const TURN: usize = 256;
/// The most deliveries taken from the mailbox at once.
const CHUNK: usize = 32;

pub(super) async fn run(core: Arc<Core>, index: usize, slots: usize) {
    let _busy = Busy(Arc::clone(&core));
    let mut worker = Worker {
        core: Arc::clone(&core),
        index,
        slots,
        waiting: FuturesUnordered::new(),
        alone: core.concurrency == 1,
        taken: VecDeque::with_capacity(CHUNK),
        finished: Vec::with_capacity(TURN),
    };
    let cut = pin!(core.reached(Stage::Cut));
    let drained = pin!(poll_fn(|cx| worker.turn(cx)));
    if let Either::Left(_) = select(cut, drained).await {
        worker.cut_off();
    }
}

struct Worker {
    core: Arc<Core>,
    index: usize,
    slots: usize,
    /// Handlers that wait for something.
    waiting: FuturesUnordered<Handling>,
    /// There is no other worker to leave deliveries for.
    alone: bool,
    /// Taken from the mailbox, not started.
    taken: VecDeque<Delivery>,
    finished: Vec<Finished>,
}

impl Worker {
    /// Does what can be done now; ready when drained.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut budget = TURN;
        let mut now = self.core.clock.now();
        loop {
            self.poll_waiting(cx, &mut budget, &mut now);
            self.start_some(cx, &mut budget, &mut now);
            if budget == 0 {
                self.flush();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.flush();
            let full = self.waiting.len() >= self.slots;
            if full || !self.core.mailbox.wait(self.index, cx.waker()) {
                break;
            }
        }
        if self.core.mailbox.is_closed() {
            self.core.release(self.taken.drain(..));
            if self.waiting.is_empty() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>, budget: &mut usize, now: &mut Timestamp) {
        while *budget > 0 {
            let Poll::Ready(Some(answered)) = self.waiting.poll_next_unpin(cx) else {
                return;
            };
            *budget -= 1;
            self.core.consuming.running.sub(1);
            if let Some((running, outcome)) = answered {
                *now = self.core.clock.now();
                self.finish(running, outcome, *now);
            }
        }
    }

    /// Starts handlers while there are free slots. One reading of the clock is the end of a
    /// handler and the start of the next.
    fn start_some(&mut self, cx: &mut Context<'_>, budget: &mut usize, now: &mut Timestamp) {
        while *budget > 0 && self.waiting.len() < self.slots {
            let Some(delivery) = self.next() else {
                return;
            };
            *budget -= 1;
            let mut running = self.core.dispatch.start(delivery, *now);
            match self.core.dispatch.poll(&mut running, cx) {
                Poll::Ready(outcome) => {
                    *now = self.core.clock.now();
                    self.finish(running, outcome, *now);
                }
                Poll::Pending => {
                    self.core.consuming.running.add(1);
                    self.waiting.push(Handling {
                        dispatch: Arc::clone(&self.core.dispatch),
                        running: Some(running),
                    });
                }
            }
        }
    }

    /// The next delivery to start; none while draining.
    fn next(&mut self) -> Option<Delivery> {
        loop {
            if self.taken.is_empty() {
                let free = self.slots - self.waiting.len();
                let n = if self.alone { CHUNK } else { free.min(CHUNK) };
                self.core.mailbox.take(n, &mut self.taken);
            }
            if self.core.mailbox.is_closed() {
                return None;
            }
            let delivery = self.taken.pop_front()?;
            if !self.core.is_lost(&delivery.receipt) {
                return Some(delivery);
            }
            self.core.release([delivery]);
        }
    }

    fn finish(&mut self, running: Running, outcome: Outcome, now: Timestamp) {
        let delivery = running.request.delivery;
        let spec = &self.core.spec;
        let error_bytes = self.core.limits.error_bytes;
        self.finished.push(Finished {
            settlement: retry::settle(spec, delivery.attempt, outcome, error_bytes),
            event: delivery.event,
            receipt: delivery.receipt,
            attempt: delivery.attempt,
            took: Some(now.since(running.started)),
        });
    }

    fn flush(&mut self) {
        if !self.finished.is_empty() {
            self.core.finish(self.finished.drain(..));
        }
    }

    /// Ends what still runs. Its deliveries are released when the consumer closes.
    fn cut_off(&mut self) {
        self.flush();
        let n = u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        self.core.cut_off.fetch_add(n, Ordering::Relaxed);
        self.core.consuming.running.sub(n);
        self.waiting.clear();
    }
}
