//! One round against a broker: a fresh broker, two servers that share the subscriptions, fault after
//! fault of one kind, then the verdict. When the verdict is bad the data stay, with the record and
//! the servers' log.
//!
//! ```text
//! clients ==> server A --- proxy ---.
//!        \==> server B ---(proxy)---+--> broker      B goes through the proxy where the connections
//!                                                    themselves are the victim
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::broker::{Broker, Engine, Keeps, Kept, Ports};
use super::chance::{self, Dice};
use super::fault::Fault;
use super::load::SUBSCRIPTIONS;
use super::overseer::Overseer;
use super::progress::Tally;
use super::proxy::Proxy;
use super::round::Stopped;
use super::scratch::Scratch;
use super::server::{Program, Server};
use crate::Result;
use crate::command::Watchdog;

/// How long everything is well before a fault, in microseconds: anything between these.
const CALM: (u64, u64) = (20_000, 300_000);
/// How long clients take no breath before it.
const BRACED: (u64, u64) = (5_000, 30_000);
/// How long a killed broker or server stays away.
const AWAY: (u64, u64) = (0, 500_000);
/// The ending of the broker's own log.
const BROKER: &str = "broker";
/// Before the stream is deleted: backends look every 5 s whether something is gone, and what nobody
/// has seen yet nobody misses.
const SEEN: Duration = Duration::from_secs(7);
/// How much is published after the last loss was told.
const AFTERWARDS: (u64, u64) = (1_000_000, 1_500_000);
/// The shortest stop.
const STOP: u64 = 1_000_000;

/// What one round does.
#[derive(Debug)]
pub(super) struct Siege<'a> {
    pub(super) program: &'a Program,
    pub(super) engine: &'static Engine,
    pub(super) keeps: Keeps,
    pub(super) fault: Fault,
    /// Landed faults.
    pub(super) count: u64,
    pub(super) limit: Duration,
    /// The longest `SIGSTOP`.
    pub(super) longest_stop: Duration,
    /// Where records are kept.
    pub(super) home: &'a Path,
}

impl Siege<'_> {
    pub(super) fn run(&self) -> std::result::Result<Tally, Stopped> {
        if let Err(error) = (self.engine.version)() {
            let program = self.engine.program;
            let why = format!("faults of {program}, which does not run here: {error}");
            return Err(Stopped::NotAllowed(why));
        }
        let seed = chance::now();
        let scratch = Scratch::create(seed)?;
        let record = self.home.join(format!("{seed}.record"));
        let log = self.home.join(format!("{seed}.log"));
        let mut tally = Tally::default();
        let played = Scene::set(self, seed, &scratch, &record, &log)
            .and_then(|mut scene| scene.play(&mut tally));
        if played.is_ok() && tally.broken.is_empty() {
            for file in [&record, &log, &log.with_extension(BROKER)] {
                let _ = fs::remove_file(file);
            }
        } else {
            scratch.keep(&self.home.join(format!("{seed}.data")));
        }
        played
            .map_err(|error| format!("{error} (record and log: {seed} in target/chaos)"))
            .map_err(|error| Stopped::Failed(error.into()))?;
        Ok(tally)
    }
}

/// A round while it runs. The servers go before the proxy and the broker.
#[derive(Debug)]
struct Scene<'a> {
    siege: &'a Siege<'a>,
    overseer: Overseer,
    dice: Dice,
    servers: Vec<Place>,
    proxy: Proxy,
    broker: Broker,
    log: PathBuf,
}

/// Where a server stands; the one there is killed and another takes its place.
#[derive(Debug)]
struct Place {
    url: String,
    ports: Ports,
    data: PathBuf,
    server: Option<Server>,
}

impl<'a> Scene<'a> {
    fn set(
        siege: &'a Siege<'a>,
        seed: u64,
        scratch: &Scratch,
        record: &Path,
        log: &Path,
    ) -> Result<Self> {
        let engine = siege.engine;
        let data = scratch.dir.join("broker");
        let broker = Broker::start(engine, siege.keeps, &data, &log.with_extension(BROKER))?;
        let proxy = Proxy::start(broker.address())?;
        let second = match siege.fault {
            Fault::Cut | Fault::Blackhole => proxy.address(),
            _ => broker.address(),
        };
        let mut servers = Vec::new();
        for (name, broker) in [("a", proxy.address()), ("b", second)] {
            let mut place = Place {
                url: (engine.url)(broker),
                ports: Ports::claim()?,
                data: scratch.dir.join(name),
                server: None,
            };
            place.start(siege.program, log)?;
            servers.push(place);
        }
        Ok(Self {
            siege,
            overseer: Overseer::start(record, seed)?,
            dice: Dice::new(seed),
            servers,
            proxy,
            broker,
            log: log.into(),
        })
    }

    fn play(&mut self, tally: &mut Tally) -> Result {
        self.up()?;
        if self.siege.fault.deletes() {
            // What nobody has seen yet nobody misses.
            self.overseer.healed(chance::now())?;
        }
        if self.siege.fault == Fault::BrokerKill {
            chance::pause(self.siege.engine.young);
        }
        let watch = Watchdog::over(self.siege.limit);
        while tally.landed < self.siege.count && !watch.left().is_zero() {
            self.fault(tally)?;
        }
        let addresses = self.addresses();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let kills = match self.siege.fault {
            Fault::BrokerKill => tally.landed + tally.beside,
            _ => 0,
        };
        let copies = kills * self.siege.engine.copies * SUBSCRIPTIONS.len() as u64;
        tally.conclude(self.overseer.judge(copies, &addresses)?);
        Ok(())
    }

