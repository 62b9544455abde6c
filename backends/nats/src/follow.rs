//! Following the log: one consumer per process that the server pushes new messages to, and the news of
//! other processes. Where one message is missing, or the line was gone, it begins again behind the
//! last one that came. While nobody waits it rests: who only publishes does not read everything again.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::log::{Log, Made, merge};
use crate::row::Row;
use crate::streams::nanos;

/// How often the server says that it has nothing new.
const BEAT: Duration = Duration::from_secs(2);
/// How many of those may be missing.
const MISSING: u32 = 3;
/// The most messages handed on at once.
const BATCH: usize = 500;
/// Between attempts.
const AGAIN: Duration = Duration::from_millis(100);

/// Follows until `closed`.
pub(crate) fn start(log: Arc<Log>, closed: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(run(log, closed))
}

async fn run(log: Arc<Log>, mut closed: watch::Receiver<bool>) {
    let clock = log.wire.config.clock.clone();
    loop {
        let turn = async {
            rest(&log).await?;
            follow(&log).await
        };
        let ended = tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            ended = turn => ended,
        };
        let Err(error) = ended else { continue };
        tracing::debug!(%error, "following the log begins again");
        *log.trouble.lock() = Some(error.to_string());
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = clock.sleep(AGAIN) => {}
        }
    }
}

/// Until somebody waits. Where the log ends is looked at all the same: what was lost of it is told by that.
async fn rest(log: &Log) -> Result<()> {
    let clock = &log.wire.config.clock;
    while !log.is_followed() {
        log.rest(true);
        *log.trouble.lock() = None;
        tokio::select! {
            () = log.wanted() => {}
            () = clock.sleep(BEAT) => {}
        }
        log.begin_at(log.wire.extent().await?.last_seq);
    }
    log.rest(false);
    Ok(())
}

/// Ends with what went wrong, when the log is to be followed from another place, or when nobody waits.
async fn follow(log: &Log) -> Result<()> {
    let wire = &log.wire;
    if !wire.connected(wire.patience()).await {
        let message = "there is no connection to nats";
        return Err(Error::new(ErrorKind::Unavailable, message));
    }
    let mut line = wire.line();
    let mut moved = log.moved();
    let mut news = subscribe(log, wire.names.wakes()).await?;
    let inbox = wire.client.new_inbox();
    let mut messages = subscribe(log, inbox.clone()).await?;
    let base = wire.base();
    let from = log.head().saturating_sub(base) + 1;
    let stream = wire.names.log();
    let start = json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": from });
    let mut config = json!({
        "deliver_subject": inbox,
        "ack_policy": "none",
        "replay_policy": "instant",
        "max_deliver": 1,
        "flow_control": true,
        "idle_heartbeat": nanos(BEAT),
        "num_replicas": 1,
        "mem_storage": true,
    });
    merge(&mut config, &start);
    let body = json!({ "stream_name": stream, "config": config });
    let made: Made = wire
        .call(&format!("CONSUMER.CREATE.{stream}"), &body)
        .await?;
    made.check(&start)?;
    *log.trouble.lock() = None;
    // What happened while nobody listened is not told again.
    log.wake(None);
    let mut tail = Tail {
        log,
        base,
        number: 0,
    };
    let clock = &wire.config.clock;
    let mut look = std::pin::pin!(clock.sleep(BEAT));
    loop {
        tokio::select! {
            biased;
            _ = moved.changed() => return Ok(()),
            () = line.broken() => return Err(broken("the connection to nats broke")),
            () = &mut look => {
                if !log.is_followed() {
                    return Ok(());
                }
                look.set(clock.sleep(BEAT));
            }
            message = messages.next() => {
                let Some(message) = message else {
                    return Err(broken("the nats client ended"));
                };
                tail.take(message, &mut messages).await?;
            }
            told = news.next() => {
                let told = told.ok_or_else(|| broken("the nats client ended"))?;
                if told.payload != wire.name() {
                    let name = wire.names.of_wake(&told.subject);
                    log.wake(name.as_ref().map(SubscriptionName::as_str));
                }
            }
            () = clock.sleep(BEAT * MISSING) => {
                return Err(broken("the nats server is silent"));
            }
        }
    }
}

async fn subscribe(log: &Log, subject: String) -> Result<Subscriber> {
    let subscribed = log.wire.client.subscribe(subject).await;
    subscribed.map_err(|error| broken("the nats client ended").because(error))
}

fn broken(why: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, why)
}

struct Tail<'a> {
    log: &'a Log,
    base: u64,
    /// Of the last message that came.
    number: u64,
}

impl Tail<'_> {
    /// This message, and whatever else is there already.
    async fn take(&mut self, first: async_nats::Message, more: &mut Subscriber) -> Result<()> {
        let mut next = Some(first);
        let mut rows = Vec::new();
        let mut missing = false;
        while let Some(message) = next {
            match Row::of(&message, self.base, &self.log.wire.config.form) {
                Some((row, place)) if place.number == self.number + 1 => {
                    self.number = place.number;
                    rows.push(Arc::new(row));
                }
                Some(_) => missing = true,
                None => missing |= !self.beat(&message).await,
            }
            if missing || rows.len() >= BATCH {
                break;
            }
            next = more.next().now_or_never().flatten();
        }
        self.log.append(rows);
        if missing {
            return Err(broken("a message of the log was lost on the way"));
        }
        Ok(())
    }

    /// A heartbeat, or the question whether we keep up; whether nothing is missing.
    async fn beat(&self, message: &async_nats::Message) -> bool {
        if let Some(reply) = message.reply.clone() {
            // If the answer is lost, the server asks again.
            let _ = self.log.wire.client.publish(reply, "".into()).await;
            return true;
        }
        let Some(headers) = &message.headers else {
            return true;
        };
        if let Some(stalled) = headers.get("Nats-Consumer-Stalled") {
            let reply = stalled.as_str().to_owned();
            let _ = self.log.wire.client.publish(reply, "".into()).await;
        }
        let last = headers.get("Nats-Last-Consumer");
        let last = last.and_then(|number| number.as_str().parse::<u64>().ok());
        last.is_none_or(|last| last == self.number)
    }
}
