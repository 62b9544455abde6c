//! The published suite against a real redis-server: frames of ours, one event per entry, consumer
//! groups, Pub/Sub, and on a cluster.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_conformance::broker::{Broker, Durability, Proxy, RedisCluster, Server, redis};
use fanfare_conformance::{Breakable, Target};
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_redis::{EntryForm, Form, Groups, RedisBackend, RedisConfig};
use tokio::sync::OnceCell;

mod conformance {
    pub(super) mod pubsub;
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
struct Redis {
    name: &'static str,
    /// Whether it is one of a cluster.
    clustered: bool,
    server: OnceCell<Place>,
    form: Form,
    groups: Groups,
}

/// Where the streams are.
#[derive(Debug)]
enum Place {
    Alone(Server),
    Cluster(RedisCluster),
}

impl Place {
    fn url(&self) -> String {
        match self {
            Self::Alone(server) => server.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    /// How a client reaches the stream that knows no clusters.
    fn url_of(&self, stream: &str) -> std::io::Result<String> {
        match self {
            Self::Alone(server) => Ok(server.url()),
            Self::Cluster(cluster) => Ok(cluster.master_of(stream)?.url()),
        }
    }

    /// What a proxy is put before. Clients of a cluster go round any.
    fn broker(&self) -> Option<&Broker> {
        match self {
            Self::Alone(server) => server.broker(),
            Self::Cluster(_) => None,
        }
    }
}

impl Redis {
    fn new(name: &'static str, form: Form, groups: Groups) -> Self {
        Self {
            name,
            clustered: false,
            server: OnceCell::new(),
            form,
            groups,
        }
    }

    async fn server(&self) -> Result<&Place> {
        let durability = Durability::Periodic;
        let start = || async {
            if self.clustered {
                RedisCluster::start(durability, false)
                    .await
                    .map(Place::Cluster)
            } else {
                Server::open(redis(), durability).await.map(Place::Alone)
            }
        };
        let server = self.server.get_or_try_init(start).await;
        server.map_err(|e| Error::new(ErrorKind::Unavailable, "no redis").because(e))
    }

    async fn config(&self, stream: &str) -> Result<RedisConfig> {
        Ok(RedisConfig {
            form: self.form.clone(),
            groups: self.groups.clone(),
            ..RedisConfig::new(self.server().await?.url(), stream)
        })
    }

    /// What another service would write.
    async fn add_entry(&self, stream: &str, bytes: &[u8]) -> Result<(), BoxError> {
        let field = match self.form {
            Form::Frames => "f",
            Form::Entries(_) => "event",
        };
        let mut add = redis::cmd("XADD");
        add.arg(stream).arg("*").arg(field).arg(bytes);
        self.as_another(stream, &add).await
    }

    async fn as_another(&self, stream: &str, command: &redis::Cmd) -> Result<(), BoxError> {
        let client = redis::Client::open(self.server().await?.url_of(stream)?)?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&patient())
            .await?;
        Ok(command.exec_async(&mut connection).await?)
    }

    /// Through a proxy of its own, and impatient.
    async fn far(&self, stream: &str, broker: &Broker) -> Result<Breakable> {
        let proxy = Proxy::start(broker.address()).await;
        let proxy = proxy.map_err(|e| Error::new(ErrorKind::Unavailable, "no proxy").because(e))?;
        let config = RedisConfig {
            url: broker.url_at(proxy.address()),
            connect_timeout: Duration::from_secs(4),
            response_timeout: Duration::from_secs(3),
            // Before the bus does, which then could only say that it does not know.
            publish_timeout: Duration::from_millis(1_500),
            ..self.config(stream).await?
        };
        Ok(Breakable {
            backend: RedisBackend::open(config).await?,
            line: Arc::new(proxy),
        })
    }
}

/// For a client of others: it waits as long as anybody here.
fn patient() -> redis::AsyncConnectionConfig {
    let limit = Some(Duration::from_secs(30));
    redis::AsyncConnectionConfig::new()
        .set_connection_timeout(limit)
        .set_response_timeout(limit)
}

#[async_trait]
impl Target for Redis {
    fn name(&self) -> String {
        self.name.into()
    }

    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>> {
        Ok(RedisBackend::open(self.config(stream).await?).await?)
    }

    async fn write_past(&self, stream: &str, bytes: &[u8]) -> Option<Result<()>> {
        let written = self.add_entry(stream, bytes).await;
        Some(written.map_err(|e| Error::new(ErrorKind::Unavailable, "no entry").because(e)))
    }

    async fn lose(&self, stream: &str) -> Option<Result<()>> {
        let mut delete = redis::cmd("DEL");
        delete.arg(stream);
        let lost = self.as_another(stream, &delete).await;
        Some(lost.map_err(|e| Error::new(ErrorKind::Unavailable, "not deleted").because(e)))
    }

    async fn open_breakable(&self, stream: &str) -> Option<Result<Breakable>> {
        match self.server().await {
            Ok(server) => Some(self.far(stream, server.broker()?).await),
            Err(error) => Some(Err(error)),
        }
    }

    async fn open_bounded(&self, stream: &str, bytes: u64) -> Option<Result<Arc<dyn Backend>>> {
        if matches!(self.form, Form::Entries(_)) {
            // Others may still need what is there: nothing is removed, and nothing is refused.
            return None;
        }
        let opened = async {
            let config = RedisConfig {
                max_bytes: bytes,
                ..self.config(stream).await?
            };
            let backend: Arc<dyn Backend> = RedisBackend::open(config).await?;
            Ok(backend)
        };
        Some(opened.await)
    }
}

#[test]
fn conformance_of_frames() {
    fanfare_conformance::check(Arc::new(Redis::new("redis", Form::Frames, Groups::None)));
}

#[test]
fn conformance_of_entries() {
    let form = Form::Entries(EntryForm::preset("cloudevents").unwrap());
    let target = Redis::new("redis, an event an entry", form, Groups::None);
    fanfare_conformance::check(Arc::new(target));
}

#[test]
fn conformance_of_pubsub() {
    let target = conformance::pubsub::PubSub::default();
    fanfare_conformance::check(Arc::new(target));
}

#[test]
fn conformance_of_groups() {
    let form = Form::Entries(EntryForm::preset("cloudevents").unwrap());
    let target = Redis::new("redis, its consumer groups", form, Groups::All);
    fanfare_conformance::check(Arc::new(target));
}

#[test]
fn conformance_of_cluster() {
    let on_cluster = Redis {
        clustered: true,
        ..Redis::new("redis, a cluster", Form::Frames, Groups::None)
    };
    fanfare_conformance::check(Arc::new(on_cluster));
}
