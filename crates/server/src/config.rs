//! What a server is told at start. Every limit has its unit in its doc; the command line and the
//! configuration file fill this in.

use std::time::Duration;

use fanfare::core::error::{Error, Result, Violation};
use fanfare::core::timestamp::duration;
use serde::{Deserialize, Serialize};

/// The highest value of a bound.
const MOST: usize = u32::MAX as usize;

/// How a server listens, whom it answers and what it bounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port; port 0 takes a free one. Default `127.0.0.1:8787`.
    pub listen: String,
    /// Host names answered besides `localhost`, `127.0.0.1` and `[::1]`, without port.
    pub allowed_hosts: Vec<String>,
    /// Allows to listen on an address that other machines reach, although nothing is
    /// authenticated.
    pub insecure: bool,
    /// The source of events that come without one. Default `/`.
    pub source: String,
    /// What is bounded.
    pub limits: Limits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8787".into(),
            allowed_hosts: Vec::new(),
            insecure: false,
            source: "/".into(),
            limits: Limits::default(),
        }
    }
}

impl ServerConfig {
    /// Names every value that cannot work.
    pub fn check(&self) -> Result<()> {
        let mut violations = self.limits.violations();
        for (index, host) in self.allowed_hosts.iter().enumerate() {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            if host.is_empty() || (!bracketed && host.contains([':', '/'])) {
                violations.push(Violation {
                    pointer: format!("/allowed_hosts/{index}"),
                    detail: format!("`{host}` is not a host name without scheme and port"),
                });
            }
        }
        if self.source.is_empty() {
            violations.push(Violation {
                pointer: "/source".into(),
                detail: "source is empty".into(),
            });
        }
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Error::violating(violations))
        }
    }
}

/// Named bounds of the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest body of a request that is not a batch, in bytes. Default 1 MiB.
    pub body_bytes: usize,
    /// The largest body of a batch, in bytes. Default 8 MiB.
    pub batch_bytes: usize,
    /// The most events in a batch. Default 1,000.
    pub batch_events: usize,
    /// Memory that the bodies of all requests may take together, in bytes; more is answered 429.
    /// Default 256 MiB.
    pub bodies_bytes: usize,
    /// Open connections; more wait to be accepted. Default 1,024.
    pub connections: usize,
    /// Publish requests at work at once; more are answered 429. Default 512.
    pub publishing: usize,
    /// Open tails; more are answered 429. Default 256.
    pub tails: usize,
    /// Waiting pulls; more are answered 429. Default 512.
    pub pulls: usize,
    /// The most bytes of one answer before it ends early: a page says where to go on, a pull hands
    /// out fewer. Default 16 MiB.
    pub answer_bytes: usize,
    /// Events read ahead for one tail. Default 256.
    pub tail_queue: usize,
    /// The most bytes of events read ahead for one tail. Default 1 MiB.
    pub tail_queue_bytes: usize,
    /// How long a tail's queue may stay full before its client is cut off. Default 10 s.
    #[serde(with = "duration")]
    pub tail_patience: Duration,
    /// A tail without events gets a comment this often. Default 15 s.
    #[serde(with = "duration")]
    pub tail_heartbeat: Duration,
    /// The longest wait of a pull. Default 60 s.
    #[serde(with = "duration")]
    pub pull_wait: Duration,
    /// How long a client may take for the head of a request, idle connections included.
    /// Default 10 s.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// How long a client may pause within a body, sent or received. Default 30 s.
    #[serde(with = "duration")]
    pub body_idle: Duration,
    /// How long requests at work may take once the server shuts down. Default 20 s.
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl Limits {
    /// Bounds that would let nothing through, or that no counter can hold. Zero publish requests,
    /// tails or pulls are allowed: that switches them off.
    fn violations(&self) -> Vec<Violation> {
        let at_least_one = [
            ("body_bytes", self.body_bytes),
            ("batch_bytes", self.batch_bytes),
            ("batch_events", self.batch_events),
            ("bodies_bytes", self.bodies_bytes),
            ("connections", self.connections),
            ("answer_bytes", self.answer_bytes),
            ("tail_queue", self.tail_queue),
            ("tail_queue_bytes", self.tail_queue_bytes),
        ];
        let any = [
            ("publishing", self.publishing),
            ("tails", self.tails),
            ("pulls", self.pulls),
        ];
        let zero = at_least_one.iter().filter(|(_, value)| *value == 0);
        let zero = zero.map(|(name, _)| (name, "at least 1".to_owned()));
        let huge = at_least_one.iter().chain(&any);
        let huge = huge
            .filter(|(_, value)| *value > MOST)
            .map(|(name, _)| (name, format!("at most {MOST}")));
        zero.chain(huge)
            .map(|(name, bound)| Violation {
                pointer: format!("/limits/{name}"),
                detail: format!("{name} must be {bound}"),
            })
            .collect()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            batch_bytes: 8 << 20,
            batch_events: 1_000,
            bodies_bytes: 256 << 20,
            connections: 1_024,
            publishing: 512,
            tails: 256,
            pulls: 512,
            answer_bytes: 16 << 20,
            tail_queue: 256,
            tail_queue_bytes: 1 << 20,
            tail_patience: Duration::from_secs(10),
            tail_heartbeat: Duration::from_secs(15),
            pull_wait: Duration::from_mins(1),
            header_timeout: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            grace: Duration::from_secs(20),
        }
    }
}
