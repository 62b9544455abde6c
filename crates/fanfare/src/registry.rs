//! The only list of backends: one line each. A line names the scheme of its URLs and says how an
//! address becomes a backend; everything else about a backend is its own crate's.

#[cfg(feature = "amqp")]
mod amqp;
#[cfg(feature = "nats")]
mod nats;
mod redis;
mod theirs;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::advice::Advice;
use fanfare_core::backend::Backend;
use fanfare_core::timestamp::duration;
use fanfare_core::{Error, ErrorKind, Result};
use fanfare_memory::{MemoryBackend, MemoryConfig};
use fanfare_postgres::{PostgresBackend, PostgresConfig};
use fanfare_sqlite::{SqliteBackend, SqliteConfig};

use crate::address::Address;

/// The most bytes of data in one event that the embedded backends take; the bus has its own, lower
/// limit.
const MAX_DATA_BYTES: usize = 16 << 20;

type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn Backend>>> + Send>>;
type Verifying = Pin<Box<dyn Future<Output = Result<Vec<String>>> + Send>>;
type Removing = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One backend.
#[derive(Debug)]
struct Entry {
    scheme: &'static str,
    example: &'static str,
    open: fn(Address) -> Opening,
    back_up: fn(Address, &Path) -> Result<u64>,
    verify: fn(Address) -> Verifying,
    /// Removes every stream whose name begins so.
    remove: fn(Address, String) -> Removing,
    /// Where a server listens unless its URL says so; none where there is no one server to connect to.
    port: Option<u16>,
}

static BACKENDS: &[Entry] = &[
    #[cfg(feature = "amqp")]
    Entry {
        scheme: "amqp",
        example: "amqp://HOST:PORT",
        open: |address| Box::pin(amqp::open(address)),
        back_up: |_, _| Err(refused("rabbitmq makes its own backups")),
        verify: |_| Box::pin(async { Err(refused("rabbitmq checks its own files")) }),
        remove: |address, stream| Box::pin(amqp::remove(address, stream)),
        port: Some(5672),
    },
    Entry {
        scheme: "memory",
        example: "memory:",
        open: |address| Box::pin(async { memory(address) }),
        back_up: |_, _| Err(refused("a backend in memory has nothing to copy")),
        verify: |_| Box::pin(async { Ok(Vec::new()) }),
        remove: |_, _| Box::pin(async { Ok(()) }),
        port: None,
    },
    #[cfg(feature = "nats")]
    Entry {
        scheme: "nats",
        example: "nats://HOST:PORT",
        open: |address| Box::pin(nats::open(address)),
        back_up: |_, _| Err(refused("`nats stream backup` copies both of its streams")),
        verify: |_| Box::pin(async { Err(refused("nats checks its own files")) }),
        remove: |address, prefix| Box::pin(nats::remove(address, prefix)),
        port: Some(4222),
    },
    Entry {
        scheme: "postgres",
        example: "postgres://USER@HOST/DATABASE",
        open: |address| Box::pin(async { Ok(postgres(address).await? as Arc<dyn Backend>) }),
        back_up: |_, _| Err(refused("pg_dump copies the schema of the stream")),
        verify: |_| Box::pin(async { Err(refused("postgres checks its own files")) }),
        remove: |address, prefix| {
            Box::pin(
                async move { PostgresBackend::remove(postgres_config(address)?, &prefix).await },
            )
        },
        port: Some(5432),
    },
    at_redis("redis", "redis://HOST:PORT", Some(6379)),
    at_redis("rediss", "rediss://HOST:PORT", Some(6379)),
    at_redis("redis+unix", "redis+unix:FILE", None),
    at_redis("redis+cluster", "redis+cluster://HOST:PORT,HOST:PORT", None),
    at_redis(
        "redis+sentinel",
        "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE",
        None,
    ),
    Entry {
        scheme: "sqlite",
        example: "sqlite:DIR",
        open: |address| Box::pin(sqlite(address)),
        back_up: |address, target| fanfare_sqlite::back_up(&sqlite_config(address)?, target),
        verify: |address| Box::pin(verify_sqlite(address)),
        remove: |address, prefix| {
            Box::pin(async move { fanfare_sqlite::remove(&sqlite_config(address)?.dir, &prefix) })
        },
        port: None,
    },
];

