//! One subscription in this process: its channels and what comes over them, made anew whenever they
//! are gone. Who gets what is the desk's, what becomes of it is in `settle`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use futures::FutureExt;
use futures::future::{pending, try_join_all};
use lapin::Channel;
use lapin::message::Delivery;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::backend::Stream;
use crate::connect::{Pen, backoff};
use crate::desk::{Arrived, Desk, Item, Leaving};
use crate::ear::{Ear, Echoes};
use crate::way::Way;
use crate::wire::Note;
use crate::{config, error, wire};

/// How long after a break what we held may come again, before somebody else is taken to have it.
const RETURN: Duration = Duration::from_secs(5);
/// How often a line is asked whether it works and whether all that it brought arrived.
const PULSE: Duration = Duration::from_secs(2);

pub(crate) struct Hub {
    pub(crate) stream: Arc<Stream>,
    pub(crate) name: SubscriptionName,
    pub(crate) queue: String,
    /// The queue of what is to run alone; none where nothing outlives the process.
    pub(crate) alone: Option<String>,
    /// Its queues pass on what is to run alone, once that is rejected.
    pub(crate) passes_on: bool,
    /// Also between processes: the queue has one active consumer.
    pub(crate) ordered: bool,
    pub(crate) alone_waits: AtomicBool,
    pub(crate) fetching: tokio::sync::Mutex<()>,
    pub(crate) desk: Mutex<Desk>,
    pub(crate) wake: Notify,
    /// Members of this process.
    pub(crate) members: AtomicUsize,
    /// Somebody waits for an echo.
    listen: Notify,
    /// Members want more than the broker sends before it hears of settlements.
    crowded: Notify,
    echoes: Arc<Echoes>,
    channels: Mutex<Option<Arc<Channels>>>,
    stop: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
}

/// What a line brings: what comes by itself, and what is asked for to run alone. And where what must be
/// kept of it is written, and confirmed.
pub(crate) struct Channels {
    /// As the desk counts them.
    line: u64,
    pub(crate) pen: Pen,
    pub(crate) main: Way,
    pub(crate) alone: Way,
}

impl Channels {
    fn all(&self) -> [&Channel; 3] {
        [&self.main.channel, &self.alone.channel, &self.pen]
    }

    async fn close(&self) {
        for channel in self.all() {
            // Where this fails it has ended already.
            let _ = channel.close(200, "done".into()).await;
        }
    }
}

impl Hub {
    pub(crate) fn start(
        stream: Arc<Stream>,
        name: SubscriptionName,
        queue: String,
        desk: Desk,
        passes_on: bool,
    ) -> Arc<Self> {
        let alone = (!desk.spec.ephemeral).then(|| stream.alone_of(&name));
        let ordered = desk.is_ordered();
        let hub = Arc::new(Self {
            stream,
            name,
            queue,
            alone,
            passes_on,
            ordered,
            alone_waits: AtomicBool::new(false),
            fetching: tokio::sync::Mutex::default(),
            desk: Mutex::new(desk),
            wake: Notify::new(),
            members: AtomicUsize::new(0),
            listen: Notify::new(),
            crowded: Notify::new(),
            echoes: Arc::default(),
            channels: Mutex::default(),
            stop: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
        });
        tokio::spawn(hub.clone().run());
        hub
    }

    async fn run(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let clock = self.stream.line.config.clock.clone();
        let mut tries = 0;
        while !*stop.borrow() {
            let ended = self.serve(&mut stop.clone(), &mut tries).await;
            if *stop.borrow() {
                break;
            }
            self.leave_line().await;
            match ended {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if self.is_gone().await {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::debug!(subscription = %self.name, %error, "line ended");
                }
                Err(error) => tracing::warn!(subscription = %self.name, %error, "line ended"),
                Ok(()) => {}
            }
            tries += 1;
            tokio::select! {
                () = told(&mut stop) => {}
                () = clock.sleep(backoff(tries)) => {}
            }
        }
        self.give_back().await;
        self.leave_line().await;
        self.stopped.send_replace(true);
    }

