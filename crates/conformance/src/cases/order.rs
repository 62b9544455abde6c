//! Order by key, for backends whose members share the keys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::subscription::OnDead;

use crate::case::{Failure, Verdict, cases, require, require_eq};
use crate::random::Random;
use crate::stage::{SHORT_LEASE, Seat, Stage, dead, every_letter, keyed, number, ordered, retry};

cases! { "order";
    one_event_of_a_key_at_a_time: 11 + live;
    a_retry_holds_its_key_and_no_other: 11 + live;
    a_release_does_not_let_the_next_of_its_key_pass: 11 + live;
    a_takeover_keeps_the_order: 11 + live;
    events_without_a_key_do_not_wait_for_each_other: 11 + live;
    order_holds_whatever_the_members_do: 11 + live;
    a_key_goes_on_after_its_dead_letter: 11 + live;
    a_key_parks_behind_its_dead_letter: 11, Park;
    a_parked_key_goes_on_after_a_redrive: 11, Park;
    a_parked_key_goes_on_after_a_discard: 11, Park;
}

/// Key and number of a delivery.
fn place(delivery: &Delivery) -> Verdict<(String, u64)> {
    let key = delivery.event.key().unwrap_or_default().to_owned();
    Ok((key, number(&delivery.event)?))
}

async fn require_next(seat: &Seat, expected: &[(&str, u64)]) -> Verdict<Vec<Delivery>> {
    let came = seat.take(expected.len()).await?;
    seat.nothing().await?;
    let mut places = came.iter().map(place).collect::<Verdict<Vec<_>>>()?;
    places.sort();
    let expected: Vec<_> = expected
        .iter()
        .map(|(key, n)| ((*key).to_owned(), *n))
        .collect();
    require_eq!(places, expected, "keys and numbers that came");
    Ok(came)
}

async fn one_event_of_a_key_at_a_time(stage: &Stage) -> Verdict {
    let first = stage.join(&ordered("all", "**")?).await?;
    let second = stage.rejoin(&first.subscription).await?;
    stage
        .publish(&keyed("orders.placed", &["a", "b", "c"], 10)?)
        .await?;
    for n in 0..10 {
        let (one, other) = if n % 2 == 0 {
            (&first, &second)
        } else {
            (&second, &first)
        };
        let came = require_next(one, &[("a", n), ("b", n), ("c", n)]).await?;
        other.nothing_for(Duration::ZERO).await?;
        one.ack(&came).await?;
    }
    first.nothing().await
}

async fn a_retry_holds_its_key_and_no_other(stage: &Stage) -> Verdict {
    let seat = stage.join(&ordered("all", "**")?).await?;
    stage
        .publish(&keyed("orders.placed", &["a", "b"], 3)?)
        .await?;
    for delivery in require_next(&seat, &[("a", 0), ("b", 0)]).await? {
        let settlement = match delivery.event.key() {
            Some("a") => retry(Duration::from_secs(2)),
            _ => Settlement::Ack,
        };
        seat.settle(&delivery, settlement).await?;
    }
    for n in 1..3 {
        let came = seat.one().await?;
        require_eq!(
            place(&came)?,
            ("b".to_owned(), n),
            "next while the retry waits"
        );
        seat.ack(&[came]).await?;
    }
    for n in 0..3 {
        let came = seat.one().await?;
        require_eq!(place(&came)?, ("a".to_owned(), n), "next after the retry");
        seat.ack(&[came]).await?;
    }
    Ok(())
}

async fn a_release_does_not_let_the_next_of_its_key_pass(stage: &Stage) -> Verdict {
    let seat = stage.join(&ordered("all", "**")?).await?;
    stage.publish(&keyed("orders.placed", &["a"], 3)?).await?;
    for _ in 0..5 {
        let came = require_next(&seat, &[("a", 0)]).await?;
        for delivery in came {
            seat.settle(&delivery, Settlement::Release).await?;
        }
    }
    for n in 0..3 {
        let came = require_next(&seat, &[("a", n)]).await?;
        seat.ack(&came).await?;
    }
    Ok(())
}

