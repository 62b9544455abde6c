//! The line of one subscription: a connection that hears its channels, and is made again when it
//! breaks. Redis keeps nothing for who is not there: each break is told once, as a gap.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::clock::Clock;
use fanfare_core::error::Result;
use futures::{FutureExt, StreamExt};
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Msg, RedisResult};
use tokio::task::unconstrained;

use super::channel::{Selector, counts};
use super::dial::{Gate, dial};
use super::stream::Stream;
use super::subscription::Subscription;
use super::{dead_letters, message};
use crate::connect::Wire;
use crate::error::map;

/// How long a line may be silent before it is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(5);
/// Between the first attempts to be connected again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Between the later ones.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// A connection that hears the channels of a subscription.
pub(super) struct Line {
    pub(super) sink: PubSubSink,
    messages: PubSubStream,
    gate: Arc<Gate>,
    pub(super) selectors: Arc<[Selector]>,
}

/// Why nothing more is heard.
enum Over {
    /// The subscription is over.
    Ended,
    /// The connection is. `behind`: the queue had been full.
    Broken { behind: bool },
}

impl Line {
    /// Answers once Redis has confirmed what is to be heard.
    pub(super) async fn open(stream: &Stream, selectors: Vec<Selector>) -> Result<Self> {
        let (connection, gate) = dial(&stream.wire).await?;
        let (mut sink, messages) = connection.split();
        ask(&stream.wire, &mut sink, &selectors).await?;
        Ok(Self {
            sink,
            messages,
            gate,
            selectors: selectors.into(),
        })
    }
}

/// Asks to hear channels too. The answer comes after every message from before.
pub(super) async fn ask(wire: &Wire, sink: &mut PubSubSink, selectors: &[Selector]) -> Result<()> {
    let asked = async {
        if selectors.is_empty() {
            sink.ping::<redis::Value>().await?;
        }
        for selector in selectors {
            if selector.is_glob {
                sink.psubscribe(&selector.name).await?;
            } else {
                sink.subscribe(&selector.name).await?;
            }
        }
        Ok(())
    };
    let limit = wire.config.clock.sleep(wire.config.response_timeout);
    let asked: RedisResult<()> = tokio::select! {
        asked = asked => asked,
        () = limit => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    };
    asked.map_err(|error| map(error).during("listen"))
}

/// Hears by `line`, and by the ones after it, until the subscription ends.
pub(super) async fn run(stream: Arc<Stream>, subscription: Arc<Subscription>, mut line: Line) {
    while let Over::Broken { behind } = hear(&stream, &subscription, &mut line).await {
        subscription.is_down();
        let since = stream.wire.config.clock.now();
        drop(line);
        let Some(again) = reopen(&stream, &subscription).await else {
            return;
        };
        line = again;
        subscription.is_up_by(&line);
        subscription.tell_gap(stream.wire.config.clock.now().since(since), behind);
    }
}

/// Until it works, or the subscription ends.
async fn reopen(stream: &Stream, subscription: &Subscription) -> Option<Line> {
    let clock = &stream.wire.config.clock;
    let mut pause = FIRST_PAUSE;
    loop {
        subscription.turn_to_next_patterns();
        let patterns = subscription.queue().spec.patterns.clone();
        let selectors = stream.channels.selectors(&patterns);
        let error = tokio::select! {
            opened = Line::open(stream, selectors) => match opened {
                Ok(line) => return Some(line),
                Err(error) => error,
            },
            () = subscription.ended() => return None,
        };
        tracing::debug!(subscription = %subscription.name, %error, "still not connected");
        // Many processes lost the same server: they do not come back at the same instant.
        let spread = clock.now().as_micros().rem_euclid(1_000);
        let spread = 0.5 + f64::from(u16::try_from(spread).unwrap_or(0)) / 2_000.0;
        tokio::select! {
            () = clock.sleep(pause.mul_f64(spread)) => {}
            () = subscription.ended() => return None,
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn hear(stream: &Stream, subscription: &Subscription, line: &mut Line) -> Over {
    let clock = &stream.wire.config.clock;
    let patience = stream.wire.config.response_timeout;
    let mut silence = pin!(silence(clock.clone(), patience, line.sink.clone()));
    let (mut heard, mut behind) = (false, false);
    loop {
        // Asked for before we look: then what we do not find came after it.
        let next_patterns = subscription.has_next_patterns();
        let message = if let Some(message) = unconstrained(line.messages.next()).now_or_never() {
            message
        } else {
            line.gate.open();
            if next_patterns {
                subscription.turn_to_next_patterns();
            }
            if std::mem::take(&mut heard) {
                silence.set(self::silence(clock.clone(), patience, line.sink.clone()));
                behind = false;
            }
            tokio::select! {
                biased;
                message = line.messages.next() => message,
                () = subscription.ended() => return Over::Ended,
                () = line.gate.shut() => continue,
                () = subscription.asked.notified() => continue,
                () = silence.as_mut() => return Over::Broken { behind },
            }
        };
        let Some(message) = message else {
            return Over::Broken { behind };
        };
        heard = true;
        behind |= subscription.wait_for_room().await;
        if subscription.has_ended() {
            return Over::Ended;
        }
        take(stream, subscription, &message).await;
    }
}

/// Ends when the server does not answer.
async fn silence(clock: Clock, patience: Duration, mut sink: PubSubSink) {
    loop {
        clock.sleep(SILENCE).await;
        let answered: RedisResult<redis::Value> = tokio::select! {
            biased;
            answered = sink.ping() => answered,
            () = clock.sleep(patience) => return,
        };
        if answered.is_err() {
            return;
        }
    }
}

async fn take(stream: &Stream, subscription: &Subscription, message: &Msg) {
    let channel = message.get_channel_name();
    let Some(event_type) = stream.channels.event_type(channel) else {
        return;
    };
    let by: Option<String> = message.get_pattern().unwrap_or_default();
    let by = by.as_deref().unwrap_or(channel);
    if !counts(&subscription.selectors(), by, &event_type) || !subscription.matches(&event_type) {
        return;
    }
    let bytes = Bytes::copy_from_slice(message.get_payload_bytes());
    let now = stream.wire.config.clock.now();
    match message::read(stream.form(), &event_type, &bytes) {
        Ok(event) => subscription.change(|queue| queue.push(event, now)),
        Err(error) => {
            subscription.change(|queue| queue.push_undecodable(bytes, &error, now));
            dead_letters::write(stream, subscription).await;
        }
    }
}
