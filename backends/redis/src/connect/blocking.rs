//! A connection of one's own for reads that block: without response timeout, and left as soon as
//! another connection finds out that the master is elsewhere.

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
    pub(super) left: watch::Receiver<u64>,
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
            _ = self.left.changed() => unavailable("another server has the stream now"),
            () = self.clock.sleep(block + self.patience) => unavailable("redis does not answer"),
        }
    }
}
