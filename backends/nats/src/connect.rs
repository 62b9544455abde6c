//! The connection: requests that say whether they were sent, and the JetStream API. The client reconnects
//! by itself.

mod answer;
mod line;
mod login;
mod time;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::RequestErrorKind as Kind;
use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, HeaderMap, Message, Request, ServerInfo};
use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::timestamp::Timestamp;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use self::answer::{Found, read};
pub(crate) use self::answer::{Kept, Written};
pub(crate) use self::line::Line;
use self::time::Offset;
use crate::config::NatsConfig;
use crate::error::{Refusal, not_connected};
use crate::names::Names;
use crate::streams::Keeping;

/// The oldest server that has all that is used here.
const OLDEST: (u64, u64) = (2, 9);
/// Between attempts to reach JetStream while it starts.
const RETRY: Duration = Duration::from_millis(50);
/// The first pause before connecting again, and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Of the largest message that the server takes, what is left for everything but the data.
const ENVELOPE: usize = 64 << 10;
/// Of a position, those of the sequence: a trillion events in each life of a log.
const SEQUENCE_BITS: u32 = 40;
const BROKEN: &str = "the connection to nats broke";
const NO_JETSTREAM: &str = "this nats-server has no JetStream: start it with --jetstream, or open the \
     URL with mode=core, which loses events to whoever does not listen";
const SILENT: &str = "nats did not answer in time";
/// The header that makes a write depend on the last of its subject.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// The way to the server.
pub(crate) struct Wire {
    pub(crate) config: NatsConfig,
    pub(crate) client: Client,
    pub(crate) names: Names,
    /// Tells this process from others.
    pub(crate) who: u64,
    line: Line,
    offset: Mutex<Offset>,
    /// Which life of the log this is, see [`crate::loss`].
    generation: AtomicU64,
    /// Which life of the state this is: a print of when it was made.
    life: AtomicU64,
    /// How both streams are kept, as last seen.
    keeping: Mutex<Keeping>,
    /// A stream is missing.
    pub(crate) missing: Notify,
    /// When the connection was last given up, in milliseconds.
    given_up: AtomicI64,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nothing was done.
    NotSent(Error),
    /// The connection broke: it may have been done.
    Broken,
    /// There was no answer in time: it may have been done.
    Silent,
}

impl Failed {
    /// As an error of an operation that may be repeated, or of one that only reads.
    pub(crate) fn harmless(self) -> Error {
        match self {
            Self::NotSent(error) => error,
            Self::Broken => Error::new(ErrorKind::Unavailable, BROKEN),
            Self::Silent => Error::new(ErrorKind::Unavailable, SILENT),
        }
    }

    /// As an error of an operation of which it matters whether it was done.
    pub(crate) fn error(self) -> Error {
        match self {
            Self::NotSent(error) => error,
            Self::Broken => Error::new(ErrorKind::Unknown, BROKEN),
            Self::Silent => Error::new(ErrorKind::Unknown, SILENT),
        }
    }
}

impl Wire {
    /// Connects, and checks that the server can do what is needed.
    pub(crate) async fn open(config: NatsConfig) -> Result<Arc<Self>> {
        config.check()?;
        let (line, told) = Line::new();
        let beat = (config.response_timeout / 3).max(Duration::from_millis(500));
        let options = ConnectOptions::new()
            .name("fanfare")
            .connection_timeout(config.connect_timeout)
            .ping_interval(beat)
            .request_timeout(None)
            .reconnect_delay_callback(pause)
            .event_callback(move |event| {
                told.tell(&event);
                std::future::ready(())
            });
        let (options, servers) = login::log_in(options, &config.url)?;
        let connecting = options.connect(servers);
        let client = tokio::select! {
            client = connecting => client.map_err(not_connected)?,
            () = config.clock.sleep(config.connect_timeout) => {
                return Err(Error::new(ErrorKind::Unavailable, "nats does not answer"));
            }
        };
        check_version(&client.server_info().version)?;
        let names = if config.form.is_foreign() {
            Names::beside(&config.stream)
        } else {
            Names::new(&config.stream)
        };
        let (high, low) = Uuid::now_v7().as_u64_pair();
        let wire = Self {
            config,
            client,
            names,
            who: high.rotate_left(32) ^ low,
            line,
            offset: Mutex::default(),
            generation: AtomicU64::new(0),
            life: AtomicU64::new(0),
            keeping: Mutex::default(),
            missing: Notify::new(),
            given_up: AtomicI64::new(0),
        };
        Ok(Arc::new(wire))
    }

