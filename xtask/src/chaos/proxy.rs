//! A TCP proxy between servers and their broker that resets connections, or lets them go silent as a
//! network does that forgot them. In threads, because nothing else here is asynchronous.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::Result;

/// Bytes copied at once.
const BUFFER: usize = 64 << 10;

/// Forwards a port of its own to one address.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    open: Mutex<Vec<Weak<Wire>>>,
    over: AtomicBool,
}

/// One connection through the proxy.
#[derive(Debug)]
struct Wire {
    client: TcpStream,
    target: TcpStream,
    /// Whatever comes is read and vanishes, in both directions.
    silent: AtomicBool,
    cut: AtomicBool,
}

impl Proxy {
    /// Listens on a free port.
    pub(super) fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            open: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Ok(Self { address, shared })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection, or the one that `only` chooses.
    pub(super) fn cut(&self, only: Option<u64>) {
        for wire in self.shared.chosen(only) {
            wire.cut();
        }
    }

    /// Lets every connection go silent for good, or the one that `only` chooses; new ones work.
    pub(super) fn silence(&self, only: Option<u64>) {
        for wire in self.shared.chosen(only) {
            wire.silent.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Its last connection: it sees that all is over.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        self.cut(None);
    }
}

impl Shared {
    fn accept(&self, listener: &TcpListener) {
        for client in listener.incoming().map_while(std::io::Result::ok) {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            // A connection that cannot be made is refused: its client sees it end.
            let _ = self.connect(client);
        }
    }

    fn connect(&self, client: TcpStream) -> Result {
        let target = TcpStream::connect(self.target)?;
        client.set_nodelay(true)?;
        target.set_nodelay(true)?;
        let wire = Arc::new(Wire {
            client,
            target,
            silent: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|wire| wire.strong_count() > 0);
        open.push(Arc::downgrade(&wire));
        let other = Arc::clone(&wire);
        thread::spawn(move || wire.copy(&wire.client, &wire.target));
        thread::spawn(move || other.copy(&other.target, &other.client));
        Ok(())
    }

    /// All that are open and not silent, or one of them.
    fn chosen(&self, only: Option<u64>) -> Vec<Arc<Wire>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wires: Vec<Arc<Wire>> = open.iter().filter_map(Weak::upgrade).collect();
        wires.retain(|wire| !wire.silent.load(Ordering::Relaxed));
        if let (Some(only), Ok(count @ 1..)) = (only, u64::try_from(wires.len())) {
            let at = usize::try_from(only % count).unwrap_or(0);
            wires = vec![wires.swap_remove(at)];
        }
        wires
    }
}

impl Wire {
    fn copy(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = vec![0; BUFFER];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if self.silent.load(Ordering::Relaxed) {
                continue;
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        if !self.cut.load(Ordering::Relaxed) {
            let _ = self.client.shutdown(Shutdown::Both);
            let _ = self.target.shutdown(Shutdown::Both);
        }
    }

    /// Ends both sides with a reset. Closing for reading sends nothing but wakes the copying threads;
    /// the last of them drops the sockets, and without lingering that is a reset.
    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        for stream in [&self.client, &self.target] {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// An echo server behind a proxy.
    fn echo() -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let target = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(std::io::Result::ok) {
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        Proxy::start(target).unwrap()
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        let patience = Duration::from_millis(300);
        stream.set_read_timeout(Some(patience)).unwrap();
        stream
    }

    fn echoed(mut stream: &TcpStream) -> std::io::Result<[u8; 5]> {
        stream.write_all(b"hello")?;
        let mut back = [0; 5];
        stream.read_exact(&mut back)?;
        Ok(back)
    }

    #[test]
    fn a_connection_that_is_cut_is_reset_and_the_next_one_works() {
        let proxy = echo();
        let stream = connect(&proxy);
        assert_eq!(echoed(&stream).unwrap(), *b"hello");
        proxy.cut(None);
        let mut byte = [0];
        let ended = (&stream).read(&mut byte).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
        assert_eq!(echoed(&connect(&proxy)).unwrap(), *b"hello");
    }

    #[test]
    fn a_silent_connection_stays_open_and_the_next_one_works() {
        let proxy = echo();
        let (one, other) = (connect(&proxy), connect(&proxy));
        assert_eq!(echoed(&one).unwrap(), *b"hello");
        assert_eq!(echoed(&other).unwrap(), *b"hello");
        proxy.silence(Some(0));
        assert_eq!(echoed(&one).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(echoed(&other).unwrap(), *b"hello");
        proxy.silence(None);
        assert_eq!(echoed(&other).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(echoed(&connect(&proxy)).unwrap(), *b"hello");
    }
}
