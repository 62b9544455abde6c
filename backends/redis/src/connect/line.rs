//! A connection that all share, made when it is needed and hung up when it is of no more use.

use parking_lot::Mutex;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;

/// It, with the number of its making.
#[derive(Default)]
pub(super) struct Line {
    there: Mutex<Option<(u64, MultiplexedConnection)>>,
    making: tokio::sync::Mutex<u64>,
}

impl Line {
    /// The one that is there, or a new one.
    pub(super) async fn get(
        &self,
        connect: impl Future<Output = RedisResult<MultiplexedConnection>>,
    ) -> RedisResult<(u64, MultiplexedConnection)> {
        if let Some(there) = self.there.lock().clone() {
            return Ok(there);
        }
        let mut number = self.making.lock().await;
        if let Some(there) = self.there.lock().clone() {
            return Ok(there);
        }
        let made = (*number + 1, connect.await?);
        *number = made.0;
        *self.there.lock() = Some(made.clone());
        Ok(made)
    }

    /// Forgets it, unless the one with this number was replaced already.
    pub(super) fn hang_up(&self, number: Option<u64>) {
        let mut there = self.there.lock();
        let current = there.as_ref().map(|(current, _)| *current);
        if number.is_none() || number == current {
            *there = None;
        }
    }
}