    /// This process, as the news that it sends say.
    pub(crate) fn name(&self) -> Bytes {
        Bytes::copy_from_slice(&self.who.to_be_bytes())
    }

    /// The most bytes of data in one event, by the options and by what the server takes in a message.
    pub(crate) fn most_data(&self) -> usize {
        let room = self.client.max_payload().saturating_sub(ENVELOPE);
        let payload = self.config.form.most_data(room);
        payload.min(self.config.max_data_bytes)
    }

    /// What is added to a sequence of the log to make a position.
    pub(crate) fn base(&self) -> u64 {
        self.generation.load(Ordering::Acquire) << SEQUENCE_BITS
    }

    pub(crate) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Changes when the state was made again: what was read of it before says nothing any more.
    pub(crate) fn life(&self) -> u64 {
        self.life.load(Ordering::Acquire)
    }

    pub(crate) fn set_life(&self, made: &str) {
        let mut hasher = DefaultHasher::new();
        made.hash(&mut hasher);
        self.life.store(hasher.finish(), Ordering::Release);
    }

    pub(crate) fn set_keeping(&self, keeping: Keeping) {
        *self.keeping.lock() = keeping;
    }

    pub(crate) fn keeping(&self) -> Keeping {
        *self.keeping.lock()
    }

    /// Another one after each time that the connection was made.
    pub(crate) fn connection(&self) -> (String, u64) {
        let info = self.client.server_info();
        (info.server_id, info.client_id)
    }

    /// Major and minor version of the server.
    pub(crate) fn version(&self) -> (u64, u64) {
        version(&self.client.server_info().version)
    }