    /// Takes in what comes until the line breaks, or everything that was sent before we stop.
    async fn serve(&self, stop: &mut watch::Receiver<bool>, tries: &mut u32) -> Result<()> {
        let (line, clock) = (&self.stream.line, &self.stream.line.config.clock);
        let given_up = line.until_given_up();
        tokio::pin!(given_up);
        let number = self.desk.lock().new_line();
        let (channels, mut ear) = line.limited(self.open(number)).await?;
        *tries = 0;
        *self.channels.lock() = Some(channels.clone());
        self.reclaim_alone().await?;
        self.look_for_alone(&channels).await?;
        let (pulse, returned) = (clock.sleep(PULSE), clock.sleep(RETURN));
        tokio::pin!(pulse, returned);
        let (mut forgot, mut stopping, mut wide) = (false, false, false);
        let mut taking_over = pending().boxed();
        loop {
            let next_rest = self.desk.lock().next_rest();
            tokio::select! {
                messages = ear.next() => {
                    let Some(messages) = messages? else {
                        return Ok(());
                    };
                    let before = self.desk.lock().is_new_owner();
                    self.take(&channels, messages, false).await?;
                    if !before && self.desk.lock().is_new_owner() {
                        taking_over = self.take_over().boxed();
                    }
                }
                taken_over = &mut taking_over => {
                    taken_over?;
                    taking_over = pending().boxed();
                }
                () = &mut given_up => return Ok(()),
                () = told(stop), if !stopping => {
                    if self.ordered {
                        // Cancelled, it would be another's while we hold what comes before.
                        return Ok(());
                    }
                    stopping = true;
                    let cancelling = async {
                        let _still = channels.main.still().await;
                        ear.cancel().await
                    };
                    line.limited(cancelling).await?;
                }
                () = self.crowded.notified(), if !(wide || stopping) => {
                    wide = line.limited(self.widen(&channels.main, &mut ear)).await?;
                }
                () = self.listen.notified() => {
                    line.limited(ear.call(clock.now(), line.config.response_timeout)).await?;
                }
                () = &mut pulse => {
                    line.limited(ear.call(clock.now(), line.config.response_timeout)).await?;
                    self.look_for_alone(&channels).await?;
                    pulse.set(clock.sleep(PULSE));
                }
                () = &mut returned, if !forgot => {
                    forgot = true;
                    self.desk.lock().forget_stale();
                }
                () = until(clock, next_rest) => self.isolate(&channels).await?,
            }
        }
    }

    async fn open(&self, number: u64) -> Result<(Arc<Channels>, Ear)> {
        let line = &self.stream.line;
        let pen = line.channel().await?;
        let keeper = self.alone.as_ref().map(|_| pen.clone());
        let alone = self.alone.as_ref().unwrap_or(&self.queue);
        let way = async |queue: &String| {
            let channel = line.committing().await?;
            Ok::<_, Error>(Way::new(channel, queue.clone(), keeper.clone()))
        };
        let channels = Channels {
            line: number,
            main: way(&self.queue).await?,
            alone: way(alone).await?,
            pen,
        };
        let most = if self.isolates() {
            config::SOME
        } else {
            config::MOST
        };
        let window = line.config.prefetch.unwrap_or(most);
        let echo = uuid::Uuid::now_v7().simple();
        let echo = self.stream.part(&format!("echo.{echo}"));
        let ear = Ear::open(
            (&channels.main.channel, &channels.pen),
            (&self.queue, window),
            echo,
            self.echoes.clone(),
        )
        .await?;
        Ok((Arc::new(channels), ear))
    }

    /// What comes of the dead runs alone.
    fn isolates(&self) -> bool {
        self.alone.is_some() && !self.ordered
    }

    /// A member wants more than is here.
    pub(crate) fn ask_for_more(&self) {
        let fixed = self.stream.line.config.prefetch.is_some();
        let all = || self.desk.lock().in_flight() >= u64::from(config::SOME);
        if self.isolates() && !fixed && all() {
            self.crowded.notify_one();
        }
    }

    /// Takes more in hand, unless something may be on its way: the broker would take that back, as if
    /// somebody had died of it. Members ask again.
    async fn widen(&self, main: &Way, ear: &mut Ear) -> Result<bool> {
        let still = main.still().now_or_never();
        let full = main.open() >= usize::from(config::SOME);
        if still.is_none() || !full {
            return Ok(false);
        }
        let more = config::MOST - config::SOME;
        ear.widen(&self.queue, more).await?;
        Ok(true)
    }

    /// What is still open on the line comes again on the next, or elsewhere; until then nobody gets it.
    async fn leave_line(&self) {
        self.desk.lock().new_line();
        let channels = self.channels.lock().take();
        if let Some(channels) = channels {
            let closing = async {
                channels.close().await;
                Ok(())
            };
            let _ = self.stream.line.limited(closing).await;
        }
        self.wake.notify_waiters();
    }

    /// Its queue is not there: made again where it was deleted past us. Else there is nothing to do any
    /// more.
    async fn is_gone(&self) -> bool {
        let revived = match &self.alone {
            Some(_) => self.stream.revive(&self.name).await,
            None => Ok(false),
        };
        match revived {
            Ok(true) => {
                tracing::warn!(subscription = %self.name, "its queue was deleted: made again");
                return false;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(subscription = %self.name, %error, "its queue is not there");
                return false;
            }
        }
        self.desk.lock().gone = true;
        self.stream.forget(self);
        self.wake.notify_waiters();
        true
    }

