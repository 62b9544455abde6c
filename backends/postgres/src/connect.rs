//! Pooled connections for commands, and the SQL of the stream's schema.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::{ManagerConfig, Object, Pool, RecyclingMethod};
use fanfare_core::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::config::PostgresConfig;
use crate::error::{had_ended, map, map_write, unexpected};
use crate::migrate;
use crate::row::get;
use crate::wire::Wire;

/// The oldest server that has all that is used here (multiranges), as it numbers itself.
const OLDEST: i32 = 140_000;
/// Version, whether it is a standby, whether a power cut is survived.
const SERVER: &str = "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), \
                      current_setting('fsync')::bool AND current_setting('full_page_writes')::bool \
                      AND current_setting('synchronous_commit') <> 'off'";
/// Connections that only publish.
const PUBLISHING: usize = 1;

/// A pooled connection.
pub(crate) type Client = Object;
/// A parameter of a statement.
pub(crate) type Param<'a> = &'a (dyn ToSql + Sync);

/// The way to the server.
pub(crate) struct Database {
    pub(crate) config: PostgresConfig,
    schema: String,
    pub(crate) server: tokio_postgres::Config,
    pub(crate) wire: Wire,
    pool: Pool,
    publishing: Pool,
    power_safe: AtomicBool,
    texts: Mutex<HashMap<&'static str, Arc<str>>>,
    /// Parameter types by text, for a pooler that forbids prepared statements.
    types: Mutex<HashMap<&'static str, Arc<[Type]>>>,
}

impl Database {
    /// Connects, checks that the server can do what is needed, and brings the schema up to date.
    pub(crate) async fn open(config: PostgresConfig) -> Result<Arc<Self>> {
        let database = Self::connect(config)?;
        database.check().await?;
        migrate::up(&database, 0).await?;
        Ok(database)
    }

    /// The pool, without a connection yet.
    pub(crate) fn connect(config: PostgresConfig) -> Result<Arc<Self>> {
        let schema = config.schema()?;
        let mut server: tokio_postgres::Config = config.url.parse().map_err(map)?;
        server.connect_timeout(config.connect_timeout);
        if server.get_application_name().is_none() {
            server.application_name("fanfare");
        }
        let wire = Wire::new(&mut server, config.tls_ca.as_deref())?;
        let pool = pool_of(&server, &wire, config.connections)?;
        let publishing = pool_of(&server, &wire, PUBLISHING)?;
        Ok(Arc::new(Self {
            config,
            schema,
            server,
            wire,
            pool,
            publishing,
            power_safe: AtomicBool::new(false),
            texts: Mutex::default(),
            types: Mutex::default(),
        }))
    }

