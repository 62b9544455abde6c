//! A connection of one's own, for what stays: it sends several statements at once and in order, and
//! hears the notifications of the stream.

use std::collections::HashMap;
use std::sync::Arc;

use fanfare_core::error::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row, Statement};

use crate::connect::{Database, Param, too_slow};
use crate::error::map;

/// How a statement is sent.
enum Known {
    Prepared(Statement),
    /// Behind a pooler nothing stays prepared, so that only the types of the parameters are kept.
    Types(Vec<Type>),
}

/// The connection, with its statements.
pub(crate) struct Own {
    database: Arc<Database>,
    client: Client,
    statements: HashMap<&'static str, Known>,
    reading: JoinHandle<()>,
}

impl Own {
    /// Connects, and where no pooler stands between, listens to the stream's channel.
    pub(crate) async fn open(
        database: &Arc<Database>,
        texts: &[&'static str],
        heard: impl Fn(&str) + Send + 'static,
    ) -> Result<Self> {
        let limit = database.config.connect_timeout;
        tokio::select! {
            opened = Self::connect(database, texts, heard) => opened,
            () = database.config.clock.sleep(limit) => Err(too_slow()),
        }
    }

    async fn connect(
        database: &Arc<Database>,
        texts: &[&'static str],
        heard: impl Fn(&str) + Send + 'static,
    ) -> Result<Self> {
        let (mine, my_process) = watch::channel(0);
        let heard = move |process: i32, payload: &str| {
            // Our own news are no news; but what wakes a subscription may come from our pool.
            if process != *my_process.borrow() || payload.starts_with("w:") {
                heard(payload);
            }
        };
        let (client, reading) = database.wire.dial(&database.server, heard).await?;
        let mut own = Self {
            database: database.clone(),
            client,
            statements: HashMap::new(),
            reading,
        };
        // Within one transaction a pooler keeps to one connection.
        own.run("BEGIN").await?;
        for text in texts {
            own.learn(text).await?;
        }
        own.run("COMMIT").await?;
        if own.listens() {
            let process = own.once("SELECT pg_backend_pid()").await?;
            mine.send_replace(process.first().map_or(0, |row| row.get(0)));
            let channel = database.in_schema("ff.");
            let channel = channel.trim_end_matches('.');
            // What it writes is only a hint that is computed again after a crash.
            own.run("SET synchronous_commit = off").await?;
            own.run(&format!("LISTEN {channel}")).await?;
        }
        Ok(own)
    }

    async fn learn(&mut self, text: &'static str) -> Result<()> {
        let sql = self.database.sql(text);
        let statement = self.client.prepare(&sql).await.map_err(map)?;
        let known = if self.database.config.pooler {
            Known::Types(statement.params().to_vec())
        } else {
            Known::Prepared(statement)
        };
        self.statements.insert(text, known);
        Ok(())
    }

    /// Rows of one of the statements it was opened with.
    pub(crate) async fn query(&self, text: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        match self.statements.get(text) {
            Some(Known::Prepared(statement)) => self.client.query(statement, params).await,
            Some(Known::Types(kinds)) => {
                let typed: Vec<_> = params.iter().copied().zip(kinds.iter().cloned()).collect();
                let sql = self.database.sql(text);
                self.client.query_typed(&sql, &typed).await
            }
            None => {
                let message = "a statement is not known to its connection";
                return Err(Error::new(ErrorKind::Internal, message));
            }
        }
        .map_err(map)
    }

    /// Rows of a statement without parameters that runs once.
    pub(crate) async fn once(&self, text: &'static str) -> Result<Vec<Row>> {
        let sql = self.database.sql(text);
        self.client.query_typed(&sql, &[]).await.map_err(map)
    }

    /// Runs statements that answer nothing.
    pub(crate) async fn run(&self, text: &str) -> Result<()> {
        let sql = self.database.in_schema(text);
        self.client.batch_execute(&sql).await.map_err(map)
    }

    /// Whether notifications come.
    pub(crate) fn listens(&self) -> bool {
        !self.database.config.pooler
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").finish_non_exhaustive()
    }
}
