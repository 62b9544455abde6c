//! What lies under a connection: plain, or encrypted where the URL says `sslmode=require` and the
//! feature `tls` is built in. Then the server's certificate and the name in it are checked; there is no
//! encryption without that check.

#[cfg(feature = "tls")]
mod tls;

use std::future::poll_fn;
use std::path::Path;

use deadpool_postgres::{Manager, ManagerConfig};
use fanfare_core::error::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};

use crate::error::map;

/// How bytes reach the server.
pub(crate) enum Wire {
    Plain,
    #[cfg(feature = "tls")]
    Encrypted(tokio_postgres_rustls::MakeRustlsConnect),
}

impl Wire {
    /// By the `sslmode` of the URL. Encryption that is not required would be checked by nobody, so it
    /// is not tried.
    pub(crate) fn new(server: &mut Config, ca: Option<&Path>) -> Result<Self> {
        if server.get_ssl_mode() == SslMode::Require {
            return encrypted(ca);
        }
        if ca.is_some() {
            let detail = "trusted certificates mean something with sslmode=require only";
            return Err(Error::invalid("/backend", detail));
        }
        server.ssl_mode(SslMode::Disable);
        Ok(Self::Plain)
    }

    /// What makes the connections of a pool.
    pub(crate) fn manager(&self, server: Config, config: ManagerConfig) -> Manager {
        match self {
            Self::Plain => Manager::from_config(server, NoTls, config),
            #[cfg(feature = "tls")]
            Self::Encrypted(tls) => Manager::from_config(server, tls.clone(), config),
        }
    }

    /// One connection, driven by a task that hands every notification to `heard`, with the number of
    /// the process that sent it.
    pub(crate) async fn dial(
        &self,
        server: &Config,
        heard: impl Fn(i32, &str) + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>)> {
        match self {
            Self::Plain => {
                let (client, connection) = server.connect(NoTls).await.map_err(map)?;
                Ok((client, tokio::spawn(read_on(connection, heard))))
            }
            #[cfg(feature = "tls")]
            Self::Encrypted(tls) => {
                let (client, connection) = server.connect(tls.clone()).await.map_err(map)?;
                Ok((client, tokio::spawn(read_on(connection, heard))))
            }
        }
    }
}

#[cfg(feature = "tls")]
fn encrypted(ca: Option<&Path>) -> Result<Wire> {
    tls::connector(ca).map(Wire::Encrypted)
}

#[cfg(not(feature = "tls"))]
fn encrypted(_: Option<&Path>) -> Result<Wire> {
    Err(Error::new(
        fanfare_core::error::ErrorKind::Unsupported,
        "sslmode=require needs a build with the feature `tls`",
    ))
}

async fn read_on<S, T>(mut connection: Connection<S, T>, heard: impl Fn(i32, &str))
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    // An error also ends the requests that wait, and they tell it.
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notification(note) = message {
            heard(note.process_id(), note.payload());
        }
    }
}