const fn at_redis(scheme: &'static str, example: &'static str, port: Option<u16>) -> Entry {
    Entry {
        scheme,
        example,
        open: |address| Box::pin(redis::open(address)),
        back_up: |_, _| Err(refused("redis makes its own backups")),
        verify: |_| Box::pin(async { Err(refused("redis checks its own files")) }),
        remove: |address, prefix| Box::pin(redis::remove(address, prefix)),
        port,
    }
}

/// What a URL of each backend looks like.
pub fn examples() -> impl Iterator<Item = &'static str> {
    BACKENDS.iter().map(|entry| entry.example)
}

/// Opens the backend at `address`.
pub async fn open(address: Address) -> Result<Arc<dyn Backend>> {
    (entry(&address)?.open)(address).await
}

/// Opens the backend at `address` as what it is, which must be PostgreSQL.
pub async fn open_postgres(address: Address) -> Result<Arc<PostgresBackend>> {
    match entry(&address)?.scheme {
        "postgres" => postgres(address).await,
        _ => Err(refused(
            "only postgres: URLs publish within transactions of their database",
        )),
    }
}

/// What opening the stream at `address` would make there or change first, in words; nothing where it
/// would only open it. Changes nothing.
pub async fn missing(address: Address) -> Result<Option<&'static str>> {
    match entry(&address)?.scheme {
        "postgres" => PostgresBackend::missing(postgres_config(address)?).await,
        "sqlite" if !Path::new(address.path()).exists() => Ok(Some("nothing there yet")),
        _ => Ok(None),
    }
}

/// What an operator should know about the server at `address`, where opening the stream would change
/// something there ([`missing`]); empty for backends of which nobody can tell without opening it.
pub async fn advice(address: Address) -> Result<Vec<Advice>> {
    match entry(&address)?.scheme {
        "postgres" => PostgresBackend::advice(postgres_config(address)?).await,
        _ => Ok(Vec::new()),
    }
}

/// Copies the stream at `address` into the directory `target`, as of one moment and while another
/// process may use it; answers the bytes of the copy. Blocks.
pub fn back_up(address: Address, target: &Path) -> Result<u64> {
    (entry(&address)?.back_up)(address, target)
}

/// Reads everything that the stream at `address` keeps and names what is wrong with it: minutes for
/// a large one. Like opening it, this needs the stream for itself.
pub async fn verify(address: Address) -> Result<Vec<String>> {
    (entry(&address)?.verify)(address).await
}

/// Removes every stream there whose name begins with `prefix`, with all that belongs to it: events,
/// subscriptions, dead letters, shared values. Nobody may have one open. Fine where there is none.
/// RabbitMQ tells nobody which streams it has: there it is the one of that very name ([`lists`]).
pub async fn remove(address: Address, prefix: &str) -> Result<()> {
    if prefix.is_empty() {
        return Err(refused("removing everything needs at least a letter"));
    }
    (entry(&address)?.remove)(address, prefix.to_owned()).await
}

/// Whether [`remove`] finds every stream whose name begins so, or only the one that is named.
pub fn lists(address: &Address) -> bool {
    !matches!(address.scheme(), "amqp" | "amqps")
}

