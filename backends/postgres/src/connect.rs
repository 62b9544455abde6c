//! Connections: a pool for commands, own ones for what stays, and the SQL of the stream's schema.

use std::collections::HashMap;
use std::sync::Arc;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use fanfare_core::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{NoTls, Row};

use crate::config::PostgresConfig;
use crate::error::{had_ended, map, map_write};
use crate::migrate;

/// A pooled connection.
pub(crate) type Client = Object;
/// A parameter of a statement.
pub(crate) type Param<'a> = &'a (dyn ToSql + Sync);

/// The way to the server.
pub(crate) struct Database {
    pub(crate) config: PostgresConfig,
    schema: String,
    pool: Pool,
    texts: Mutex<HashMap<&'static str, Arc<str>>>,
    /// Parameter types by text, for a pooler that forbids prepared statements.
    types: Mutex<HashMap<&'static str, Arc<[Type]>>>,
}

impl Database {
    /// Connects, checks that the server can do what is needed, and brings the schema up to date.
    pub(crate) async fn open(config: PostgresConfig) -> Result<Arc<Self>> {
        let database = Self::connect(config)?;
        migrate::up(&database).await?;
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
        let manager = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(server, NoTls, manager);
        let pool = Pool::builder(manager).max_size(config.connections.max(1));
        let pool = pool
            .build()
            .map_err(|e| Error::new(ErrorKind::Internal, "no pool of connections").because(e))?;
        Ok(Arc::new(Self {
            config,
            schema,
            pool,
            texts: Mutex::default(),
            types: Mutex::default(),
        }))
    }

    /// A pooled connection. [`Database::read`] and [`Database::write`] bound
    /// their waiting; whoever uses this directly does it himself.
    pub(crate) async fn client(&self) -> Result<Client> {
        let limit = self.config.connect_timeout;
        tokio::select! {
            client = self.pool.get() => client.map_err(|error| match error {
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
        match self.run(text, params).await? {
            Err(Some(error)) if had_ended(&error) => match self.run(text, params).await? {
                Ok(rows) => Ok(rows),
                Err(error) => Err(error.map_or_else(too_slow, map)),
            },
            Ok(rows) => Ok(rows),
            Err(error) => Err(error.map_or_else(too_slow, map)),
        }
    }

    /// Rows of a statement whose outcome is unknown where the connection broke.
    pub(crate) async fn write(&self, text: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        match self.run(text, params).await? {
            Ok(rows) => Ok(rows),
            Err(Some(error)) => Err(map_write(error)),
            Err(None) => Err(Error::new(
                ErrorKind::Unknown,
                "postgres did not answer in time",
            )),
        }
    }

    /// The outer error: nothing was sent. The inner one: of the server, or none when it was silent.
    async fn run(
        &self,
        text: &'static str,
        params: &[Param<'_>],
    ) -> Result<Result<Vec<Row>, Option<tokio_postgres::Error>>> {
        let client = Lent(Some(self.client().await?));
        let answer = tokio::select! {
            answer = self.query(&client, text, params) => answer.map_err(Some),
            () = self.config.clock.sleep(self.config.response_timeout) => Err(None),
        };
        if matches!(&answer, Ok(_)) || matches!(&answer, Err(Some(e)) if !had_ended(e)) {
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
                let typed: Vec<_> = params.iter().copied().zip(types.iter().cloned()).collect();
                client.query_typed(&sql, &typed).await
            }
            None if self.config.pooler => {
                // Within one transaction a pooler keeps to one connection.
                client.batch_execute("BEGIN").await?;
                let types = client.prepare(&sql).await.map(|s| s.params().into());
                client.batch_execute("ROLLBACK").await?;
                let types: Arc<[Type]> = types?;
                self.types.lock().insert(text, types.clone());
                let typed: Vec<_> = params.iter().copied().zip(types.iter().cloned()).collect();
                client.query_typed(&sql, &typed).await
            }
            _ => {
                let statement = client.prepare_cached(&sql).await?;
                client.query(&statement, params).await
            }
        }
    }

    fn in_schema(&self, text: &str) -> Arc<str> {
        let quoted = format!("\"{}\".", self.schema.replace('"', "\"\""));
        let literal = format!("'{}'", self.schema.replace('\'', "''"));
        text.replace("'ff'", &literal)
            .replace("ff.", &quoted)
            .into()
    }

    /// The schema of the stream, and the channel of its notifications.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }
}

fn too_slow() -> Error {
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
