//! One round: a fresh directory, death after death, then the verdict. When the verdict is bad the
//! directory stays, with the record, the server's log and the data.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::chance::{self, Dice};
use super::disk::Disk;
use super::fault::Fault;
use super::overseer::Overseer;
use super::progress::Tally;
use super::scratch::Scratch;
use super::server::{Program, Server};
use crate::Result;
use crate::command::Watchdog;

/// How long a server lives, in microseconds: anything between these.
const LIFE: (u64, u64) = (5_000, 60_000);

/// What one round does.
#[derive(Debug)]
pub(super) struct Round<'a> {
    pub(super) program: &'a Program,
    pub(super) death: Fault,
    /// Landed deaths.
    pub(super) deaths: u64,
    pub(super) limit: Duration,
    /// Where records are kept.
    pub(super) home: &'a Path,
}

/// Why a round has no tally.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The machine cannot do this; why.
    NotAllowed(String),
    /// The harness or the server failed in a way that is no verdict.
    Failed(Box<dyn Error + Send + Sync>),
}

impl From<Box<dyn Error + Send + Sync>> for Stopped {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        Self::Failed(error)
    }
}

impl Round<'_> {
    pub(super) fn run(&self) -> std::result::Result<Tally, Stopped> {
        let seed = chance::now();
        let scratch = Scratch::create(seed)?;
        let mut disk = match self.death {
            Fault::PowerCut => Some(Disk::create(&scratch.dir).map_err(|error| {
                Stopped::NotAllowed(format!("power cuts, for want of a disk to cut: {error}"))
            })?),
            _ => None,
        };
        let record = self.home.join(format!("{seed}.record"));
        let log = self.home.join(format!("{seed}.log"));
        let data = disk.as_ref().map_or(scratch.dir.join("data"), Disk::data);
        let mut scene = Scene {
            round: self,
            overseer: Overseer::start(&record, seed)?,
            dice: Dice::new(seed),
            disk: disk.as_mut(),
            data,
            log: log.clone(),
            tally: Tally::default(),
        };
        let played = scene.play();
        let tally = std::mem::take(&mut scene.tally);
        drop(scene);
        let good = played.is_ok() && tally.broken.is_empty();
        if good {
            let _ = fs::remove_file(&record);
            let _ = fs::remove_file(&log);
        } else if disk.is_none() {
            scratch.keep(&self.home.join(format!("{seed}.data")));
        }
        played
            .map_err(|error| format!("{error} (record and log: {seed} in target/chaos)"))
            .map_err(|error| Stopped::Failed(error.into()))?;
        Ok(tally)
    }
}

/// A round while it runs.
#[derive(Debug)]
struct Scene<'a> {
    round: &'a Round<'a>,
    overseer: Overseer,
    dice: Dice,
    disk: Option<&'a mut Disk>,
    data: PathBuf,
    log: PathBuf,
    tally: Tally,
}

impl Scene<'_> {
    fn play(&mut self) -> Result {
        let watch = Watchdog::over(self.round.limit);
        while self.tally.landed < self.round.deaths && !watch.left().is_zero() {
            self.death()?;
        }
        let server = self.spawn()?;
        let verdict = self.overseer.judge(0, &[&server.address])?;
        self.tally.conclude(verdict);
        server.kill()
    }

    /// One life and one death.
    fn death(&mut self) -> Result {
        let server = self.spawn()?;
        let life = LIFE.0 + self.dice.roll(LIFE.1 - LIFE.0);
        let (moment, forgetful) = match self.disk.as_mut() {
            None => {
                chance::pause(Duration::from_micros(life));
                let moment = chance::now();
                server.kill()?;
                (moment, true)
            }
            Some(disk) => {
                let cutter = disk.prepare(server.pid())?;
                chance::pause(Duration::from_micros(life));
                disk.write_unsynced()?;
                let moment = cutter.cut()?;
                server.kill()?;
                (moment, disk.restore()?)
            }
        };
        let (publishes, settlements) = self.overseer.down(self.round.death, moment)?;
        if forgetful && publishes > 0 && settlements > 0 {
            self.tally.landed += 1;
            self.tally.publishes_in_flight += publishes;
            self.tally.settlements_in_flight += settlements;
        } else {
            self.tally.beside += 1;
        }
        self.tally.forgetful += u64::from(forgetful);
        Ok(())
    }

    /// Starts the server and notes how long it took to its first good answer.
    fn spawn(&mut self) -> Result<Server> {
        let watch = Watchdog::over(Duration::MAX);
        let server = self.round.program.start_on(&self.data, &self.log)?;
        self.overseer.up(&[&server.address])?;
        let micros = u64::try_from(watch.spent().as_micros())?;
        self.tally.recoveries.push(micros);
        Ok(server)
    }
}
