//! Chats and tasks whose members are notified. A command over HTTP becomes an event; handlers make
//! of it what people see:
//!
//! ```text
//!                              +--> notification --> a line for everyone in the chat
//!  PUT /chats/{id} --> event --+--> projection ----> the chat as GET /chats/{id} shows it
//!                              +--> tags ----------> #words, and events that #status:.. asks for
//! ```
//!
//! Read on in [`events`], [`handlers`] and [`api`]. Which way events go, Redis Pub/Sub or Streams,
//! is one line of the [configuration](config) and nowhere in the code.

pub mod api;
pub mod config;
pub mod events;
pub mod handlers;
pub mod store;

use std::net::SocketAddr;
use std::time::Duration;

use fanfare::Bus;
use tokio::net::TcpListener;

pub use config::Config;
pub use store::Store;

/// Whatever went wrong, for whoever reads the log or the dead letter.
pub type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// How long running handlers may take when the program ends.
const GRACE: Duration = Duration::from_secs(30);

/// The running application: its events and what its handlers have made of them.
#[derive(Debug, Clone)]
pub struct App {
    /// Where events go.
    pub bus: Bus,
    /// What the handlers keep.
    pub store: Store,
}

impl App {
    /// Connects, and subscribes every handler.
    pub async fn start(config: &Config) -> Result<Self> {
        let store = Store::open(&config.store)?;
        let bus = fanfare::connect(config.events.reveal()).await?;
        handlers::subscribe(&bus, &store).await?;
        Ok(Self { bus, store })
    }

    /// Answers HTTP until `stop`; then lets requests and handlers finish.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result {
        let service = api::router(self.clone());
        let service = service.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, service)
            .with_graceful_shutdown(stop)
            .await?;
        let report = self.bus.shutdown(GRACE).await?;
        tracing::info!(?report, "stopped");
        Ok(())
    }
}

/// SIGTERM or Ctrl-C.
pub async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
