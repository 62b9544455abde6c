//! Ports for servers that are killed and started again. One that the system hands out as free it also
//! hands out to the next client that connects anywhere, and then the server can not listen again; so
//! these lie below, and are claimed for as long as the server may come back.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// How many a server has in a row.
const EACH: u16 = 4;
/// Where they begin.
const FIRST: u16 = 20_000;
/// Where those begin that systems give to clients, unless told otherwise.
const CLIENTS: u16 = 32_768;

/// How often this process claimed some: what is let go rests before it is claimed again.
static CLAIMED: AtomicU16 = AtomicU16::new(0);

/// Four ports in a row on 127.0.0.1. Nobody else who claims ports gets them before this value is gone.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    /// Says so to other processes: servers listen on the TCP port of the same number.
    _claim: UdpSocket,
}

impl Ports {
    /// Claims four that nobody listens on.
    pub fn claim() -> io::Result<Self> {
        let places = (CLIENTS - FIRST) / EACH;
        // Processes that run side by side begin at different places.
        let process = u16::try_from(std::process::id() % u32::from(places)).unwrap_or(0);
        for _ in 0..places {
            let at = CLAIMED.fetch_add(1, Ordering::Relaxed) % places;
            let place = (process.wrapping_mul(61) % places + at) % places;
            let first = FIRST + place * EACH;
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, first)) else {
                continue;
            };
            let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if (first..first + EACH).all(is_free) {
                return Ok(Self {
                    first,
                    _claim: claim,
                });
            }
        }
        let text = format!("no free ports from {FIRST} to {CLIENTS}");
        Err(io::Error::new(io::ErrorKind::AddrInUse, text))
    }

    /// The first of them.
    pub fn first(&self) -> u16 {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_claimed_once_and_listened_on_again_and_again() {
        let claimed: Vec<_> = (0..50).map(|_| Ports::claim().unwrap()).collect();
        let firsts: BTreeSet<_> = claimed.iter().map(Ports::first).collect();
        assert_eq!(firsts.len(), claimed.len());
        for ports in &claimed {
            for port in ports.first()..ports.first() + EACH {
                assert!((FIRST..CLIENTS).contains(&port));
                for _ in 0..2 {
                    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
                }
            }
        }
    }

    #[test]
    fn ports_that_are_let_go_can_be_claimed_again() {
        let places = usize::from((CLIENTS - FIRST) / EACH);
        for _ in 0..2 * places {
            Ports::claim().unwrap();
        }
    }
}