    /// Ends when all that the broker had sent before is at the desk.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        let echoes = self.echoes.next(|| self.listen.notify_one());
        let (clock, config) = (&self.stream.line.config.clock, &self.stream.line.config);
        tokio::select! {
            () = echoes => Ok(()),
            () = clock.sleep(config.response_timeout / 2) => Err(error::silent()),
            () = self.stream.line.until_closed() => Err(error::closed()),
        }
    }

    /// Messages came: by themselves, or because one was fetched to run alone.
    pub(crate) async fn take(
        &self,
        channels: &Channels,
        messages: Vec<Delivery>,
        alone: bool,
    ) -> Result<()> {
        let way = if alone {
            &channels.alone
        } else {
            &channels.main
        };
        way.came(messages.iter().map(|message| message.delivery_tag));
        let (mut items, mut strange) = (Vec::with_capacity(messages.len()), Vec::new());
        let mut copies = Vec::new();
        for message in messages {
            // What does not outlive its process was with nobody else.
            let again = message.redelivered && self.alone.is_some();
            match self.read(&message, alone) {
                Ok(item) => items.push((item, again)),
                Err(error) => strange.push((message, error)),
            }
        }
        {
            let (mut desk, now) = (self.desk.lock(), self.stream.now());
            if !desk.is_line(channels.line) {
                // The broker has it again.
                return Ok(());
            }
            desk.arrived += u64::try_from(items.len() + strange.len()).unwrap_or_default();
            for (item, again) in items {
                let tag = item.tag;
                if desk.arrive(item, again, now) == Arrived::Copy {
                    copies.push(tag);
                }
            }
        }
        self.wake.notify_waiters();
        if !copies.is_empty() {
            way.acknowledge(&self.stream, copies).await?;
        }
        for (message, error) in strange {
            let (pen, tag) = (&channels.pen, message.delivery_tag);
            let buried = self
                .stream
                .bury_raw(pen, &self.name, message, error.to_string());
            buried.await?;
            way.acknowledge(&self.stream, vec![tag]).await?;
        }
        Ok(())
    }

    fn read(&self, message: &Delivery, alone: bool) -> Result<Item> {
        let event = wire::read(message, self.stream.line.config.form.as_ref())?;
        let mut note = wire::note(&message.properties).unwrap_or_else(|| Note {
            position: self.stream.place(),
            ..Note::default()
        });
        let queue = self.alone.as_ref().filter(|_| self.passes_on);
        let died = queue.and_then(|queue| wire::rejected(&message.properties, queue));
        if let Some((times, first)) = died {
            note.attempts = note.attempts.saturating_add(times);
            note.first_failure.get_or_insert(first);
        }
        let passes = died.is_some() && !alone;
        Ok(Item::new(event, note, message.delivery_tag, alone).passing(passes))
    }

    /// The channels, if they work now.
    pub(crate) fn channels(&self) -> Result<Arc<Channels>> {
        let channels = self.channels.lock().clone();
        let works = |channels: &Arc<Channels>| {
            let mut all = channels.all().into_iter();
            all.all(|channel| channel.status().connected())
        };
        let broken = || Error::new(ErrorKind::Unavailable, "the channel is broken");
        channels.filter(works).ok_or_else(broken)
    }

    /// Everything held goes back to the queue as nobody's. The broker would call it returned, which
    /// is what it calls the work of the dead: so it is written anew. A retry waits on there.
    async fn give_back(&self) {
        let Ok(channels) = self.channels() else {
            return;
        };
        if self.desk.lock().gone {
            return;
        }
        if self.ordered {
            if let Err(error) = self.hand_over().await {
                tracing::debug!(subscription = %self.name, %error, "left without a word");
            }
            return;
        }
        let leaving = self.desk.lock().clear(self.stream.now());
        let channel = &channels.pen;
        let returning = leaving.iter().map(|one| async {
            let queue = self.queue_after(one).await?;
            self.send(channel, &queue, &one.item, one.item.note).await
        });
        let giving = async {
            try_join_all(returning).await?;
            let items = leaving.iter().map(|one| &one.item);
            self.acknowledge(&channels, items).await
        };
        if let Err(error) = giving.await {
            tracing::debug!(subscription = %self.name, %error, "the broker gives it back as well");
        }
    }

    async fn queue_after(&self, leaving: &Leaving) -> Result<String> {
        match (leaving.wait, &self.alone) {
            (Some(wait), _) => self.stream.delay(&self.name, wait).await,
            (None, Some(alone)) if leaving.alone => Ok(alone.clone()),
            _ => Ok(self.queue.clone()),
        }
    }

    /// Gives everything back and ends.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let mut stopped = self.stopped.subscribe();
        let limit = self.stream.line.config.response_timeout;
        tokio::select! {
            () = told(&mut stopped) => {}
            () = self.stream.line.config.clock.sleep(limit) => {}
        }
    }
}

/// Ends when it was said; its sender lives as long as the hub.
async fn told(said: &mut watch::Receiver<bool>) {
    let _ = said.wait_for(|said| *said).await;
}

/// Never, where there is nothing to wait for.
async fn until(clock: &Clock, at: Option<Timestamp>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
