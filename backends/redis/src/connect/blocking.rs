//! A connection of one's own for reads that block: without response timeout, and left as soon as
//! another connection leads to another master.

use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use tokio::sync::watch;

use crate::error::map;

/// It. After an error it is of no more use.
pub(crate) struct Blocking {
    pub(super) connection: MultiplexedConnection,
    /// Where it leads.
    pub(super) at: String,
    pub(super) master: watch::Receiver<String>,
    pub(super) clock: Clock,
    /// Beyond what a read may block.
    pub(super) patience: Duration,
}

impl Blocking {
    /// Runs a command that blocks so long at most.
    pub(crate) async fn read<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
        block: Duration,
    ) -> Result<T> {
        let unavailable = |why: &str| Err(Error::new(ErrorKind::Unavailable, why));
        tokio::select! {
            answer = command.query_async(&mut self.connection) => answer.map_err(map),
            _ = self.master.wait_for(|master| *master != self.at) => unavailable("another server has the stream now"),
            () = self.clock.sleep(block + self.patience) => unavailable("redis does not answer"),
        }
    }
}
