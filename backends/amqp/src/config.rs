//! The options of the RabbitMQ backend.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::codec::WireForm;
use fanfare_core::subscription::SubscriptionName;

/// The most unsettled deliveries of a subscription in one process; a quorum queue allows a consumer no more.
pub(crate) const MOST: u16 = 2_000;
/// Where deaths are found by running one at a time. A consumer is as fast with it as with [`MOST`], and loses
/// a seventh with half of it (measured with `fanfare-bench amqp --only consume`).
pub(crate) const SOME: u16 = 500;

/// Server, stream, bounds and clock.
#[derive(Clone)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps:` for TLS in a build with the feature `tls`; the
    /// virtual host `/` is written `%2f`.
    pub url: String,
    /// With an `amqps:` URL: a PEM file of certificates that are believed, beside those that the
    /// system trusts. Default none.
    pub tls_ca: Option<PathBuf>,
    /// The name of the exchange; everything else is named after it.
    pub stream: String,
    /// A topic exchange of somebody else's to publish to and to bind to, as it is; what no queue wants
    /// is then kept by nobody. Default none: one of the stream's own.
    pub exchange: Option<String>,
    /// A subscription whose events come from a queue of somebody else's, as it is, whatever it is bound
    /// with. Its members share it with whoever consumes there too. Default none.
    pub queue: Option<(SubscriptionName, String)>,
    /// The form of messages that others read and write, each with its routing key as type. Default
    /// none: a form of our own, which others can read.
    pub form: Option<WireForm>,
    /// The most bytes of data in one event. Default 4 MiB.
    pub max_data_bytes: usize,
    /// How many unsettled deliveries of one subscription this process may hold, and how many come one at a
    /// time once it died. Default 500, and 2,000 from when its members have 500 at once and want more; of an
    /// ordered subscription, whose retries wait in the process, and of one that ends with the process always
    /// 2,000.
    pub prefetch: Option<u16>,
    /// The most events kept that no subscription wanted; the oldest go first. Default 1,000,000.
    pub max_unrouted: i32,
    /// How long connecting may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long an answer may take. Default 10 s.
    pub response_timeout: Duration,
    /// How long a publish waits for its confirmation. Default 10 s.
    pub publish_timeout: Duration,
    /// Time: leases are the client's.
    pub clock: Clock,
}

impl AmqpConfig {
    /// The defaults, on this server and stream.
    pub fn new(url: impl Into<String>, stream: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls_ca: None,
            stream: stream.into(),
            exchange: None,
            queue: None,
            form: None,
            max_data_bytes: 4 << 20,
            prefetch: None,
            max_unrouted: 1_000_000,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(10),
            clock: Clock::system(),
        }
    }
}

impl fmt::Debug for AmqpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("AmqpConfig")
            .field("stream", &self.stream)
            .field("prefetch", &self.prefetch)
            .finish_non_exhaustive()
    }
}
