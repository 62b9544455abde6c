//! The clients: they publish, pull and settle all the time, write down each thing before and after
//! they do it, and notice what was in flight when something died. They never die themselves.
//!
//! With one server they stop when it fails and wait to be told of its successor. With several they go
//! on by themselves: with the same one after it refused, with another after it died.

mod consumer;
mod flight;
mod publisher;
mod pulse;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::chance::{self, Dice};
use super::http::{Failure, Http};
use super::record::{Entry, Record};
use crate::Result;
use flight::{Cargo, Flights};
use pulse::Pulse;

pub(super) use consumer::{ORDERED, SUBSCRIPTIONS};
pub(super) use flight::InFlight;
pub(super) use publisher::{key, publisher};

/// Publishers of one event at a time, and of batches.
const PUBLISHERS: [usize; 3] = [1, 1, 8];
/// Consumers of each subscription.
const CONSUMERS: usize = 2;
/// All of them.
const CLIENTS: usize = PUBLISHERS.len() + SUBSCRIPTIONS.len() * CONSUMERS;
/// The longest a client may take to notice that the server is gone.
const PATIENCE: Duration = Duration::from_secs(40);
/// Before a client tries again where there are several servers.
const AGAIN: Duration = Duration::from_millis(20);
/// Between two publishes of one publisher where there are several servers, so that the long faults
/// leave a record that can be read; not while a fault is about to come.
const EASE: Duration = Duration::from_millis(3);

/// What the clients do now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// No server.
    Parked,
    /// Everything, against these addresses.
    Running(Vec<String>),
    /// Only consume.
    Draining(Vec<String>),
    /// Return.
    Over,
}

#[derive(Debug)]
struct Turn {
    phase: Phase,
    number: u64,
    parked: usize,
}

/// All clients together.
#[derive(Debug)]
pub(super) struct Load {
    turn: Mutex<Turn>,
    changed: Condvar,
    flights: Flights,
    pulse: Pulse,
    eager: AtomicBool,
    pub(super) record: Record,
}

impl Load {
    pub(super) fn new(record: Record) -> Self {
        let turn = Turn {
            phase: Phase::Parked,
            number: 0,
            parked: 0,
        };
        Self {
            turn: Mutex::new(turn),
            changed: Condvar::new(),
            flights: Flights::default(),
            pulse: Pulse::default(),
            eager: AtomicBool::new(false),
            record,
        }
    }