/// Host and port of the server at `address`, where a connection through something else that forwards
/// to it is as good; none where there is no network in between. An
/// [`Unsupported`](ErrorKind::Unsupported) error says why it would not be as good.
pub fn server_of(address: &Address) -> Result<Option<(String, u16)>> {
    let Entry { scheme, port, .. } = entry(address)?;
    match *scheme {
        "memory" | "sqlite" => return Ok(None),
        "redis+unix" => return Err(refused("its socket file leads to it and nowhere else")),
        "redis+cluster" | "redis+sentinel" => {
            return Err(refused("the servers themselves say where to connect"));
        }
        "rediss" => return Err(refused("its certificate is good for its own name only")),
        _ if address.scheme() == "amqps" => {
            return Err(refused("its certificate is good for its own name only"));
        }
        _ if matches!(
            address.get("sslmode"),
            Some("require" | "verify-ca" | "verify-full")
        ) =>
        {
            return Err(refused("its certificate is good for its own name only"));
        }
        _ => {}
    }
    let host = address.host();
    let (host, given) = host.ok_or_else(|| refused("the URL does not name one server"))?;
    let port = given.or(*port);
    let port = port.ok_or_else(|| refused("the URL names no port"))?;
    Ok(Some((host.to_owned(), port)))
}

fn entry(address: &Address) -> Result<&'static Entry> {
    let scheme = match address.scheme() {
        // As other programs write it.
        "postgresql" => "postgres",
        // TLS is the backend's.
        "amqps" => "amqp",
        "rediss+cluster" => "redis+cluster",
        "rediss+sentinel" => "redis+sentinel",
        scheme => scheme,
    };
    let found = BACKENDS.iter().find(|entry| entry.scheme == scheme);
    found.ok_or_else(|| {
        let known: Vec<_> = examples().collect();
        let message = format!(
            "this build has no backend `{}:`; it has {}",
            address.scheme().escape_debug(),
            known.join(" and ")
        );
        Error::new(ErrorKind::Unsupported, message)
    })
}

/// Where the address has it.
fn take_duration(address: &mut Address, name: &str, to: &mut Duration) -> Result<()> {
    if let Some(text) = address.take(name) {
        *to = duration::parse(&text)?;
    }
    Ok(())
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, why)
}

/// `memory:?max_events=N&max_bytes=N`; every opening is a stream of its own.
fn memory(mut address: Address) -> Result<Arc<dyn Backend>> {
    if !address.path().is_empty() {
        return Err(Error::invalid(
            "/backend",
            "a memory: URL has nothing behind the colon",
        ));
    }
    let mut config = MemoryConfig {
        max_data_bytes: MAX_DATA_BYTES,
        ..MemoryConfig::default()
    };
    address.take_stream()?;
    if let Some(events) = address.take_number("max_events")? {
        config.max_events = events;
    }
    if let Some(bytes) = address.take_number("max_bytes")? {
        config.max_bytes = bytes;
    }
    address.finish()?;
    Ok(MemoryBackend::open(config))
}

async fn sqlite(address: Address) -> Result<Arc<dyn Backend>> {
    Ok(SqliteBackend::open(sqlite_config(address)?).await?)
}

async fn verify_sqlite(address: Address) -> Result<Vec<String>> {
    let backend = SqliteBackend::open(sqlite_config(address)?).await?;
    let verified = backend.verify(true).await;
    backend.close().await?;
    Ok(verified?.problems)
}

/// `sqlite:DIR?stream=NAME&max_bytes=N&retention=7d`.
fn sqlite_config(mut address: Address) -> Result<SqliteConfig> {
    if address.path().is_empty() {
        return Err(Error::invalid(
            "/backend",
            "a sqlite: URL names a directory, as in sqlite:./data",
        ));
    }
    let mut config = SqliteConfig::new(PathBuf::from(address.path()));
    config.data_bytes = MAX_DATA_BYTES;
    config.stream = address.take_stream()?;
    config.max_bytes = address.take_number("max_bytes")?;
    if let Some(retention) = address.take("retention") {
        config.retention = duration::parse(&retention)?;
    }
    address.finish()?;
    Ok(config)
}

/// Parameters that PostgreSQL's own clients know.
const POSTGRES_PARAMETERS: [&str; 5] = [
    "sslmode",
    "application_name",
    "connect_timeout",
    "options",
    "target_session_attrs",
];

