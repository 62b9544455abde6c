//! The bounded queue behind `try_publish`: accepted at once, published in the background. Until
//! then nothing is durable: a kill loses what is queued.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fanfare_core::Result;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::event::Event;
use fanfare_core::timestamp::Timestamp;
use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::bus::Bus;
use crate::event::IntoEvent;
use crate::publish::Sender;

/// How often an event is sent again whose outcome is not known; repeating one is safe.
const RESENDS: u32 = 3;

impl Bus {
    /// Queues an event and returns at once: `Ok` when it was queued (not durable yet: a kill loses
    /// the queue), a [`Full`](ErrorKind::Full) error when the queue is full. Failures in the
    /// background are counted, logged with the event's id, and listed in the shutdown report.
    pub fn try_publish(&self, event: impl IntoEvent) -> Result<()> {
        let event = self.prepare(event)?;
        self.0.queue.push(event)
    }
}

/// Events of the queue that could not be published.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures {
    pub(crate) count: u64,
    pub(crate) first: Vec<(String, String)>,
}

pub(crate) struct Queue {
    sender: Arc<Sender>,
    state: Mutex<State>,
    wake: Notify,
    /// Set when everything that will ever be queued is queued.
    closing: AtomicBool,
    /// Set when what is queued is given up.
    abandoned: watch::Sender<bool>,
    /// Set when the task has ended.
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Event>,
    /// On their way to the backend; they count against the capacity.
    sending: usize,
    failures: Failures,
    closed: bool,
}

impl Queue {
    pub(crate) fn start(sender: Arc<Sender>, runtime: &Handle) -> Arc<Self> {
        let queue = Arc::new(Self {
            sender,
            state: Mutex::default(),
            wake: Notify::new(),
            closing: AtomicBool::new(false),
            abandoned: watch::Sender::new(false),
            ended: watch::Sender::new(false),
        });
        runtime.spawn(Arc::clone(&queue).run());
        queue
    }

    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        state.waiting.len() + state.sending
    }

    /// Ends the task without publishing what waits.
    pub(crate) fn abandon(&self) {
        self.closing.store(true, Ordering::Release);
        self.abandoned.send_replace(true);
        self.wake.notify_one();
    }

    /// Publishes what waits, until `deadline`; what is left then has failed.
    pub(crate) async fn drain(&self, deadline: Timestamp) -> Failures {
        self.state.lock().closed = true;
        self.closing.store(true, Ordering::Release);
        self.wake.notify_one();
        let end = pin!(raised(&self.ended));
        let timeout = pin!(self.sender.clock().sleep_until(deadline));
        if let Either::Right(_) = select(end, timeout).await {
            self.abandon();
            raised(&self.ended).await;
        }
        self.state.lock().failures.clone()
    }

    fn push(&self, event: Event) -> Result<()> {
        let capacity = self.sender.limits().queue_events;
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, "the bus is closed"));
        }
        if state.waiting.len() + state.sending >= capacity {
            drop(state);
            self.sender.telemetry().publishing.queue_full.add(1);
            let text = format!("the queue holds {capacity} events");
            return Err(Error::new(ErrorKind::Full, text).during("try_publish"));
        }
        state.waiting.push_back(event);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    async fn run(self: Arc<Self>) {
        loop {
            let mut batch = self.take();
            if batch.is_empty() {
                if self.closing.load(Ordering::Acquire) {
                    break;
                }
                self.wake.notified().await;
                continue;
            }
            if self.send_unless_abandoned(&mut batch).await {
                self.state.lock().sending = 0;
            } else {
                self.give_up(batch, "the bus was closed before an answer came");
                break;
            }
        }
        let left = std::mem::take(&mut self.state.lock().waiting);
        self.give_up(left, "the bus was closed before it was sent");
        self.ended.send_replace(true);
    }

    async fn send_unless_abandoned(&self, batch: &mut Vec<Event>) -> bool {
        let sending = pin!(self.send(batch));
        let given_up = pin!(raised(&self.abandoned));
        matches!(select(sending, given_up).await, Either::Left(_))
    }

    fn take(&self) -> Vec<Event> {
        let mut state = self.state.lock();
        let n = state.waiting.len().min(self.sender.limits().batch_events);
        state.sending = n;
        state.waiting.drain(..n).collect()
    }

    /// Sends a batch, and again what may not have arrived. Leaves in it what has no answer yet.
    async fn send(&self, batch: &mut Vec<Event>) {
        for round in 0..=RESENDS {
            let answers = match self.sender.send_all(batch).await {
                Ok(answers) => answers,
                Err(error) => batch.iter().map(|_| Err(error.duplicate())).collect(),
            };
            let mut again = Vec::new();
            for (event, answer) in std::mem::take(batch).into_iter().zip(answers) {
                match answer {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Unknown && round < RESENDS => {
                        again.push(event);
                    }
                    Err(error) => self.fail(&event, &error),
                }
            }
            if again.is_empty() {
                return;
            }
            *batch = again;
        }
    }

    fn fail(&self, event: &Event, error: &Error) {
        tracing::error!(id = %event.id(), r#type = %event.event_type(), %error, "queued event was not published");
        self.sender.telemetry().publishing.queue_failures.add(1);
        let mut state = self.state.lock();
        state.failures.count += 1;
        if state.failures.first.len() < self.sender.limits().queue_failures {
            let failure = (event.id().to_string(), error.to_string());
            state.failures.first.push(failure);
        }
    }

    /// These have failed.
    fn give_up(&self, events: impl IntoIterator<Item = Event>, why: &str) {
        let error = Error::new(ErrorKind::Closed, why);
        for event in events {
            self.fail(&event, &error);
        }
    }
}

/// Completes when `flag` is set. Whoever calls holds its sender, so waiting cannot fail.
async fn raised(flag: &watch::Sender<bool>) {
    let _ = flag.subscribe().wait_for(|set| *set).await;
}
