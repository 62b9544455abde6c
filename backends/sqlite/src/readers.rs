//! A few read-only connections, used on the runtime's blocking threads. They see what is committed and
//! never hold up the writer.

use std::path::PathBuf;
use std::sync::Arc;

use fanfare_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::connect;
use crate::error;

/// The connections that are not in use, and how many may be.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    /// At most `limit` connections to the database at `path`, opened when they are needed.
    pub(crate) fn new(path: PathBuf, limit: usize) -> Self {
        Self {
            path,
            idle: Arc::default(),
            turns: Arc::new(Semaphore::new(limit)),
        }
    }

    /// Runs `read` on a connection, after waiting for one to be free.
    pub(crate) async fn read<T, F>(&self, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| error::closed())?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let task = tokio::task::spawn_blocking(move || {
            let free = idle.lock().pop();
            let db = match free {
                Some(db) => db,
                None => connect::open_reader(&path)?,
            };
            let answer = read(&db);
            // After an error the connection may hold on to what it saw: the next one is fresh.
            if answer.is_ok() && !turn.semaphore().is_closed() {
                idle.lock().push(db);
            }
            drop(turn);
            answer
        });
        match task.await {
            Ok(answer) => answer,
            Err(e) => Err(Error::new(ErrorKind::Internal, "a read was cut off").because(e)),
        }
    }

    /// Closes the connections and refuses further reads.
    pub(crate) fn close(&self) {
        self.turns.close();
        self.idle.lock().clear();
    }
}