    /// When a request that is made now should be over.
    pub(crate) fn patience(&self) -> Timestamp {
        self.config.clock.now() + self.config.response_timeout
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// What happens to the connection from now on.
    pub(crate) fn line(&self) -> Line {
        self.line.since_now()
    }

    /// Waits for a connection, at most until then; whether there is one.
    pub(crate) async fn connected(&self, until: Timestamp) -> bool {
        let mut line = self.line();
        loop {
            if self.is_connected() {
                return true;
            }
            tokio::select! {
                () = line.changed() => {}
                // The state changes a little before it is told.
                () = self.config.clock.sleep(RETRY) => {}
            }
            if self.config.clock.now() >= until {
                return self.is_connected();
            }
        }
    }

    /// Sends, and waits for the answer at most until then. Where nobody listens nothing was done, and
    /// it is sent again: a server that starts is one before its JetStream is.
    pub(crate) async fn ask(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: &Bytes,
        until: Timestamp,
    ) -> Result<Message, Failed> {
        loop {
            if !self.connected(until).await {
                let error = Error::new(ErrorKind::Unavailable, "there is no connection to nats");
                return Err(Failed::NotSent(error));
            }
            match self.ask_once(subject, headers, payload, until).await {
                Ok(Some(message)) => return Ok(message),
                Ok(None) if self.config.clock.now() + RETRY < until => {
                    self.missing.notify_one();
                    self.config.clock.sleep(RETRY).await;
                }
                Ok(None) => {
                    let why =
                        "nobody answers for JetStream: it is off, starting, or the stream is gone";
                    return Err(Failed::NotSent(Error::new(ErrorKind::Unavailable, why)));
                }
                Err(failed) => return Err(failed),
            }
        }
    }

    /// None: nobody listens.
    pub(crate) async fn ask_once(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: &Bytes,
        until: Timestamp,
    ) -> Result<Option<Message>, Failed> {
        let mut request = Request::new().payload(payload.clone()).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers.clone());
        }
        let mut line = self.line();
        let answer = tokio::select! {
            biased;
            answer = self.client.send_request(subject.to_owned(), request) => answer,
            failed = line.fails(subject) => return Err(failed),
            () = self.config.clock.sleep_until(until) => {
                self.give_up_line().await;
                return Err(Failed::Silent);
            }
        };
        match answer {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == Kind::NoResponders => Ok(None),
            Err(error) => match error.kind() {
                Kind::MaxPayloadExceeded => Err(Failed::NotSent(Error::new(
                    ErrorKind::TooLarge,
                    "above what the nats server takes in one message",
                ))),
                Kind::InvalidSubject => Err(Failed::NotSent(
                    Error::new(ErrorKind::Internal, "no nats subject").because(error),
                )),
                _ => Err(Failed::Broken),
            },
        }
    }

    /// Whatever is silent for so long is no connection. All that wait notice at once; one is enough.
    pub(crate) async fn give_up_line(&self) {
        let now = self.config.clock.now().as_millis();
        let last = self.given_up.swap(now, Ordering::Relaxed);
        if now - last > 1_000 {
            // An error means that the client is gone.
            let _ = self.client.force_reconnect().await;
        }
    }

    /// Fails where there is no JetStream, or none for us.
    pub(crate) async fn check_jetstream(&self) -> Result<()> {
        let nothing = Bytes::new();
        let answer = self.ask_once("$JS.API.INFO", None, &nothing, self.patience());
        match answer.await.map_err(Failed::harmless)? {
            Some(answer) => {
                let answer: Result<Value, _> = read(&answer.payload).map_err(Failed::harmless)?;
                answer.map(drop).map_err(|refusal| refusal.error())
            }
            // Another server of its cluster may have it; one that starts will.
            None => match self.client.server_info() {
                ServerInfo {
                    jetstream: false,
                    cluster: None,
                    ..
                } => Err(Error::new(ErrorKind::Unsupported, NO_JETSTREAM)),
                _ => Ok(()),
            },
        }
    }

    /// One call of the JetStream API, all of which may be repeated; the inner error is its refusal.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &Value,
        until: Timestamp,
    ) -> Result<Result<T, Refusal>, Failed> {
        let payload = Bytes::from(body.to_string());
        let subject = format!("$JS.API.{call}");
        loop {
            match self.ask(&subject, None, &payload, until).await {
                Err(Failed::Broken) if self.config.clock.now() < until => {}
                Err(failed) => return Err(failed),
                Ok(answer) => return read(&answer.payload),
            }
        }
    }

    /// The same for what may be repeated.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: &str, body: &Value) -> Result<T> {
        let answer = self.api(call, body, self.patience()).await;
        answer
            .map_err(Failed::harmless)?
            .map_err(|refusal| refusal.error())
    }

    /// Stores a message: whatever is there, or only where the last of its subject is `expected` (0:
    /// there is none).
    pub(crate) async fn write(
        &self,
        subject: &str,
        data: &Bytes,
        expected: Option<u64>,
        until: Timestamp,
    ) -> Result<Result<Written, Refusal>, Failed> {
        let headers = expected.map(|expected| {
            let mut headers = HeaderMap::new();
            headers.insert(EXPECTED, expected.to_string());
            headers
        });
        self.store(subject, headers.as_ref(), data, until).await
    }

    /// Stores a message with these headers.
    pub(crate) async fn store(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        data: &Bytes,
        until: Timestamp,
    ) -> Result<Result<Written, Refusal>, Failed> {
        read(&self.ask(subject, headers, data, until).await?.payload)
    }

    /// The last message of a subject of the state, if there is one.
    pub(crate) async fn last(&self, subject: &str) -> Result<Option<Kept>> {
        self.kept(&self.names.state(), &json!({ "last_by_subj": subject }))
            .await
    }

    /// The message of a stream that `which` names, if it is there.
    pub(crate) async fn kept(&self, stream: &str, which: &Value) -> Result<Option<Kept>> {
        let call = format!("STREAM.MSG.GET.{stream}");
        let answer = self.api(&call, which, self.patience()).await;
        match answer.map_err(Failed::harmless)? {
            Ok(Found { message }) => message.kept().map(Some),
            Err(refusal) if refusal.is_no_message() => Ok(None),
            Err(refusal) => {
                self.missing.notify_one();
                Err(refusal.error())
            }
        }
    }

    /// Removes the messages of a subject of the state up to this one.
    pub(crate) async fn forget(&self, subject: &str, up_to: u64) -> Result<()> {
        let call = format!("STREAM.PURGE.{}", self.names.state());
        let body = json!({ "filter": subject, "seq": up_to + 1 });
        self.call::<Value>(&call, &body).await.map(drop)
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("stream", &self.config.stream)
            .finish_non_exhaustive()
    }
}

fn pause(attempt: usize) -> Duration {
    let (first, longest) = RECONNECT;
    let doubled = first * 2_u32.saturating_pow(u32::try_from(attempt.min(8)).unwrap_or(8));
    doubled.min(longest)
}

fn version(text: &str) -> (u64, u64) {
    let mut parts = text.split(['.', '-']).map_while(|part| part.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn check_version(text: &str) -> Result<()> {
    if version(text) >= OLDEST {
        return Ok(());
    }
    let message = format!("nats-server {text} is too old: 2.9 or later is needed");
    Err(Error::new(ErrorKind::Unsupported, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_refused_by_its_version() {
        let refused = check_version("2.8.4").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        for version in ["2.9.0", "2.10.29-RC.1", "3.0.0"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
    }
}