async fn a_takeover_keeps_the_order(stage: &Stage) -> Verdict {
    let mut spec = ordered("all", "**")?;
    spec.lease = SHORT_LEASE;
    let dying = stage.join(&spec).await?;
    stage
        .publish(&keyed("orders.placed", &["a", "b"], 3)?)
        .await?;
    dying.take(2).await?;
    let heir = stage.rejoin(&dying.subscription).await?;
    settle_all(&heir, 6, &mut Checker::default()).await
}

/// Acknowledges until `count` have counted, in order per key.
async fn settle_all(seat: &Seat, count: usize, checker: &mut Checker) -> Verdict {
    while checker.settled < count {
        let came = seat.consumer.receive(10, seat.patience).await?;
        require!(!came.is_empty(), "only {} of {count} came", checker.settled);
        for delivery in came {
            checker.came(&delivery)?;
            let settled = seat.try_settle(delivery.receipt, Settlement::Ack).await?;
            checker.answered(&delivery, &Settlement::Ack, settled)?;
        }
    }
    Ok(())
}

async fn events_without_a_key_do_not_wait_for_each_other(stage: &Stage) -> Verdict {
    let seat = stage.join(&ordered("all", "**")?).await?;
    stage.publish_many("orders.placed", 50).await?;
    let came = seat.take(50).await?;
    seat.ack(&came).await
}

/// Knows which event of each key must be next, from nothing but what was received and settled.
#[derive(Default)]
pub(super) struct Checker {
    next: BTreeMap<String, u64>,
    /// Keys that wait behind a dead letter; none where they go on.
    parked: Option<BTreeSet<String>>,
    pub(super) settled: usize,
}

impl Checker {
    /// For a subscription whose keys park.
    pub(super) fn parking() -> Self {
        Self {
            parked: Some(BTreeSet::new()),
            ..Self::default()
        }
    }

    /// A delivery came: nothing of its key before it may be unsettled, nothing may come again.
    pub(super) fn came(&self, delivery: &Delivery) -> Verdict {
        let (key, number) = place(delivery)?;
        let next = self.next.get(&key).copied().unwrap_or(0);
        require_eq!(number, next, "event of key {key}");
        let parked = self
            .parked
            .as_ref()
            .is_some_and(|parked| parked.contains(&key));
        require!(!parked, "event {number} of parked key {key} came");
        Ok(())
    }

    pub(super) fn answered(
        &mut self,
        delivery: &Delivery,
        with: &Settlement,
        settled: Settled,
    ) -> Verdict {
        if settled != Settled::Done {
            return Ok(());
        }
        let key = place(delivery)?.0;
        match (with, &mut self.parked) {
            (Settlement::DeadLetter { .. }, Some(parked)) => {
                parked.insert(key);
            }
            (Settlement::Ack | Settlement::Drop | Settlement::DeadLetter { .. }, _) => {
                self.goes_on(key);
            }
            (Settlement::Retry { .. } | Settlement::Release, _) => {}
        }
        Ok(())
    }

    /// The dead letter that the key was parked behind came back, or was discarded.
    pub(super) fn unparked(&mut self, key: &str, discarded: bool) {
        if let Some(parked) = &mut self.parked {
            parked.remove(key);
        }
        if discarded {
            self.goes_on(key.to_owned());
        }
    }

    fn goes_on(&mut self, key: String) {
        *self.next.entry(key).or_default() += 1;
        self.settled += 1;
    }
}

pub(super) fn any_settlement(random: &mut Random) -> Option<Settlement> {
    Some(match random.below(100) {
        0..60 => Settlement::Ack,
        60..66 => Settlement::Drop,
        66..72 => dead("rejected"),
        72..80 => Settlement::Release,
        80..97 => retry(Duration::from_millis(random.below(30))),
        // The member forgets it: its lease ends and somebody takes over.
        _ => return None,
    })
}

