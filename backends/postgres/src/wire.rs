//! What lies under a connection: plain, or encrypted where the URL says `sslmode=require` and the
//! feature `tls` is built in. Then the server's certificate is checked against those that the system
//! trusts; there is no encryption without that check.

use std::future::poll_fn;

use deadpool_postgres::{Manager, ManagerConfig};
use fanfare_core::error::{Error, ErrorKind, Result};
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
    pub(crate) fn new(server: &mut Config) -> Result<Self> {
        if server.get_ssl_mode() == SslMode::Require {
            return encrypted();
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
fn encrypted() -> Result<Wire> {
    let (tls, unread) = tokio_postgres_rustls::MakeRustlsConnect::with_native_certs()
        .map_err(|_| Error::new(ErrorKind::Invalid, "the system trusts no certificate"))?;
    for error in unread {
        tracing::debug!(%error, "a trusted certificate cannot be read");
    }
    Ok(Wire::Encrypted(tls))
}

#[cfg(not(feature = "tls"))]
fn encrypted() -> Result<Wire> {
    Err(Error::new(
        ErrorKind::Unsupported,
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