    /// Whether the server is recent enough, the primary, and how safely it keeps what it acknowledges.
    pub(crate) async fn check(&self) -> Result<()> {
        let rows = self
            .read(SERVER, &[])
            .await
            .map_err(|e| e.during("connect"))?;
        let row = rows.first().ok_or_else(|| unexpected("connect"))?;
        check_version(get(row, 0)?)?;
        if get(row, 1)? {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "postgres is a standby and read-only: the log is written and followed on the primary",
            ));
        }
        self.power_safe.store(get(row, 2)?, Ordering::Relaxed);
        Ok(())
    }

    /// Whether what the server acknowledges survives a power cut.
    pub(crate) fn power_safe(&self) -> bool {
        self.power_safe.load(Ordering::Relaxed)
    }

    /// A pooled connection. [`Database::read`] and [`Database::write`] bound
    /// their waiting; whoever uses this directly does it himself.
    pub(crate) async fn client(&self) -> Result<Client> {
        self.lend(&self.pool).await
    }

    async fn lend(&self, pool: &Pool) -> Result<Client> {
        let limit = self.config.connect_timeout;
        tokio::select! {
            client = pool.get() => client.map_err(|error| match error {
                deadpool_postgres::PoolError::Backend(error) => map(error),
                other => Error::new(ErrorKind::Unavailable, "no connection to postgres").because(other),
            }),
            () = self.config.clock.sleep(limit) => {
                Err(Error::new(ErrorKind::Unavailable, "postgres does not accept connections in time"))
            }
        }
    }

    /// The text with `ff.` as the stream's quoted schema and `'ff'` as its name in quotes, which
    /// is also the channel of its notifications.
    pub(crate) fn sql(&self, text: &'static str) -> Arc<str> {
        let mut texts = self.texts.lock();
        let known = texts.entry(text).or_insert_with(|| self.in_schema(text));
        known.clone()
    }

    /// Rows of a statement that may be repeated: once more where it met a connection that had ended.
    pub(crate) async fn read(&self, text: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        match self.run(&self.pool, text, params).await? {
            Err(Some(error)) if had_ended(&error) => {
                match self.run(&self.pool, text, params).await? {
                    Ok(rows) => Ok(rows),
                    Err(error) => Err(error.map_or_else(too_slow, map)),
                }
            }
            Ok(rows) => Ok(rows),
            Err(error) => Err(error.map_or_else(too_slow, map)),
        }
    }

    /// Rows of a statement whose outcome is unknown where the connection broke.
    pub(crate) async fn write(&self, text: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        match self.run(&self.pool, text, params).await? {
            Ok(rows) => Ok(rows),
            Err(Some(error)) => Err(map_write(error)),
            Err(None) => Err(unanswered()),
        }
    }

    /// Ends the pooled connections; those in use end when they are given back.
    pub(crate) fn close(&self) {
        self.pool.close();
        self.publishing.close();
    }

    /// The same on a connection that only publishing uses.
    pub(crate) async fn publish(
        &self,
        text: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>> {
        let answer = self.run(&self.publishing, text, params).await?;
        answer.map_err(|error| match error {
            Some(error) => map_write(error),
            None => unanswered(),
        })
    }

    /// The outer error: nothing was sent. The inner one: of the server, or none when it was silent.
    async fn run(
        &self,
        pool: &Pool,
        text: &'static str,
        params: &[Param<'_>],
    ) -> Result<Result<Vec<Row>, Option<tokio_postgres::Error>>> {
        let client = Lent(Some(self.lend(pool).await?));
        let answer = tokio::select! {
            answer = self.query(&client, text, params) => answer.map_err(Some),
            () = self.config.clock.sleep(self.config.response_timeout) => Err(None),
        };
        let usable = match &answer {
            Ok(_) => true,
            Err(error) => error.as_ref().is_some_and(|error| !had_ended(error)),
        };
        if usable {
            client.give_back();
        }
        Ok(answer)
    }

    async fn query(
        &self,
        client: &Lent,
        text: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let Some(client) = client.0.as_ref() else {
            return Ok(Vec::new());
        };
        let sql = self.sql(text);
        let known = self.types.lock().get(text).cloned();
        match known {
            Some(types) if self.config.pooler => {
                let both: Vec<_> = params.iter().copied().zip(types.iter().cloned()).collect();
                client.query_typed(&sql, &both).await
            }
            None if self.config.pooler => {
                // Within one transaction a pooler keeps to one connection.
                client.batch_execute("BEGIN").await?;
                let types = client.prepare(&sql).await.map(|s| s.params().into());
                client.batch_execute("ROLLBACK").await?;
                let types: Arc<[Type]> = types?;
                self.types.lock().insert(text, types.clone());
                let both: Vec<_> = params.iter().copied().zip(types.iter().cloned()).collect();
                client.query_typed(&sql, &both).await
            }
            _ => {
                let statement = client.prepare_cached(&sql).await?;
                client.query(&statement, params).await
            }
        }
    }

    /// The text with the stream's schema, see [`Database::sql`].
    pub(crate) fn in_schema(&self, text: &str) -> Arc<str> {
        let quoted = format!("\"{}\".", self.schema.replace('"', "\"\""));
        let literal = format!("'{}'", self.schema.replace('\'', "''"));
        text.replace("'ff'", &literal)
            .replace("ff.", &quoted)
            .into()
    }
}

fn check_version(number: i32) -> Result<()> {
    if number >= OLDEST {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "postgres {} is too old: 14 or later is needed",
            number / 10_000
        ),
    ))
}

fn pool_of(server: &tokio_postgres::Config, wire: &Wire, size: usize) -> Result<Pool> {
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = wire.manager(server.clone(), recycling);
    let pool = Pool::builder(manager).max_size(size.max(1)).build();
    pool.map_err(|e| Error::new(ErrorKind::Internal, "no pool of connections").because(e))
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Unknown, "postgres did not answer in time")
}

pub(crate) fn too_slow() -> Error {
    Error::new(ErrorKind::Unavailable, "postgres did not answer in time")
}

/// A connection that is thrown away unless it is given back: whoever stops waiting in the middle of a
/// statement leaves a connection behind that nobody else should wait for.
struct Lent(Option<Client>);

impl Lent {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("stream", &self.config.stream)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_refused_by_its_version() {
        let refused = check_version(130_014).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.to_string().contains("postgres 13"));
        assert!(check_version(140_000).is_ok());
    }
}
