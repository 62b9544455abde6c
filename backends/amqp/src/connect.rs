//! The connection, made anew when it is needed and gone. Not what is said over it.

mod pen;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::retry::RetryPolicy;
use lapin::options::BasicPublishOptions;
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use self::pen::Pen;
use crate::config::AmqpConfig;
use crate::error;

/// How long a broker may think when it is asked whether it is there.
const ASK: Duration = Duration::from_secs(1);
/// Before the second try to connect, and the most between two.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One connection of this process, which is replaced when it breaks. What the client library calls
/// recovery is off: it takes a line for whole that lost what was on its way.
pub(crate) struct Line {
    pub(crate) config: AmqpConfig,
    making: tokio::sync::Mutex<()>,
    live: Mutex<Option<Arc<Live>>>,
    closed: watch::Sender<bool>,
    /// Why there was no connection when it was last tried.
    missing: Mutex<Option<Error>>,
    /// How often a connection was given up as silent.
    given_up: watch::Sender<u64>,
}

/// A connection that worked, with a channel that confirms.
pub(crate) struct Live {
    connection: Connection,
    pub(crate) publishing: Pen,
    /// How many channels were ever opened.
    opened: AtomicU16,
}

impl Line {
    pub(crate) fn new(config: AmqpConfig) -> Self {
        Self {
            config,
            making: tokio::sync::Mutex::default(),
            live: Mutex::default(),
            closed: watch::Sender::new(false),
            missing: Mutex::default(),
            given_up: watch::Sender::new(0),
        }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(error::closed());
        }
        Ok(())
    }

    /// Ends once the backend is closed.
    pub(crate) async fn until_closed(&self) {
        let mut closed = self.closed.subscribe();
        // Its sender lives as long as we do.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// The connection if there is one that works.
    pub(crate) fn now(&self) -> Option<Arc<Live>> {
        let live = self.live.lock();
        live.as_ref().filter(|live| live.works()).cloned()
    }

    /// The same, if more channels can be opened.
    fn fresh(&self) -> Option<Arc<Live>> {
        self.now().filter(|live| !live.is_worn())
    }

    /// The connection, made if need be, once. One that is worn lasts as long as channels of it.
    pub(crate) async fn get(&self) -> Result<Arc<Live>> {
        self.check_open()?;
        if let Some(live) = self.fresh() {
            return Ok(live);
        }
        let _making = self.making.lock().await;
        if let Some(live) = self.fresh() {
            return Ok(live);
        }
        let limit = self.config.connect_timeout;
        let live = tokio::select! {
            live = self.connect() => live,
            () = self.config.clock.sleep(limit) => Err(error::silent()),
            () = self.until_closed() => return Err(error::closed()),
        };
        *self.missing.lock() = live.as_ref().err().map(Error::duplicate);
        let live = Arc::new(live?);
        *self.live.lock() = Some(live.clone());
        Ok(live)
    }

    /// Why there was none when it was last tried, and still is none: an answer that waits for nothing.
    pub(crate) fn missing(&self) -> Option<Error> {
        let missing = self.missing.lock().as_ref().map(Error::duplicate);
        missing.filter(|_| self.now().is_none())
    }

    /// Whether somebody tries just now.
    pub(crate) fn is_connecting(&self) -> bool {
        self.making.try_lock().is_err()
    }

    async fn connect(&self) -> Result<Live> {
        let properties = ConnectionProperties::default().with_connection_name("fanfare".into());
        let (place, tls) = tls::place(&self.config)?;
        let runtime = lapin::runtime::default_runtime().map_err(error::of)?;
        let connecting = Connection::connect_uri_with_config(place, properties, tls, runtime);
        let connection = connecting.await.map_err(error::connecting)?;
        let publishing = connection.create_channel().await.map_err(error::of)?;
        Ok(Live {
            connection,
            publishing: Pen::new(publishing).await?,
            opened: AtomicU16::new(1),
        })
    }

    /// Where the server is.
    pub(crate) fn place(&self) -> Result<AMQPUri> {
        tls::place(&self.config).map(|(place, _)| place)
    }

    /// A channel of its own, for what may close it.
    pub(crate) async fn channel(&self) -> Result<Pen> {
        let live = self.get().await?;
        self.channel_of(&live).await
    }

    /// One that does nothing until it commits: for what is acknowledged.
    pub(crate) async fn committing(&self) -> Result<Channel> {
        let live = self.get().await?;
        let opening = async {
            let channel = live.open().await?;
            channel.tx_select().await?;
            Ok(channel)
        };
        self.ask(opening).await
    }

    /// One over this connection, whatever became of it.
    pub(crate) async fn channel_of(&self, live: &Live) -> Result<Pen> {
        let opening = async {
            let channel = live.open().await.map_err(error::of)?;
            Pen::new(channel).await
        };
        self.limited(opening).await
    }

    /// Gives up a connection that does not answer, if it still is the one. What was sent over it may
    /// have arrived.
    pub(crate) fn give_up(&self, silent: &Arc<Live>) {
        let same = |live: &mut Arc<Live>| Arc::ptr_eq(live, silent);
        let Some(live) = self.live.lock().take_if(same) else {
            return;
        };
        tracing::warn!("RabbitMQ did not answer in time: its connection is given up");
        self.given_up.send_modify(|times| *times += 1);
        let (clock, limit) = (self.config.clock.clone(), self.config.response_timeout);
        tokio::spawn(async move {
            tokio::select! {
                _ = live.connection.close(200, "silent".into()) => {}
                () = clock.sleep(limit) => {}
            }
        });
    }

    /// Ends when a connection is given up.
    pub(crate) fn until_given_up(&self) -> impl Future<Output = ()> + use<> {
        let mut given_up = self.given_up.subscribe();
        async move {
            let _ = given_up.changed().await;
        }
    }

    /// Whether the broker answers now, or soon.
    pub(crate) async fn answers(&self) -> bool {
        let Some(live) = self.fresh() else {
            // Nobody needs it just now, or it broke: the answer is whether there can be one.
            let making = self.get();
            return tokio::select! {
                live = making => live.is_ok(),
                () = self.config.clock.sleep(ASK) => false,
            };
        };
        let asked = async {
            let channel = live.open().await.ok()?;
            channel.close(200, "asked".into()).await.ok()
        };
        let answers = tokio::select! {
            answer = asked => answer.is_some(),
            () = self.config.clock.sleep(ASK) => false,
        };
        if !answers {
            self.give_up(&live);
        }
        answers
    }

    /// Asks, and waits for the answer as long as one may take.
    pub(crate) async fn ask<T>(&self, asked: impl Future<Output = lapin::Result<T>>) -> Result<T> {
        self.limited(async { asked.await.map_err(error::of) }).await
    }

    /// Waits for an answer as long as one may take; not for more than one, nor for anybody else. A
    /// connection that was made meanwhile is not to blame for its absence.
    pub(crate) async fn limited<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        let live = self.now();
        tokio::select! {
            answer = asked => answer,
            () = self.config.clock.sleep(self.config.response_timeout) => {
                let blocked = self.now().is_some_and(|live| live.blocked());
                if let Some(live) = live {
                    self.give_up(&live);
                }
                Err(if blocked {
                    error::blocked(ErrorKind::Unavailable)
                } else {
                    error::silent()
                })
            }
            () = self.until_closed() => Err(error::closed()),
        }
    }

    /// Into a queue, and waits until that is confirmed.
    pub(crate) async fn write(
        &self,
        pen: &Pen,
        queue: &str,
        data: &[u8],
        properties: BasicProperties,
    ) -> Result<()> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let sending = pen.basic_publish("".into(), queue.into(), options, data, properties);
        let written = async { confirmed(sending.await.map_err(error::unknown)?.await) };
        self.limited(written).await
    }

    pub(crate) async fn close(&self) {
        self.closed.send_replace(true);
        let live = self.live.lock().take();
        if let Some(live) = live {
            let bye = live.connection.close(200, "bye".into());
            tokio::select! {
                _ = bye => {}
                () = self.config.clock.sleep(self.config.response_timeout) => {}
            }
        }
    }
}

