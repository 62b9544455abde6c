//! The journal: a backend whose broker keeps no history, and the log that keeps one beside it. The
//! broker brings events and takes them; what is asked of the past, and of subscriptions that were
//! made here, is the log's to answer.
//!
//! ```text
//!   publish ----> broker ----> whoever listens there
//!      |             |
//!      |             `-- subscription `fanfare-journal`, a forwarding
//!      |                          |
//!      `------------------------> log ----> history, subscriptions, audit
//! ```
//!
//! Not a cache and not a second copy of the broker's state: what others do with their own
//! subscriptions on the broker the log does not know.

mod dead_letters;
mod intake;
mod operate;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::Result;
use fanfare_core::admin::{Admin, Put};
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::{self, Capabilities, HistoryKind, Known};
use fanfare_core::consumer::{Consumer, Member};
use fanfare_core::dead_letter::DeadLetters;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::id::EventId;
use fanfare_core::pattern::Pattern;
use fanfare_core::state::State;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};

use crate::bus::Bus;
use crate::options::Limits;
use intake::Intake;

/// The name of the subscription that fills a journal, reserved on its stream; and of the shared
/// value on both sides that says which journal it is.
pub const JOURNAL: &str = "fanfare-journal";

/// How long a close waits for events on their way to the log.
const GRACE: Duration = Duration::from_secs(5);

/// A backend without history, with one.
#[derive(Debug)]
pub struct Journal {
    name: SubscriptionName,
    source: Arc<dyn Backend>,
    log: Arc<dyn Backend>,
    intake: Arc<Intake>,
    /// On the source: reads what is forwarded.
    hears: Bus,
    /// On the log: writes it.
    keeps: Bus,
}

impl Journal {
    /// Keeps the events of `source`, which keeps none itself, in `log`, from now on and for as long
    /// as the answer is open; closing it closes both.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) where `log` cannot list past events by every filter,
    /// [`Conflict`](ErrorKind::Conflict) where another journal takes the events of this stream
    /// already: each would have some of them. Both backends are closed then.
    pub async fn open(source: Arc<dyn Backend>, log: Arc<dyn Backend>) -> Result<Arc<Self>> {
        let journal = Self::new(source, log)?;
        match journal.begin().await {
            Ok(()) => Ok(Arc::new(journal)),
            Err(error) => {
                journal.close().await?;
                Err(error)
            }
        }
    }

    fn new(source: Arc<dyn Backend>, log: Arc<dyn Backend>) -> Result<Self> {
        let intake = Arc::new(Intake::new(Arc::clone(&log)));
        let hears = Bus::builder(Arc::clone(&source)).closes_backend(false);
        // What the broker took is kept, however large others may publish.
        let limits = Limits {
            data_bytes: log.capabilities().limits.data_bytes,
            ..Limits::default()
        };
        let written: Arc<dyn Backend> = Arc::clone(&intake) as Arc<dyn Backend>;
        let keeps = Bus::builder(written).limits(limits).closes_backend(false);
        Ok(Self {
            name: SubscriptionName::parse(JOURNAL)?,
            hears: hears.build()?,
            keeps: keeps.build()?,
            source,
            log,
            intake,
        })
    }

    async fn begin(&self) -> Result<()> {
        if self.log.capabilities().history != HistoryKind::Full {
            let text = "a journal is kept where past events are listed by every filter, as in sqlite: and postgres:";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let has = self.source.capabilities();
        let start = if has.start.earliest {
            Start::Earliest
        } else {
            Start::Latest
        };
        // Where each process hears everything by itself, journals do not take each other's events.
        if !has.at_most_once {
            self.claim(start).await?;
        }
        let forwarding = self.hears.forward(JOURNAL, "**", &self.keeps);
        forwarding.start(start).await?;
        Ok(())
    }

    /// Makes the subscription, and has the stream know whose it is. Who made it may write over the
    /// name of a journal whose subscription somebody deleted.
    async fn claim(&self, start: Start) -> Result<()> {
        let id = self.id().await?;
        let mut spec = SubscriptionSpec::new(self.name.clone(), Pattern::everything().into());
        (spec.start, spec.ordered) = (start, true);
        let made = self.source.admin().put(&spec).await? == Put::Created;
        let state = self.source.state();
        let held = state.get(JOURNAL).await?;
        if held.is_none() || made {
            let version = held.map(|held| held.version);
            state.compare_and_set(JOURNAL, version, id.clone()).await?;
        }
        match state.get(JOURNAL).await? {
            Some(held) if held.value == id => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Conflict,
                "another journal takes the events of this stream: give both servers the same one, or one of \
                 them none; where the other is gone for good, delete the subscription `fanfare-journal`",
            )),
        }
    }

    /// What tells this journal from all others.
    async fn id(&self) -> Result<Bytes> {
        let state = self.log.state();
        let new = Bytes::from(EventId::generate().to_string());
        state.put_if_absent(JOURNAL, new).await?;
        let kept = state.get(JOURNAL).await?;
        kept.map(|kept| kept.value)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the journal lost its name"))
    }

    /// Whose a subscription is. A new one is the log's: there it has a past.
    async fn owner(&self, name: &SubscriptionName) -> Result<&Arc<dyn Backend>> {
        if *name == self.name {
            return Ok(&self.source);
        }
        for side in [&self.log, &self.source] {
            match side.admin().spec(name).await {
                Ok(_) => return Ok(side),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.log)
    }
}

