//! What an engine does for its members: each of these methods happens at once on the server, whatever
//! other members do meanwhile.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::clock::Clock;
use fanfare_core::error::Result;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use tokio::sync::{Notify, watch};

use crate::slot::Slot;
use crate::subscription::Stored;

/// Some neighbouring positions of the log, as an engine reads them.
pub trait Page: Debug + Send + Sync + 'static {
    /// What stands here after `position`, in order.
    fn after(&self, position: u128) -> impl Iterator<Item = (u128, &Slot)> + Send;

    /// The position of the last event.
    fn last(&self) -> u128;

    /// Nothing more can stand up to here.
    fn end(&self) -> u128;
}

/// A stream on a server that several processes share.
#[async_trait]
pub trait Engine: Debug + Send + Sync + 'static {
    /// How the log comes.
    type Page: Page;

    /// Time here; leases and delays are kept by the server's own.
    fn clock(&self) -> &Clock;

    /// Changes when events were appended.
    fn appended(&self) -> watch::Receiver<u64>;

    /// Notified when a subscription may have something other than new events.
    fn woken(&self, name: &SubscriptionName) -> Arc<Notify>;

    /// Some of the log after `position`, in order; nothing at its end.
    async fn after(&self, position: u128) -> Result<Vec<Arc<Self::Page>>>;

    /// What is to be delivered at these positions: the edited body of a redriven event, or the log's.
    /// What is gone is left out.
    async fn bodies(
        &self,
        name: &SubscriptionName,
        positions: &[u128],
    ) -> Result<BTreeMap<u128, Slot>>;

    /// The subscription as it is now, if it is there.
    async fn load(&self, name: &SubscriptionName) -> Result<Option<Stored>>;

    /// Makes the subscription again where it is gone, behind the last position up to which everything
    /// is known to be settled; nothing of its former life fits it.
    /// [`NotFound`](fanfare_core::ErrorKind::NotFound) where somebody meant it to be gone.
    async fn restore(&self, stored: &Stored) -> Result<()>;

    /// Leases what is due, suspect or fresh.
    async fn claim(&self, ask: &Ask<'_>) -> Result<Answer>;

    /// Gives up suspects that are out of attempts; each with its encoded body.
    async fn bury(&self, spec: &SubscriptionSpec, dead: &[(u128, Vec<u8>)]) -> Result<()>;

    /// Settles runs. Answers each with one letter for all of it, or one for each delivery: D(one),
    /// L(ate), A(lready), U(nknown). None: there is no such subscription.
    async fn settle(&self, spec: &SubscriptionSpec, runs: &[Run]) -> Result<Option<Vec<String>>>;

    /// Makes leases end so long from now. Answers as [`Engine::settle`] does.
    async fn extend(
        &self,
        name: &SubscriptionName,
        runs: &[Run],
        lease: Duration,
    ) -> Result<Option<Vec<String>>>;

    /// Gives back what a member holds.
    async fn release(&self, name: &SubscriptionName, member: u64) -> Result<()>;

    /// Deletes an ephemeral subscription.
    async fn end(&self, name: &SubscriptionName) -> Result<()>;

    /// An ephemeral subscription is still somebody's.
    async fn say_alive(&self, name: &SubscriptionName) -> Result<()>;
}

/// What a member asks for.
#[derive(Debug)]
pub struct Ask<'a> {
    /// As the member knows it.
    pub stored: &'a Stored,
    /// Who asks: no other member has this number.
    pub member: u64,
    /// Whether the handlers run elsewhere.
    pub external: bool,
    /// The frontier behind which `fresh` was found.
    pub frontier: u128,
    /// Between `fresh` and here nothing matches.
    pub reached: u128,
    /// At most so many.
    pub max: usize,
    /// The next matching events, in order.
    pub fresh: &'a [(u128, Slot)],
}

/// What a claim is answered with.
#[derive(Debug)]
pub enum Answer {
    /// Here.
    Granted(Granted),
    /// The subscription is another than the member knows.
    Stale,
    /// There is no such subscription.
    Gone,
    /// These are out of attempts and come first.
    Bury(Vec<u128>),
}

/// A lease, or what to wait for.
#[derive(Debug)]
pub struct Granted {
    /// Of the lease; 0 where there is none.
    pub epoch: u64,
    /// The subscription's, now.
    pub frontier: u128,
    /// When something may be due, where nothing was granted.
    pub next: Option<Duration>,
    /// How many of the fresh events were taken. Where order is kept, those to deliver are in `due`.
    pub fresh: usize,
    /// Positions and attempts, before the fresh ones.
    pub due: Vec<(u128, u32)>,
}

/// Deliveries of neighbours under one epoch.
#[derive(Debug)]
pub struct Run {
    /// Of their lease.
    pub epoch: u64,
    /// The first position.
    pub first: u128,
    /// How many.
    pub count: usize,
    /// What becomes of them.
    pub how: How,
}

/// How deliveries are settled.
#[derive(Debug)]
pub enum How {
    /// Done.
    Ack,
    /// Given up, not kept.
    Drop,
    /// Not started.
    Release,
    /// Again after so long, because of this.
    Retry(Duration, String),
    /// Given up.
    Dead {
        /// In a word or a few.
        reason: String,
        /// What failed.
        error: String,
        /// The encoded event; empty where it is gone.
        body: Vec<u8>,
    },
}

/// Runs of neighbours, as their first position and count.
pub fn neighbours(fresh: &[(u128, Slot)]) -> impl Iterator<Item = (u128, usize)> {
    let runs = fresh.chunk_by(|(a, _), (b, _)| a + 1 == *b);
    runs.filter_map(|run| run.first().map(|(first, _)| (*first, run.len())))
}
