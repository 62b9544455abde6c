//! The clients: they publish, pull and settle all the time, write down each thing before and after
//! they do it, and notice what was in flight when the server died. They never die themselves.

mod consumer;
mod publisher;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::chance::Dice;
use super::http::{Failure, Http};
use super::record::{Entry, Record};
use crate::Result;

pub(super) use consumer::{ORDERED, SUBSCRIPTIONS};
pub(super) use publisher::key;

/// Publishers of one event at a time, and of batches.
const PUBLISHERS: [usize; 3] = [1, 1, 8];
/// Consumers of each subscription.
const CONSUMERS: usize = 2;
/// The longest a client may take to notice that the server is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the clients do now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// No server.
    Parked,
    /// Everything, against this address.
    Running(String),
    /// Only consume.
    Draining(String),
    /// Return.
    Over,
}

#[derive(Debug)]
struct Turn {
    phase: Phase,
    number: u64,
    parked: usize,
}

/// What was on its way when the connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cargo {
    Publish,
    Settlement,
}

/// Requests that left before a moment and were never answered.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct InFlight {
    pub(super) publishes: usize,
    pub(super) settlements: usize,
}

/// All clients together.
#[derive(Debug)]
pub(super) struct Load {
    turn: Mutex<Turn>,
    changed: Condvar,
    broken_off: Mutex<Vec<(Cargo, u64)>>,
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
            broken_off: Mutex::default(),
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
        for (number, batch) in (0..).zip(PUBLISHERS) {
            let mut publisher = publisher::Publisher::new(number, batch, dice.roll(u64::MAX));
            scope.spawn(move || self.client(|load, http| publisher.step(load, http)));
        }
        for sub in SUBSCRIPTIONS {
            for _ in 0..CONSUMERS {
                let mut consumer = consumer::Consumer::new(sub, dice.roll(u64::MAX));
                scope.spawn(move || self.client(|load, http| consumer.step(load, http)));
            }
        }
    }

    /// Publish and consume.
    pub(super) fn run(&self, address: &str) {
        self.enter(Phase::Running(address.into()));
    }

    /// Only consume.
    pub(super) fn drain(&self, address: &str) {
        self.enter(Phase::Draining(address.into()));
    }

    /// Ends all clients.
    pub(super) fn end(&self) {
        self.enter(Phase::Over);
    }

    /// Waits until every client has noticed, and answers what had left before `moment`
    /// (microseconds since 1970) without ever being answered.
    pub(super) fn park(&self, moment: u64) -> Result<InFlight> {
        self.enter(Phase::Parked);
        let clients = PUBLISHERS.len() + SUBSCRIPTIONS.len() * CONSUMERS;
        let (turn, waited) = self
            .changed
            .wait_timeout_while(self.turn(), PATIENCE, |turn| turn.parked < clients)
            .unwrap_or_else(PoisonError::into_inner);
        drop(turn);
        if waited.timed_out() {
            return Err("a client still waits for a server that is gone".into());
        }
        let mut broken_off = self
            .broken_off
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = |cargo| {
            let before = |(kind, sent): &&(Cargo, u64)| *kind == cargo && *sent < moment;
            broken_off.iter().filter(before).count()
        };
        let in_flight = InFlight {
            publishes: count(Cargo::Publish),
            settlements: count(Cargo::Settlement),
        };
        broken_off.clear();
        Ok(in_flight)
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

    /// One client: parks while there is no server, else takes step after step on one connection.
    fn client(&self, mut step: impl FnMut(&Self, &mut Connection) -> Result) {
        let mut seen = 0;
        while let Some((number, address)) = self.next_turn(seen) {
            seen = number;
            let Ok(http) = Http::connect(&address) else {
                continue;
            };
            let mut connection = Connection { http, alive: true };
            while connection.alive && self.turn().number == number {
                if let Err(error) = step(self, &mut connection) {
                    self.wrong(&format!("the harness itself: {error}"));
                    break;
                }
            }
        }
    }

    /// None when all is over.
    fn next_turn(&self, seen: u64) -> Option<(u64, String)> {
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
            Phase::Running(address) | Phase::Draining(address) => {
                Some((turn.number, address.clone()))
            }
            Phase::Parked | Phase::Over => None,
        }
    }

    fn is_draining(&self) -> bool {
        matches!(self.turn().phase, Phase::Draining(_))
    }

    /// Notes that a request broke off.
    fn broke_off(&self, cargo: Cargo, failure: &Failure) {
        if let Failure::NoAnswer { sent } = failure {
            let mut broken_off = self
                .broken_off
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            broken_off.push((cargo, *sent));
        }
    }

    /// Something that must never be. The record is all we have, so a failure to write there is
    /// found when the record is read.
    pub(super) fn wrong(&self, what: &str) {
        let what = what.to_owned();
        let _ = self.record.add(&[Entry::Wrong { what }]);
    }
}

/// A connection that is left alone once it broke or the server refused.
#[derive(Debug)]
struct Connection {
    http: Http,
    alive: bool,
}

impl Connection {
    /// None when the outcome is not known: the connection broke, or the server answered that it
    /// could not (5xx), as it does between a power cut and its end.
    fn post(
        &mut self,
        load: &Load,
        cargo: Option<Cargo>,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> Option<serde_json::Value> {
        let before = super::chance::now();
        match self.http.call("POST", path, content_type, body) {
            Ok(answer) if answer.is_good() => return Some(answer.body),
            Ok(answer) if answer.status >= 500 => {
                if let Some(cargo) = cargo {
                    load.broke_off(cargo, &Failure::NoAnswer { sent: before });
                }
            }
            Ok(answer) => {
                let (status, body) = (answer.status, answer.body);
                load.wrong(&format!("POST {path} was answered {status} {body}"));
            }
            Err(failure) => {
                if let Some(cargo) = cargo {
                    load.broke_off(cargo, &failure);
                }
            }
        }
        self.alive = false;
        None
    }
}