    /// One fault and what follows.
    fn fault(&mut self, tally: &mut Tally) -> Result {
        if self.siege.fault == Fault::StreamDeletion {
            chance::pause(SEEN);
        }
        self.wait(CALM);
        self.overseer.brace()?;
        self.wait(BRACED);
        self.overseer.aim()?;
        let mut moment = self.begin()?;
        if matches!(self.siege.fault, Fault::Stop | Fault::Blackhole) {
            // Nobody is answered from here on, and what leaves now is in flight as well.
            self.wait(BRACED);
            moment = chance::now();
        }
        let (publishes, settlements) = self.overseer.fault(moment)?;
        self.end()?;
        if self.siege.keeps == Keeps::Nothing {
            // The subscriptions are gone, which the checker notes; nothing would be delivered again.
            self.up()?;
        }
        let healed = chance::now();
        self.note(moment, healed)?;
        let (publishing, delivering) = self.healed(healed, tally)?;
        if self.siege.fault == Fault::StreamDeletion {
            self.overseer.told(tally.landed + tally.beside + 1)?;
            self.wait(AFTERWARDS);
        }
        tally.publishing.push(publishing);
        tally.delivering.push(delivering);
        // What is deleted is deleted, whoever asks just then.
        if self.siege.fault.deletes() || publishes > 0 && settlements > 0 {
            tally.landed += 1;
            tally.publishes_in_flight += publishes;
            tally.settlements_in_flight += settlements;
        } else {
            tally.beside += 1;
        }
        self.mend()
    }

    /// Answers when it was, or just before.
    fn begin(&mut self) -> Result<u64> {
        let moment = chance::now();
        match self.siege.fault {
            Fault::Stop => self.broker.stop()?,
            Fault::Cut => {
                let only = self.only_one();
                self.proxy.cut(only);
            }
            Fault::Blackhole => {
                let only = self.only_one();
                self.proxy.silence(only);
            }
            Fault::ServerKill => {
                let victim = self.dice.roll(2) == 0;
                let place = self.servers.get_mut(usize::from(victim));
                let server = place.and_then(|place| place.server.take());
                server.map_or(Ok(()), Server::kill)?;
            }
            Fault::GroupDeletion => {
                self.broker.delete(Kept::Groups)?;
                self.overseer.deleted(false)?;
            }
            Fault::StreamDeletion => {
                self.broker.delete(Kept::Stream)?;
                self.overseer.deleted(true)?;
            }
            Fault::BrokerKill | Fault::Kill | Fault::PowerCut => return self.broker.kill(),
        }
        Ok(moment)
    }

    /// Where the fault lasts, waits and ends it.
    fn end(&mut self) -> Result {
        match self.siege.fault {
            Fault::BrokerKill => {
                self.wait(AWAY);
                self.broker.restart()
            }
            Fault::Stop => {
                let longest = u64::try_from(self.siege.longest_stop.as_micros())?;
                self.wait((STOP, longest));
                self.broker.go_on()
            }
            _ => Ok(()),
        }
    }

    /// Waits until all is well again. A broker that dies by itself meanwhile is started again, as whoever
    /// runs one does.
    fn healed(&mut self, moment: u64, tally: &mut Tally) -> Result<(u64, u64)> {
        let Self {
            overseer, broker, ..
        } = self;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let keeper = scope.spawn(|| broker.keep_up(&over));
            let healed = overseer.healed(moment);
            over.store(true, Ordering::Relaxed);
            let died = keeper.join().map_err(|_| "the broker's keeper panicked")?;
            tally.broker_died += died?;
            healed
        })
    }

    /// Puts a new server where one was killed.
    fn mend(&mut self) -> Result {
        if self.servers.iter().all(|place| place.server.is_some()) {
            return Ok(());
        }
        self.wait(AWAY);
        for place in &mut self.servers {
            if place.server.is_none() {
                place.start(self.siege.program, &self.log)?;
            }
        }
        self.up()
    }

    /// Every client goes to its own server.
    fn up(&mut self) -> Result {
        let addresses = self.addresses();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        self.overseer.up(&addresses)
    }

    fn addresses(&self) -> Vec<String> {
        let ports = self.servers.iter().map(|place| place.ports.first());
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// One connection as often as all of them.
    fn only_one(&mut self) -> Option<u64> {
        (self.dice.roll(2) == 0).then(|| self.dice.roll(u64::MAX))
    }

    fn wait(&mut self, (least, most): (u64, u64)) {
        let more = self.dice.roll(most.saturating_sub(least));
        chance::pause(Duration::from_micros(least + more));
    }

    /// For people who read the servers' log.
    fn note(&self, from: u64, to: u64) -> Result {
        let mut log = File::options().append(true).open(&self.log)?;
        writeln!(log, "--- {} from {from} to {to}", self.siege.fault)?;
        Ok(())
    }
}

impl Place {
    fn start(&mut self, program: &Program, log: &Path) -> Result {
        let server = program.start(&self.url, self.ports.first(), &self.data, log)?;
        self.server = Some(server);
        Ok(())
    }
}
