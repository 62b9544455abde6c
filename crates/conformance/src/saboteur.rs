//! Saboteurs: backends that break one promise each, wrapped around one that keeps them all. A case
//! that lets its saboteur pass checks nothing, so `tests/saboteurs.rs` runs every one of them.

mod deliver;
mod foreign;
mod gap;
mod history;
mod mend;
mod operate;
mod order;
mod outbox;
mod publish;
mod restart;
mod retry;
pub(crate) mod sabotage;
mod settle;
mod shutdown;
mod state;
pub(crate) mod wrap;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::backend::Backend;
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::case::Need;
use crate::line::Breakable;
use crate::report::{CaseReport, Outcome, Report};
use crate::run::{Options, run};
use crate::target::Target;
use foreign::Neighbours;
use gap::PlayedLine;
use sabotage::Sabotage;
use wrap::Wrapped;

/// One way to break a promise.
#[derive(Clone, Copy)]
pub struct Saboteur {
    /// The type's name.
    pub name: &'static str,
    /// The number of the promise it breaks.
    pub promise: u8,
    /// What it does, as a sentence without a subject.
    pub does: &'static str,
    /// What a backend must offer for it to do any harm.
    pub need: Need,
    /// The cases that must fail, as `topic::name`.
    pub caught_by: &'static [&'static str],
    make: fn() -> Arc<dyn Sabotage>,
}

impl fmt::Debug for Saboteur {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (promise {}) {}", self.name, self.promise, self.does)
    }
}

const GROUPS: &[&[Saboteur]] = &[
    publish::SABOTEURS,
    deliver::SABOTEURS,
    settle::SABOTEURS,
    retry::SABOTEURS,
    order::SABOTEURS,
    mend::SABOTEURS,
    operate::SABOTEURS,
    history::SABOTEURS,
    state::SABOTEURS,
    shutdown::SABOTEURS,
    gap::SABOTEURS,
    foreign::SABOTEURS,
    outbox::SABOTEURS,
    restart::SABOTEURS,
];

/// What names the cases that a memory backend can only play: see [`nobody`].
const PLAYED: [&str; 5] = ["restart", "fleet", "gap", "foreign", "outbox"];

/// Every saboteur, by promise.
pub fn all() -> Vec<&'static Saboteur> {
    let mut all: Vec<_> = GROUPS.iter().flat_map(|group| group.iter()).collect();
    all.sort_by_key(|saboteur| saboteur.promise);
    all
}

/// Runs each over the target, with the cases that must catch it; so many at a time.
pub async fn trials(
    target: Arc<dyn Target>,
    options: &Options,
    at_a_time: usize,
) -> Vec<(&'static Saboteur, Report)> {
    stream::iter(all())
        .map(|saboteur| {
            let options = Options {
                only: saboteur.caught_by.iter().map(ToString::to_string).collect(),
                prefix: Options::default().prefix,
                ..options.clone()
            };
            let trial = run(saboteur.over(target.clone()), options);
            async move { (saboteur, trial.await) }
        })
        .buffer_unordered(at_a_time.max(1))
        .collect()
        .await
}

/// The target as it is, behind the same wrapper: every case, and then those that a memory backend can
/// only play, played.
pub async fn untouched(target: Arc<dyn Target>, options: &Options) -> [Report; 2] {
    let run = |plays, only| {
        let options = Options {
            only,
            prefix: Options::default().prefix,
            ..options.clone()
        };
        run(nobody(target.clone(), plays), options)
    };
    let played = PLAYED.map(Into::into).to_vec();
    [run(false, Vec::new()).await, run(true, played).await]
}

impl Saboteur {
    /// The target with every backend sabotaged.
    pub fn over(&self, target: Arc<dyn Target>) -> Arc<dyn Target> {
        Sabotaged::target(self.name, self.make, target, self.plays())
    }

    /// Which cases let it pass, of those that must catch it and of which this is the report. Where the
    /// target does not offer what one of them is about, there is nothing to catch.
    pub fn escaped<'a>(&self, report: &'a Report) -> impl Iterator<Item = &'a CaseReport> {
        let caught_by = self.caught_by;
        let has = report.capabilities.as_ref();
        let harmless = has.is_some_and(|has| self.need.missing(has).is_some());
        report.cases.iter().filter(move |case| {
            let must = caught_by.contains(&format!("{}::{}", case.topic, case.name).as_str());
            must && !harmless && matches!(case.outcome, Outcome::Passed)
        })
    }

    fn plays(&self) -> bool {
        PLAYED
            .iter()
            .any(|word| self.caught_by.iter().any(|case| case.contains(word)))
    }
}