#[async_trait]
impl Backend for Journal {
    /// Those of the log, within the limits of both.
    fn capabilities(&self) -> Capabilities {
        let (source, log) = (self.source.capabilities(), self.log.capabilities());
        let both_write = !source.foreign_input;
        Capabilities {
            backend: source.backend,
            power_safe: if both_write {
                log.power_safe
            } else {
                weaker(source.power_safe, log.power_safe)
            },
            durable: log.durable && (both_write || source.durable),
            at_most_once: source.at_most_once,
            atomic_batch: false,
            shared: source.shared && log.shared,
            limits: capability::Limits {
                data_bytes: source.limits.data_bytes.min(log.limits.data_bytes),
                batch_events: source.limits.batch_events.min(log.limits.batch_events),
                delay_millis: log.limits.delay_millis,
            },
            ..log
        }
    }

    /// To the broker, and then to the log: what is acknowledged is in both. Where the broker's form
    /// is others' the id may not survive the way over it, so there only the subscription writes.
    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        if self.source.capabilities().foreign_input {
            let answers = self.source.publish(events).await?;
            // A position on the broker is none in the log.
            let placeless = |published| Published {
                position: None,
                ..published
            };
            let answers = answers.into_iter().map(|answer| answer.map(placeless));
            return Ok(answers.collect());
        }
        let expected = self.intake.expect(events);
        let answers = self.source.publish(events).await?;
        let pairs = events.iter().zip(&answers);
        let taken: Vec<Event> = pairs
            .filter(|(_, answer)| answer.is_ok())
            .map(|(event, _)| event.clone())
            .collect();
        let mut kept = match self.log.publish(&taken).await {
            Ok(kept) => kept,
            Err(error) => taken.iter().map(|_| Err(error.duplicate())).collect(),
        }
        .into_iter();
        drop(expected);
        let answer = |taken: Result<Published>| {
            taken?;
            let kept = kept.next().unwrap_or_else(|| Err(unanswered()));
            kept.map_err(not_yet)
        };
        Ok(answers.into_iter().map(answer).collect())
    }

    async fn consume(&self, name: &SubscriptionName, member: Member) -> Result<Arc<dyn Consumer>> {
        self.not_ours(name)?;
        self.owner(name).await?.consume(name, member).await
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }

    fn history(&self) -> Result<&dyn History> {
        self.log.history()
    }

    /// The broker's: whoever uses it directly shares them.
    fn state(&self) -> &dyn State {
        self.source.state()
    }

    async fn close(&self) -> Result<()> {
        self.hears.shutdown(GRACE).await?;
        self.keeps.shutdown(Duration::ZERO).await?;
        let closed = self.source.close().await;
        self.log.close().await?;
        closed
    }
}

fn weaker(a: Known, b: Known) -> Known {
    match (a, b) {
        (Known::Yes, b) => b,
        (Known::No, _) | (_, Known::No) => Known::No,
        (Known::Unknown, _) => Known::Unknown,
    }
}

fn unanswered() -> Error {
    let text = "the journal answered for another number of events";
    Error::new(ErrorKind::Internal, text)
}

/// The broker has it, so the subscription brings it yet.
fn not_yet(error: Error) -> Error {
    let text =
        "the broker has the event, the journal not yet; publishing the same event again is safe";
    Error::new(ErrorKind::Unknown, text).because(error)
}
