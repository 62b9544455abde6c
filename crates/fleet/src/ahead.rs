//! The log as a source: a member finds the next matching events in memory and asks the engine, in one
//! step, for a lease on them and on whatever is due.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::error::Result;
use fanfare_core::timestamp::Timestamp;
use tokio::sync::{Mutex, watch};

use crate::engine::{Answer, Ask, Engine, Granted, Page};
use crate::seat::Seat;
use crate::slot::Slot;
use crate::source::{Claimed, Source, Turn};
use crate::subscription::Stored;

/// The most events looked at before the frontier is moved over those that do not match.
const SCAN: usize = 50_000;
/// How often a claim is tried again at once when another member was quicker.
const ROUNDS: usize = 16;
/// How often an ephemeral subscription says that it lives.
const ALIVE: Duration = Duration::from_secs(10);

/// The log, ahead of what the subscription has claimed.
pub(crate) struct Ahead<E: Engine> {
    seat: Arc<Seat<E>>,
    place: Mutex<Place<E::Page>>,
}

/// How far this member has looked.
struct Place<P> {
    /// The subscription's, as last heard.
    frontier: u128,
    /// Nothing between the frontier and here matches.
    scanned: u128,
    /// Pages read ahead.
    pages: VecDeque<Arc<P>>,
    /// When an ephemeral subscription last said that it lives.
    alive: Timestamp,
}

/// The next events of the subscription that nobody has claimed.
struct Fresh<P> {
    events: Vec<(u128, Slot)>,
    scanned: u128,
    /// What was read ahead and lies behind `scanned`.
    pages: VecDeque<Arc<P>>,
}

enum Asked {
    Granted,
    Nothing(Option<Duration>),
    /// Something changed: look again.
    Again,
}

#[async_trait]
impl<E: Engine> Source for Ahead<E> {
    fn changed(&self) -> watch::Receiver<u64> {
        self.seat.engine().appended()
    }

    async fn claim(&self, turn: Turn) -> Result<Claimed> {
        let mut place = self.place.lock().await;
        let Turn { max, mut ask, .. } = turn;
        for _ in 0..ROUNDS {
            if self.seat.has_ready() {
                return Ok(Claimed::More);
            }
            let stored = self.seat.stored();
            let fresh = self.look(&stored, &mut place, max).await?;
            let behind = fresh.scanned > place.scanned && fresh.events.is_empty();
            if fresh.events.is_empty() && !ask {
                (place.scanned, place.pages) = (fresh.scanned, fresh.pages);
                return Ok(if behind {
                    Claimed::More
                } else {
                    Claimed::Nothing(None)
                });
            }
            let scanned = fresh.scanned;
            match self.ask(&stored, &mut place, fresh, max).await? {
                Asked::Granted => return Ok(Claimed::More),
                Asked::Nothing(_) if behind && place.frontier == scanned => {}
                Asked::Nothing(next) => {
                    self.say_alive(&stored, &mut place).await?;
                    return Ok(Claimed::Nothing(next));
                }
                Asked::Again => {}
            }
            ask = true;
        }
        Ok(Claimed::More)
    }

    async fn leave(&self) -> Result<()> {
        let _place = self.place.lock().await;
        Ok(())
    }
}

impl<E: Engine> Ahead<E> {
    pub(crate) fn new(seat: Arc<Seat<E>>) -> Self {
        let frontier = seat.stored().frontier;
        let place = Place {
            frontier,
            scanned: frontier,
            pages: VecDeque::new(),
            alive: seat.engine().clock().now(),
        };
        Self {
            seat,
            place: Mutex::new(place),
        }
    }

    /// Up to `max` matching events behind what was scanned. Takes the pages along: only who claims
    /// what was found gives them back, or a claim that fails would pass over what they no longer hold.
    async fn look(
        &self,
        stored: &Stored,
        place: &mut Place<E::Page>,
        max: usize,
    ) -> Result<Fresh<E::Page>> {
        let mut fresh = Fresh {
            events: Vec::new(),
            scanned: place.scanned,
            pages: std::mem::take(&mut place.pages),
        };
        let mut looked = 0;
        loop {
            while let Some(page) = fresh.pages.front()
                && page.last() <= fresh.scanned
            {
                fresh.pages.pop_front();
            }
            if fresh.pages.is_empty() {
                fresh.pages = self.seat.engine().after(fresh.scanned).await?.into();
            }
            let Some(page) = fresh.pages.front().cloned() else {
                return Ok(fresh);
            };
            for (position, slot) in page.after(fresh.scanned) {
                if fresh.events.len() == max {
                    return Ok(fresh);
                }
                if stored.matches(position, slot) {
                    fresh.events.push((position, slot.clone()));
                }
                looked += 1;
                fresh.scanned = position;
            }
            fresh.scanned = page.end();
            if fresh.events.len() == max || looked >= SCAN {
                return Ok(fresh);
            }
        }
    }

    async fn ask(
        &self,
        stored: &Stored,
        place: &mut Place<E::Page>,
        fresh: Fresh<E::Page>,
        max: usize,
    ) -> Result<Asked> {
        let asked = self.seat.engine().clock().now();
        let ask = Ask {
            frontier: place.frontier,
            reached: fresh.scanned,
            ..self.seat.ask(stored, max, &fresh.events)
        };
        let granted = match self.seat.engine().claim(&ask).await? {
            Answer::Granted(granted) => granted,
            answer @ (Answer::Gone | Answer::Stale) => {
                let is_gone = matches!(answer, Answer::Gone);
                place.frontier = self.seat.renew(stored, is_gone).await?.frontier;
                place.scanned = place.frontier;
                return Ok(Asked::Again);
            }
            Answer::Bury(positions) => {
                self.seat.bury(stored, &positions).await?;
                return Ok(Asked::Again);
            }
        };
        let expected = place.frontier;
        place.frontier = granted.frontier;
        place.scanned = granted.frontier;
        let scanned = fresh.scanned;
        if granted.frontier >= scanned {
            // Else some of it is still to be claimed.
            place.pages = fresh.pages;
        }
        if granted.epoch == 0 {
            let raced = granted.frontier != expected && granted.frontier != scanned;
            return Ok(if raced {
                Asked::Again
            } else {
                Asked::Nothing(granted.next)
            });
        }
        self.hand_out(stored, granted, fresh.events, asked).await?;
        Ok(Asked::Granted)
    }

    async fn hand_out(
        &self,
        stored: &Stored,
        granted: Granted,
        fresh: Vec<(u128, Slot)>,
        asked: Timestamp,
    ) -> Result<()> {
        let mut known: BTreeMap<u128, Slot> = BTreeMap::new();
        let mut order = granted.due;
        if stored.spec.ordered {
            known.extend(fresh);
        } else {
            for (position, slot) in fresh.into_iter().take(granted.fresh) {
                order.push((position, 1));
                known.insert(position, slot);
            }
        }
        let until = asked + stored.spec.lease;
        self.seat
            .hand_out(stored, granted.epoch, order, known, until)
            .await
    }

    async fn say_alive(&self, stored: &Stored, place: &mut Place<E::Page>) -> Result<()> {
        let now = self.seat.engine().clock().now();
        if stored.spec.ephemeral && now.since(place.alive) >= ALIVE {
            place.alive = now;
            self.seat.engine().say_alive(self.seat.name()).await?;
        }
        Ok(())
    }
}