/// The target as it is, behind the same wrapper; every case must still pass. With `plays` a target
/// that is neither durable nor shared plays both: closing leaves the backend below open, and opening
/// it again finds it.
fn nobody(target: Arc<dyn Target>, plays: bool) -> Arc<dyn Target> {
    Sabotaged::target("nobody", || Arc::new(sabotage::Nobody), target, plays)
}

/// A backend, who sabotages it, and who else is at its stream, in play.
#[derive(Debug, Clone)]
struct Opened {
    real: Arc<dyn Backend>,
    sabotage: Arc<dyn Sabotage>,
    neighbours: Arc<Neighbours>,
}

struct Sabotaged {
    name: &'static str,
    make: fn() -> Arc<dyn Sabotage>,
    target: Arc<dyn Target>,
    plays: bool,
    opened: Mutex<HashMap<String, Opened>>,
}

impl Sabotaged {
    fn target(
        name: &'static str,
        make: fn() -> Arc<dyn Sabotage>,
        target: Arc<dyn Target>,
        plays: bool,
    ) -> Arc<dyn Target> {
        Arc::new(Self {
            name,
            make,
            target,
            plays,
            opened: Mutex::default(),
        })
    }

    async fn first(&self, stream: &str) -> Result<Opened> {
        let neighbours = Arc::<Neighbours>::default();
        let mut real = self.target.open(stream).await?;
        if self.plays {
            real = Wrapped::around(real, neighbours.clone(), true);
        }
        Ok(Opened {
            real,
            sabotage: (self.make)(),
            neighbours,
        })
    }

    /// What is open as that stream, where it is played.
    fn played(&self, stream: &str) -> Option<Opened> {
        let opened = self.opened.lock().get(stream).cloned();
        opened.filter(|_| self.plays)
    }
}

impl fmt::Debug for Sabotaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {:?}", self.name, self.target)
    }
}

#[async_trait]
impl Target for Sabotaged {
    fn name(&self) -> String {
        format!("{} over {}", self.name, self.target.name())
    }

    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>> {
        let before = self.opened.lock().get(stream).cloned();
        let opened = match before {
            Some(before) if self.plays => before,
            // It may have been closed.
            Some(before) => Opened {
                real: self.target.open(stream).await?,
                ..before
            },
            None => self.first(stream).await?,
        };
        let (real, sabotage) = (opened.real.clone(), opened.sabotage.clone());
        self.opened.lock().insert(stream.to_owned(), opened);
        sabotage.opened(&*real).await?;
        Ok(Wrapped::around(real, sabotage, self.plays))
    }

    async fn over(&self, stream: &str) {
        self.target.over(stream).await;
    }

    async fn transact(
        &self,
        stream: &str,
        events: &[Event],
        end: BoxFuture<'static, bool>,
    ) -> Option<Result<()>> {
        let Opened { real, sabotage, .. } = self.played(stream)?;
        Some(sabotage.transact(&*real, events, end).await)
    }

    async fn write_past(&self, stream: &str, bytes: &[u8]) -> Option<Result<()>> {
        let Opened { real, .. } = self.played(stream)?;
        Some(foreign::write(&*real, bytes).await)
    }

    async fn lose(&self, stream: &str) -> Option<Result<()>> {
        let Opened {
            real, neighbours, ..
        } = self.played(stream)?;
        Some(neighbours.delete(&*real).await)
    }

    /// The saboteur sits at this end of the line.
    async fn open_breakable(&self, stream: &str) -> Option<Result<Breakable>> {
        let Opened { real, sabotage, .. } = self.played(stream)?;
        let line = PlayedLine::new();
        let far = Wrapped::around(real, Arc::new(line.clone()), true);
        Some(Ok(Breakable {
            backend: Wrapped::around(far, sabotage, true),
            line: Arc::new(line),
        }))
    }

    async fn open_bounded(&self, stream: &str, bytes: u64) -> Option<Result<Arc<dyn Backend>>> {
        let real = self.target.open_bounded(stream, bytes).await?;
        Some(real.map(|real| Wrapped::around(real, (self.make)(), false)))
    }
}

/// Lists the saboteurs of a module: `Type: promise, "what it does" => ["topic::case", ...]`, with a
/// capability behind what it does where it can do nothing without.
macro_rules! saboteurs {
    ($($name:ident: $promise:literal, $does:literal $(, $need:ident)? => [$($case:literal),+ $(,)?];)+) => {
        pub(super) const SABOTEURS: &[$crate::saboteur::Saboteur] = &[$(
            $crate::saboteur::Saboteur {
                name: stringify!($name),
                promise: $promise,
                does: $does,
                need: saboteurs!(@need $($need)?),
                caught_by: &[$($case),+],
                make: || std::sync::Arc::new($name::default()),
            },
        )+];
    };
    (@need) => { $crate::case::Need::AtLeastOnce };
    (@need $need:ident) => { $crate::case::Need::$need };
}

pub(crate) use saboteurs;
