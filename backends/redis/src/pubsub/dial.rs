//! A connection of one's own for a subscription, read no faster than its events are taken: what we
//! do not read waits in the socket, then in the server, which cuts us off where it gets too much.
//!
//! The client's own connection for Pub/Sub reads as fast as it can into memory without a bound;
//! therefore the socket below it is ours.

#[cfg(feature = "tls")]
mod tls;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use fanfare_core::error::Result;
use futures::task::AtomicWaker;
use redis::aio::PubSub;
use redis::{ConnectionAddr, RedisError, RedisResult};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::connect::Wire;
use crate::error::{map, not_connected};

/// How much is read ahead of what was taken.
const AHEAD_BYTES: usize = 256 << 10;

/// Connects, and says who we are.
pub(super) async fn dial(wire: &Wire) -> Result<(PubSub, Arc<Gate>)> {
    let gate = Arc::new(Gate::default());
    let limit = wire.config.clock.sleep(wire.config.connect_timeout);
    let connected = tokio::select! {
        connected = connect(wire, gate.clone()) => connected,
        () = limit => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    };
    let connection = connected.map_err(|error| map(not_connected(error)).during("listen"))?;
    Ok((connection, gate))
}

async fn connect(wire: &Wire, gate: Arc<Gate>) -> RedisResult<PubSub> {
    let server = wire.server().await?;
    let info = server.get_connection_info();
    let who = info.redis_settings();
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => {
            PubSub::new(who, Gated(tcp(host, *port).await?, gate)).await
        }
        ConnectionAddr::Unix(path) => {
            PubSub::new(who, Gated(UnixStream::connect(path).await?, gate)).await
        }
        #[cfg(feature = "tls")]
        ConnectionAddr::TcpTls { host, port, .. } => {
            let stream = tls::connect(&wire.config, host, tcp(host, *port).await?).await?;
            PubSub::new(who, Gated(stream, gate)).await
        }
        _ => Err(RedisError::from((
            redis::ErrorKind::InvalidClientConfig,
            "no such way to listen",
        ))),
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Shuts when enough was read, and is opened when that was taken.
#[derive(Debug, Default)]
pub(super) struct Gate {
    ahead: AtomicUsize,
    reader: AtomicWaker,
    taker: AtomicWaker,
}

impl Gate {
    /// Everything that was read is taken.
    pub(super) fn open(&self) {
        if self.ahead.swap(0, Ordering::AcqRel) >= AHEAD_BYTES {
            self.reader.wake();
        }
    }

    /// Until it is shut, which a message larger than what is read ahead does before it is whole.
    pub(super) async fn shut(&self) {
        poll_fn(|cx| {
            self.taker.register(cx.waker());
            if self.is_shut() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn is_shut(&self) -> bool {
        self.ahead.load(Ordering::Acquire) >= AHEAD_BYTES
    }
}

/// A socket behind a gate.
struct Gated<S>(S, Arc<Gate>);

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.1.is_shut() {
            self.1.reader.register(cx.waker());
            // It may have been opened before we were registered.
            if self.1.is_shut() {
                return Poll::Pending;
            }
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, into))?;
        let read = into.filled().len() - before;
        self.1.ahead.fetch_add(read, Ordering::AcqRel);
        if self.1.is_shut() {
            self.1.taker.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
