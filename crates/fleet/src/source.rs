//! Where a member's new deliveries come from: the log, or a group of the engine's own.

use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::error::Result;
use fanfare_core::timestamp::Timestamp;
use tokio::sync::watch;

/// Claims for one member, whose [`Seat`](crate::Seat) it fills.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Changes when there may be more to claim.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Claims what is due and what is new, unless something is ready. One claim is made at a time.
    async fn claim(&self, turn: Turn) -> Result<Claimed>;

    /// Whether something was asked for that may still come although the receive is over: waits until
    /// it is known. It is claimed in one more turn.
    async fn comes(&self, changed: &mut watch::Receiver<u64>) -> bool {
        let _ = changed;
        false
    }

    /// The member leaves: a claim that is on its way is waited for, so that it is given back too.
    async fn leave(&self) -> Result<()>;
}

/// What a receive waits for.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// At most so many.
    pub max: usize,
    /// Whether something other than new events may be there.
    pub ask: bool,
    /// Until when more may be asked for; none where the receive is over.
    pub until: Option<Timestamp>,
}

/// What one claim came to.
#[derive(Debug)]
pub enum Claimed {
    /// Something is ready, or there may be more.
    More,
    /// Nothing until woken, or until so long from now.
    Nothing(Option<Duration>),
}
