//! Taking the port, accepting connections within bounds, and draining.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use fanfare::core::error::{Error, ErrorKind, Result};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::config::{Limits, ServerConfig};
use crate::connection::Watched;
use crate::http;
use fanfare::bus::Bus;

/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// The largest head of a request, and how much of a body is read at once, in bytes.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// How long the work that connections left behind may take at the end.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A server that holds its port and serves once it runs.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
    router: Router,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Takes the port. Refuses an address that other machines reach unless `insecure`, and says so
    /// when the port is taken.
    pub async fn bind(config: ServerConfig, bus: Bus) -> Result<Self> {
        config.check()?;
        let listener = listen(&config).await?;
        let address = listener
            .local_addr()
            .map_err(|e| Error::new(ErrorKind::Internal, "no local address").because(e))?;
        let (router, app) = http::router(bus, config);
        Ok(Self {
            listener,
            address,
            app,
            router,
        })
    }

    /// The address it listens on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes, then drains: `/readyz` turns 503, new work is refused,
    /// tails are told `bye`, waiting pulls are answered, and what is at work may finish within the
    /// grace period. The bus stays open; it is the caller's to shut down.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let limits = &self.app.config().limits;
        let connections = Connections {
            router: self.router,
            slots: Arc::new(Semaphore::new(limits.connections)),
            tracker: TaskTracker::new(),
            draining: self.app.draining().clone(),
            cut: CancellationToken::new(),
            limits: limits.clone(),
        };
        tokio::select! {
            () = connections.accept(&self.listener) => {}
            () = shutdown => {}
        }
        tracing::info!("draining");
        connections.draining.cancel();
        connections.tracker.close();
        let served = tokio::select! {
            () = connections.accept(&self.listener) => false,
            () = connections.tracker.wait() => true,
            () = tokio::time::sleep(connections.limits.grace) => false,
        };
        if !served {
            tracing::warn!(
                connections = connections.tracker.len(),
                "cut off what did not finish within the grace period"
            );
            connections.cut.cancel();
            connections.tracker.wait().await;
        }
        // What connections left behind: tails that end, deliveries on their way back.
        let tasks = self.app.tasks();
        tasks.close();
        if tokio::time::timeout(LAST_WAIT, tasks.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "some work did not end");
        }
        Ok(())
    }
}

async fn listen(config: &ServerConfig) -> Result<TcpListener> {
    let bad = |detail: String| Error::invalid("/listen", detail);
    let address = &config.listen;
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .map_err(|e| bad(format!("`{address}` is not an address and port: {e}")))?
        .collect();
    if !config.insecure
        && let Some(open) = resolved.iter().find(|a| !a.ip().is_loopback())
    {
        return Err(bad(format!(
            "`{address}` ({}) can be reached from other machines and nothing is authenticated; \
             listen on 127.0.0.1, or allow it with --insecure",
            open.ip()
        )));
    }
    TcpListener::bind(resolved.as_slice()).await.map_err(|e| {
        let (kind, why) = match e.kind() {
            std::io::ErrorKind::AddrInUse => (
                ErrorKind::Locked,
                format!("{address} is in use by another program; choose another port"),
            ),
            std::io::ErrorKind::PermissionDenied => (
                ErrorKind::Forbidden,
                format!("listening on {address} is not permitted"),
            ),
            _ => (
                ErrorKind::Unavailable,
                format!("cannot listen on {address}"),
            ),
        };
        Error::new(kind, why).because(e)
    })
}

/// Everything that serves a connection.
struct Connections {
    router: Router,
    slots: Arc<Semaphore>,
    tracker: TaskTracker,
    draining: CancellationToken,
    cut: CancellationToken,
    limits: Limits,
}

impl Connections {
    /// Accepts for ever, within the bound.
    async fn accept(&self, listener: &TcpListener) {
        loop {
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream, slot),
                Err(error) => {
                    // Out of file descriptors, or the client left already: neither ends the server.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let late = self.draining.is_cancelled();
        let io = TokioIo::new(Watched::new(stream, self.limits.body_idle));
        let service = TowerToHyperService::new(self.router.clone());
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(READ_BUFFER_BYTES)
            .keep_alive(!late);
        let (draining, cut) = (self.draining.clone(), self.cut.clone());
        self.tracker.spawn(async move {
            let _slot = slot;
            let mut connection = std::pin::pin!(builder.serve_connection(io, service));
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = cut.cancelled() => return,
                () = draining.cancelled(), if !late => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        served = connection => served,
                        () = cut.cancelled() => return,
                    }
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}