impl Live {
    async fn open(&self) -> lapin::Result<Channel> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.connection.create_channel().await
    }

    /// Whether its channels will soon have the numbers of earlier ones. Of a channel that the server
    /// closed for an error the client library remembers that by its number, and tells it to the next.
    fn is_worn(&self) -> bool {
        let most = match self.connection.configuration().channel_max() {
            // No limit.
            0 => u16::MAX,
            most => most,
        };
        self.opened.load(Ordering::Relaxed) >= most - most / 16
    }

    fn works(&self) -> bool {
        self.connection.status().connected() && self.publishing.status().connected()
    }

    /// Whether the broker takes nothing over this connection: it is low on memory or disk.
    pub(crate) fn blocked(&self) -> bool {
        self.connection.status().blocked()
    }
}

/// How long to wait before connecting again, after so many tries in vain: longer each time, and not
/// everybody at once.
pub(crate) fn backoff(tries: u32) -> Duration {
    let policy = RetryPolicy {
        max_attempts: u32::MAX,
        initial: FIRST_PAUSE,
        factor: 2.0,
        max: LONGEST_PAUSE,
        jitter: true,
    };
    let random = uuid::Uuid::now_v7().as_u64_pair().1 % 1_000;
    let spread = f64::from(u32::try_from(random).unwrap_or(0)) / 1_000.0;
    let after = policy.delay_after(tries.max(1), spread);
    after.unwrap_or(LONGEST_PAUSE)
}

/// What a confirmation says: kept, refused, or nobody to keep it.
pub(crate) fn confirmed(confirmation: lapin::Result<Confirmation>) -> Result<()> {
    match confirmation.map_err(error::unknown)? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) => Err(Error::new(
            ErrorKind::NotFound,
            "no queue takes it: the stream's own were deleted",
        )),
        Confirmation::Nack(_) => Err(Error::new(ErrorKind::Full, "a queue refused it")),
        Confirmation::NotRequested => Err(Error::new(
            ErrorKind::Internal,
            "the channel does not confirm",
        )),
    }
}
