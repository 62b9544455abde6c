//! A TCP proxy that fails on command: between a client and its broker it cuts, resets, swallows,
//! delays, or breaks after so many bytes. Not for measuring: it copies through small buffers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

/// The most connections at a time; more wait.
const MAX_CONNECTIONS: usize = 256;
/// Bytes copied at once.
const BUFFER: usize = 16 * 1024;

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: they pass.
    None,
    /// They are read and vanish, in both directions; connections stay open.
    Blackhole,
    /// They pass after so long.
    Delay(Duration),
    /// Each connection is cut once so many bytes went through it, in both directions together.
    BreakAfter(u64),
    /// New connections are closed at once.
    Refuse,
}

/// Forwards one port to one address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    ended: watch::Sender<Ended>,
    accepting: JoinHandle<()>,
}

/// How often, and how the last time, all connections were ended.
#[derive(Debug, Clone, Copy, Default)]
struct Ended {
    times: u64,
    reset: bool,
}

/// What every connection watches.
#[derive(Clone)]
struct Wires {
    target: SocketAddr,
    fault: watch::Receiver<Fault>,
    ended: watch::Receiver<Ended>,
    clock: Clock,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        let (ended, ends) = watch::channel(Ended::default());
        let wires = Wires {
            target,
            fault: faults,
            ended: ends,
            clock: Clock::system(),
        };
        Ok(Self {
            address,
            fault,
            ended,
            accepting: tokio::spawn(accept(listener, wires)),
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for connections that are open too.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Closes every connection in order (FIN).
    pub fn cut(&self) {
        self.end(false);
    }

    /// Tears every connection down (RST).
    pub fn reset(&self) {
        self.end(true);
    }

    fn end(&self, reset: bool) {
        self.ended.send_modify(|ended| {
            *ended = Ended {
                times: ended.times + 1,
                reset,
            };
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, wires: Wires) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        if *wires.fault.borrow() == Fault::Refuse {
            continue;
        }
        let wires = wires.clone();
        connections.spawn(async move {
            // A connection that fails has ended: that is all there is to know.
            let _ = forward(client, wires).await;
            drop(permit);
        });
    }
}

async fn forward(client: TcpStream, mut wires: Wires) -> io::Result<()> {
    let server = TcpStream::connect(wires.target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let passed = watch::Sender::new(0_u64);
    wires.ended.mark_unchanged();
    let mut ended = wires.ended.clone();
    let reset = tokio::select! {
        _ = copy(&mut from_client, &mut to_server, wires.clone(), &passed) => false,
        _ = copy(&mut from_server, &mut to_client, wires.clone(), &passed) => false,
        _ = ended.changed() => ended.borrow().reset,
    };
    if reset {
        from_client.as_ref().set_zero_linger()?;
        from_server.as_ref().set_zero_linger()?;
    }
    Ok(())
}

async fn copy(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    wires: Wires,
    passed: &watch::Sender<u64>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        let fault = *wires.fault.borrow();
        match fault {
            Fault::None | Fault::Refuse => to.write_all(bytes).await?,
            Fault::Blackhole => {}
            Fault::Delay(by) => {
                wires.clock.sleep(by).await;
                to.write_all(bytes).await?;
            }
            Fault::BreakAfter(limit) => {
                let before = *passed.borrow();
                let left = usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX);
                let bytes = bytes.get(..left).unwrap_or(bytes);
                to.write_all(bytes).await?;
                passed.send_modify(|passed| *passed += bytes.len() as u64);
                if *passed.borrow() >= limit {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo server behind a proxy.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        });
        Proxy::start(target).await.unwrap()
    }

    async fn echoed(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        Ok(back)
    }

    #[tokio::test]
    async fn bytes_pass_until_a_fault_is_set() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(echoed(&mut stream, b"hello").await.unwrap(), b"hello");
        proxy.set(Fault::Blackhole);
        let clock = Clock::system();
        let silent = clock.sleep(Duration::from_millis(50));
        tokio::select! {
            answer = echoed(&mut stream, b"hello") => panic!("{answer:?} came through"),
            () = silent => {}
        }
        proxy.reset();
        assert!(echoed(&mut stream, b"hello").await.is_err());
    }

    #[tokio::test]
    async fn a_cut_connection_ends_and_the_next_one_works() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut stream, b"hello").await.unwrap();
        proxy.cut();
        assert!(echoed(&mut stream, b"hello").await.is_err());
        let mut next = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(echoed(&mut next, b"hello").await.unwrap(), b"hello");
    }

    #[tokio::test]
    async fn a_connection_breaks_after_its_bytes() {
        let proxy = echo().await;
        proxy.set(Fault::BreakAfter(7));
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(echoed(&mut stream, b"hello").await.is_err());
    }
}
