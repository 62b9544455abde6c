//! Connections: a pool for commands, own ones for what stays, and the SQL of the stream's schema.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use fanfare_core::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, NoTls, Row, Statement};

use crate::config::PostgresConfig;
use crate::error::{had_ended, map, map_write};
use crate::migrate;

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
    server: tokio_postgres::Config,
    pool: Pool,
    publishing: Pool,
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
        let pool = pool_of(&server, config.connections)?;
        let publishing = pool_of(&server, PUBLISHING)?;
        Ok(Arc::new(Self {
            config,
            schema,
            server,
            pool,
            publishing,
            texts: Mutex::default(),
            types: Mutex::default(),
        }))
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

    /// A connection of one's own. Where no pooler stands between, it listens to the stream's channel.
    pub(crate) async fn own(
        self: &Arc<Self>,
        texts: &[&'static str],
        heard: impl Fn(&str) + Send + 'static,
    ) -> Result<Own> {
        let opening = async {
            let (client, connection) = self.server.connect(NoTls).await.map_err(map)?;
            let (mine, my_process) = watch::channel(0);
            let reading = tokio::spawn(read_on(connection, my_process, heard));
            let mut own = Own {
                database: self.clone(),
                client,
                statements: HashMap::new(),
                reading,
            };
            own.run("BEGIN").await?;
            for text in texts {
                let statement = own.client.prepare(&self.sql(text)).await.map_err(map)?;
                own.statements.insert(text, statement);
            }
            own.run("COMMIT").await?;
            if own.listens() {
                let process = own.once("SELECT pg_backend_pid()").await?;
                mine.send_replace(process.first().map_or(0, |row| row.get(0)));
                // What it writes is only a hint that is computed again after a crash.
                let channel = self.in_schema("ff.");
                let channel = channel.trim_end_matches('.');
                own.run("SET synchronous_commit = off").await?;
                own.run(&format!("LISTEN {channel}")).await?;
            }
            Ok(own)
        };
        tokio::select! {
            opened = opening => opened,
            () = self.config.clock.sleep(self.config.connect_timeout) => Err(too_slow()),
        }
    }

    fn in_schema(&self, text: &str) -> Arc<str> {
        let quoted = format!("\"{}\".", self.schema.replace('"', "\"\""));
        let literal = format!("'{}'", self.schema.replace('\'', "''"));
        text.replace("'ff'", &literal)
            .replace("ff.", &quoted)
            .into()
    }
}

fn pool_of(server: &tokio_postgres::Config, size: usize) -> Result<Pool> {
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_config(server.clone(), NoTls, recycling);
    let pool = Pool::builder(manager).max_size(size.max(1)).build();
    pool.map_err(|e| Error::new(ErrorKind::Internal, "no pool of connections").because(e))
}

/// A connection of one's own, with its statements prepared where no pooler forbids that.
pub(crate) struct Own {
    database: Arc<Database>,
    client: tokio_postgres::Client,
    statements: HashMap<&'static str, Statement>,
    reading: tokio::task::JoinHandle<()>,
}

impl Own {
    /// Rows of one of the statements it was opened with.
    pub(crate) async fn query(&self, text: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        let Some(statement) = self.statements.get(text) else {
            return Err(Error::new(
                ErrorKind::Internal,
                "a statement is not prepared",
            ));
        };
        if !self.database.config.pooler {
            return self.client.query(statement, params).await.map_err(map);
        }
        let kinds = statement.params().iter().cloned();
        let both: Vec<_> = params.iter().copied().zip(kinds).collect();
        let sql = self.database.sql(text);
        self.client.query_typed(&sql, &both).await.map_err(map)
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

/// Drives a connection; hands the payload of every notification of others to `heard`.
async fn read_on<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    mine: watch::Receiver<i32>,
    heard: impl Fn(&str),
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    // An error also ends the requests that wait, and they tell it.
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notification(note) = message
            && (note.process_id() != *mine.borrow() || note.payload().starts_with("w:"))
        {
            heard(note.payload());
        }
    }
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Unknown, "postgres did not answer in time")
}

fn too_slow() -> Error {
    Error::new(ErrorKind::Unavailable, "postgres did not answer in time")
}

/// A connection that is thrown away unless it is given back: whoever stops waiting in the middle of a
/// statement leaves a connection behind that nobody else should wait for.
struct Lent(Option<Client>);

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").finish_non_exhaustive()
    }
}

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