async fn order_holds_whatever_the_members_do(stage: &Stage) -> Verdict {
    let mut spec = ordered("all", "**")?;
    spec.lease = SHORT_LEASE;
    spec.retry.max_attempts = 1_000;
    let seat = stage.join(&spec).await?;
    let seats = [
        seat,
        stage.rejoin(&spec.name).await?,
        stage.rejoin(&spec.name).await?,
    ];
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let published = keyed("orders.placed", &keys, 25)?;
    stage.publish(&published).await?;

    let mut random = stage.random();
    let mut checker = Checker::default();
    let mut idle = 0;
    while checker.settled < published.len() {
        let seat = random
            .pick(&seats)
            .ok_or_else(|| Failure::new("no member"))?;
        let most = 1 + usize::try_from(random.below(6)).unwrap_or(0);
        let came = seat.consumer.receive(most, SHORT_LEASE / 2).await?;
        idle = if came.is_empty() { idle + 1 } else { 0 };
        require!(
            idle < 100,
            "nothing comes, {} of {} settled",
            checker.settled,
            published.len()
        );
        for delivery in came {
            checker.came(&delivery)?;
            if let Some(with) = any_settlement(&mut random) {
                let settled = seat.try_settle(delivery.receipt, with.clone()).await?;
                checker.answered(&delivery, &with, settled)?;
            }
        }
    }
    Ok(())
}

/// An ordered subscription with keys a and b, where the first event of a is dead.
async fn with_dead_head(stage: &Stage, on_dead: OnDead) -> Verdict<Seat> {
    let mut spec = ordered("all", "**")?;
    spec.on_dead = on_dead;
    let seat = stage.join(&spec).await?;
    stage
        .publish(&keyed("orders.placed", &["a", "b"], 3)?)
        .await?;
    for delivery in require_next(&seat, &[("a", 0), ("b", 0)]).await? {
        let settlement = match delivery.event.key() {
            Some("a") => dead("rejected"),
            _ => Settlement::Ack,
        };
        seat.settle(&delivery, settlement).await?;
    }
    Ok(seat)
}

async fn a_key_goes_on_after_its_dead_letter(stage: &Stage) -> Verdict {
    let seat = with_dead_head(stage, OnDead::Continue).await?;
    for n in 1..3 {
        let came = require_next(&seat, &[("a", n), ("b", n)]).await?;
        seat.ack(&came).await?;
    }
    Ok(())
}

async fn a_key_parks_behind_its_dead_letter(stage: &Stage) -> Verdict {
    let seat = with_dead_head(stage, OnDead::Park).await?;
    for n in 1..3 {
        let came = require_next(&seat, &[("b", n)]).await?;
        seat.ack(&came).await?;
    }
    stage.publish(&keyed("orders.paid", &["a"], 1)?).await?;
    seat.nothing().await?;
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!(
        (counts.dead, counts.waiting),
        (1, 3),
        "dead, waiting behind it"
    );
    Ok(())
}

/// Key a, which was parked, goes on from `from`; key b beside it.
async fn goes_on(seat: &Seat, from: u64) -> Verdict {
    let mut expected = BTreeMap::from([("a".to_owned(), from), ("b".to_owned(), 1)]);
    let left = 5 - from;
    for _ in 0..left {
        let came = seat.one().await?;
        let (key, number) = place(&came)?;
        let next = expected
            .get_mut(&key)
            .ok_or_else(|| Failure::new("another key"))?;
        require_eq!(number, *next, "event of key {key}");
        *next += 1;
        seat.ack(&[came]).await?;
    }
    seat.nothing().await
}

async fn a_parked_key_goes_on_after_a_redrive(stage: &Stage) -> Verdict {
    let seat = with_dead_head(stage, OnDead::Park).await?;
    let everything = every_letter();
    let acted = stage
        .backend
        .dead_letters()
        .redrive(&everything, 10)
        .await?;
    require_eq!(acted.done, 1, "redriven");
    goes_on(&seat, 0).await
}

async fn a_parked_key_goes_on_after_a_discard(stage: &Stage) -> Verdict {
    let seat = with_dead_head(stage, OnDead::Park).await?;
    let everything = every_letter();
    let acted = stage.backend.dead_letters().discard(&everything).await?;
    require_eq!(acted.done, 1, "discarded");
    goes_on(&seat, 1).await
}