async fn postgres(address: Address) -> Result<Arc<PostgresBackend>> {
    PostgresBackend::open(postgres_config(address)?).await
}

/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE?stream=NAME&max_bytes=N&retention=7d`, with
/// `pooler=transaction` behind one, and the parameters of PostgreSQL's own clients.
fn postgres_config(mut address: Address) -> Result<PostgresConfig> {
    let stream = address.take_stream()?;
    let taken = POSTGRES_PARAMETERS.map(|name| {
        let value = match (name, address.take(name)?.as_str()) {
            // What is encrypted is checked in full.
            ("sslmode", "verify-full") => "require".to_owned(),
            (_, value) => value.to_owned(),
        };
        Some(format!("{name}={value}"))
    });
    let passed: Vec<_> = taken.into_iter().flatten().collect();
    let mut url = format!("{}:{}", address.scheme(), address.path());
    if !passed.is_empty() {
        url = format!("{url}?{}", passed.join("&"));
    }
    let mut config = PostgresConfig::new(url, stream);
    config.tls_ca = address.take("sslrootcert").map(PathBuf::from);
    config.max_data_bytes = MAX_DATA_BYTES;
    if let Some(bytes) = address.take_number("max_bytes")? {
        config.max_bytes = bytes;
    }
    if let Some(retention) = address.take("retention") {
        config.retention = duration::parse(&retention)?;
    }
    if let Some(pooler) = address.take("pooler") {
        if pooler != "transaction" {
            let detail = "`pooler` in a postgres: URL is `transaction`";
            return Err(Error::invalid("/backend", detail));
        }
        config.pooler = true;
    }
    take_duration(
        &mut address,
        "response_timeout",
        &mut config.response_timeout,
    )?;
    take_duration(&mut address, "publish_timeout", &mut config.publish_timeout)?;
    address.finish()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open_url(url: &str) -> Result<Arc<dyn Backend>> {
        open(Address::parse(url)?).await
    }

    #[tokio::test]
    async fn a_url_opens_its_backend() {
        let backend = open_url("memory:?max_events=10").await.unwrap();
        assert_eq!(backend.capabilities().backend, "memory");
    }

    #[tokio::test]
    async fn an_outbox_is_in_postgres_only() {
        let refused = crate::outbox("memory:").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
        let away = crate::outbox("postgresql://127.0.0.1:1/db").await;
        assert_eq!(away.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_postgres_url_that_wants_everything_checked_has_it_checked() {
        let url = "postgres://host/db?sslmode=verify-full&sslrootcert=/ca.crt";
        let config = postgres_config(Address::parse(url).unwrap()).unwrap();
        assert_eq!(config.url, "postgres://host/db?sslmode=require");
        assert_eq!(config.tls_ca, Some("/ca.crt".into()));
    }

    #[tokio::test]
    async fn what_cannot_be_opened_says_why() {
        let error = open_url("kafka://ada:hunter2@host").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!error.to_string().contains("hunter2"));
        for url in [
            "memory:x",
            "memory:?max_events=many",
            "sqlite:",
            "memory:?x=1",
            "redis://ada:hunter2@host/?x=1",
            "postgres://ada:hunter2@host/db?x=1",
            "postgres://host/db?pooler=session",
            "postgres://host/db?sslrootcert=/ca.crt",
            "postgresql://host/db?retention=soon",
            "redis:?stream=a b",
            "redis:?stream=a&wire=morse",
            "redis:?wire=workflow",
            "redis:?stream=a&wire=workflow&group=a b",
            "redis:?stream=a&group=workers",
            "redis://host/?wait_replicas=all",
            "redis+cluster://ada:hunter2@host,other:7000/1",
            "rediss+sentinel://ada:hunter2@host?sentinel_password=hunter2",
            "redis:?mode=streams",
            "redis:?mode=pubsub&retention=1d",
            "redis:?dead_letters=dlq:events",
        ] {
            let error = open_url(url).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