    /// Starts every client; they wait until there is a server.
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        seed: u64,
    ) {
        let mut dice = Dice::new(seed);
        for (number, batch) in PUBLISHERS.into_iter().enumerate() {
            let mut publisher = publisher::Publisher::new(number, batch, dice.roll(u64::MAX));
            scope.spawn(move || self.client(number, |load, http| publisher.step(load, http)));
        }
        let consumers = SUBSCRIPTIONS.into_iter().cycle();
        for (number, sub) in (PUBLISHERS.len()..CLIENTS).zip(consumers) {
            let mut consumer = consumer::Consumer::new(sub, dice.roll(u64::MAX));
            scope.spawn(move || self.client(number, |load, http| consumer.step(load, http)));
        }
    }

    /// Publish and consume.
    pub(super) fn run(&self, addresses: &[&str]) {
        self.enter(Phase::Running(owned(addresses)));
    }

    /// Only consume.
    pub(super) fn drain(&self, addresses: &[&str]) {
        self.enter(Phase::Draining(owned(addresses)));
    }

    /// Whether publishers take no breath, because a fault is about to come.
    pub(super) fn hurry(&self, eager: bool) {
        self.eager.store(eager, Ordering::Relaxed);
    }

    /// Waits until a publish and a settlement are on their way at once, or `patience` is over.
    pub(super) fn busy(&self, patience: Duration) {
        self.flights.busy(patience);
    }

    /// What was in flight at `moment` (microseconds since 1970), just before a fault.
    pub(super) fn in_flight(&self, moment: u64) -> InFlight {
        self.flights.at(moment)
    }

    /// Waits until every publisher was acknowledged after `moment`, when a fault ended, and answers how
    /// long that took in microseconds; none if it took longer than `patience`.
    pub(super) fn publishing_since(&self, moment: u64, patience: Duration) -> Option<u64> {
        self.pulse.since(moment);
        self.pulse.publishing(patience)
    }

    /// The same for a delivery on each subscription, after [`Load::publishing_since`].
    pub(super) fn delivering(&self, patience: Duration) -> Option<u64> {
        self.pulse.delivering(patience)
    }

    /// The longest publish, settlement and pull so far, in microseconds.
    pub(super) fn longest_calls(&self) -> [u64; 3] {
        self.flights.longest()
    }

    /// Ends all clients.
    pub(super) fn end(&self) {
        self.enter(Phase::Over);
    }

    /// Waits until every client has noticed, and answers what had left before `moment`
    /// (microseconds since 1970) without ever being answered.
    pub(super) fn park(&self, moment: u64) -> Result<InFlight> {
        self.enter(Phase::Parked);
        let (turn, waited) = self
            .changed
            .wait_timeout_while(self.turn(), PATIENCE, |turn| turn.parked < CLIENTS)
            .unwrap_or_else(PoisonError::into_inner);
        drop(turn);
        if waited.timed_out() {
            return Err("a client still waits for a server that is gone".into());
        }
        Ok(self.flights.at(moment))
    }

    fn enter(&self, phase: Phase) {
        let mut turn = self.turn();
        turn.phase = phase;
        turn.number += 1;
        self.changed.notify_all();
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One client: parks while there is no server, else goes from one to the next as they fail.
    fn client(&self, number: usize, mut step: impl FnMut(&Self, &mut Connection) -> Result) {
        let mut seen = 0;
        while let Some((turn, servers)) = self.next_turn(seen) {
            seen = turn;
            let several = servers.len() > 1;
            let order = servers.iter().cycle().skip(number % servers.len().max(1));
            for address in order {
                if let Ok(http) = Http::connect(address) {
                    self.stay(
                        turn,
                        &mut Connection {
                            http,
                            number,
                            several,
                            alive: true,
                        },
                        &mut step,
                    );
                }
                if !several || self.turn().number != turn {
                    break;
                }
                chance::pause(AGAIN);
            }
        }
    }

    /// Step after step on one connection.
    fn stay(
        &self,
        turn: u64,
        connection: &mut Connection,
        step: &mut impl FnMut(&Self, &mut Connection) -> Result,
    ) {
        while connection.alive && self.turn().number == turn {
            if let Err(error) = step(self, connection) {
                self.wrong(&format!("the harness itself: {error}"));
                break;
            }
        }
    }

    /// None when all is over.
    fn next_turn(&self, seen: u64) -> Option<(u64, Vec<String>)> {
        let mut turn = self.turn();
        turn.parked += 1;
        self.changed.notify_all();
        let parked = |turn: &mut Turn| turn.number == seen || turn.phase == Phase::Parked;
        let mut turn = self
            .changed
            .wait_while(turn, parked)
            .unwrap_or_else(PoisonError::into_inner);
        turn.parked -= 1;
        match &turn.phase {
            Phase::Running(addresses) | Phase::Draining(addresses) => {
                Some((turn.number, addresses.clone()))
            }
            Phase::Parked | Phase::Over => None,
        }
    }

    fn is_draining(&self) -> bool {
        matches!(self.turn().phase, Phase::Draining(_))
    }

    /// Something that must never be. The record is all we have, so a failure to write there is
    /// found when the record is read.
    pub(super) fn wrong(&self, what: &str) {
        let what = what.to_owned();
        let _ = self.record.add(&[Entry::Wrong { what }]);
    }
}

fn owned(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|address| (*address).into()).collect()
}

/// A client's connection, left alone once it broke or the only server refused.
#[derive(Debug)]
struct Connection {
    http: Http,
    /// The client's.
    number: usize,
    several: bool,
    alive: bool,
}

impl Connection {
    /// None when the outcome is not known: the connection broke, or the server answered that it
    /// could not (5xx), as it does between a power cut and its end, or while its broker is gone.
    fn post(
        &mut self,
        load: &Load,
        cargo: Cargo,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> Option<serde_json::Value> {
        load.flights.begin(self.number, cargo);
        let before = chance::now();
        let answer = self.http.call("POST", path, content_type, body);
        if let Some((cargo, took)) = load.flights.end(self.number).filter(|_| self.several) {
            load.wrong(&format!("a {cargo:?} took {took:?}, longer than its bound"));
        }
        match answer {
            Ok(answer) if answer.is_good() => return Some(answer.body),
            Ok(answer) => {
                if answer.status >= 500 {
                    load.flights.broke_off(cargo, before);
                } else {
                    let (status, body) = (answer.status, answer.body);
                    load.wrong(&format!("POST {path} was answered {status} {body}"));
                }
                self.alive = self.several;
            }
            Err(failure) => {
                if let Failure::NoAnswer { sent } = failure {
                    load.flights.broke_off(cargo, sent);
                }
                self.alive = false;
            }
        }
        if self.several {
            chance::pause(AGAIN);
        }
        None
    }

    /// Between two publishes.
    fn breathe(&self, load: &Load) {
        if self.several && !load.eager.load(Ordering::Relaxed) {
            chance::pause(EASE);
        }
    }
}
