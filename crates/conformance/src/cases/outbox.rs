//! Events that are published within a transaction of the caller's own: its commit decides.

use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::Bus;
use fanfare_core::clock::Clock;
use fanfare_core::event::Event;
use fanfare_core::history::EventQuery;
use fanfare_core::position::Position;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use tokio::sync::Semaphore;

use crate::case::{Failure, Verdict, cases, offered, require_eq};
use crate::offer::NO_TRANSACTION;
use crate::random::Random;
use crate::stage::{Stage, events, keyed, number, ordered, require_same};
use crate::target::Target;

cases! { "outbox";
    what_is_committed_is_published_and_nothing_else: 17;
    what_commits_late_is_not_skipped: 17;
    the_order_of_a_key_is_that_of_its_commits: 17;
    a_forwarding_carries_what_was_committed: 17;
}

/// Who commits at once, each with a key of its own.
const WRITERS: usize = 6;
/// Transactions of each.
const TRANSACTIONS: usize = 12;

/// One transaction with these events; answers once it has ended.
async fn transact(
    target: &Arc<dyn Target>,
    stream: &str,
    events: &[Event],
    end: BoxFuture<'static, bool>,
) -> Verdict {
    let ended = target.transact(stream, events, end).await;
    offered(ended, NO_TRANSACTION)
}

impl Stage {
    async fn transact(&self, events: &[Event], commit: bool) -> Verdict {
        let end = async move { commit }.boxed();
        transact(&self.target, &self.stream, events, end).await
    }
}

async fn what_is_committed_is_published_and_nothing_else(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let kept = events("orders.placed", 3)?;
    stage.transact(&events("orders.gone", 3)?, false).await?;
    stage.transact(&kept, true).await?;
    stage.transact(&events("orders.gone", 1)?, false).await?;
    require_same(&seat.finish(3).await?, &kept)?;
    Ok(())
}

/// A reader that remembers only how far it came would pass the place that was drawn first.
async fn what_commits_late_is_not_skipped(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    for commit in [true, false] {
        let late = events("orders.late", 2)?;
        let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let end = {
            let (begun, gate) = (begun.clone(), gate.clone());
            async move {
                begun.add_permits(1);
                gate.acquire().await.is_ok_and(|permit| {
                    permit.forget();
                    commit
                })
            }
        };
        let others = async {
            tokio::select! {
                permit = begun.acquire() => permit.map_err(Failure::new)?.forget(),
                // Not offered: the transaction never begins.
                () = stage.clock.sleep(stage.patience) => return Ok(Vec::new()),
            }
            let others = stage.publish_many("orders.placed", 5).await?;
            // Whoever could pass the open transaction does so now.
            let early = seat
                .consumer
                .receive(10, Duration::from_millis(200))
                .await?;
            gate.add_permits(1);
            Verdict::Ok(vec![(others, early)])
        };
        let transaction = transact(&stage.target, &stage.stream, &late, end.boxed());
        let ((), others) = futures::try_join!(transaction, others)?;
        for (mut published, mut came) in others {
            published.extend(late.iter().filter(|_| commit).cloned());
            let missing = published.len().saturating_sub(came.len());
            came.extend(seat.take(missing).await?);
            require_same(&came, &published)?;
            seat.ack(&came).await?;
        }
        seat.nothing().await?;
    }
    Ok(())
}

/// Commits, or rolls back, some transactions one after the other; answers the numbers committed.
async fn write(
    target: Arc<dyn Target>,
    stream: String,
    key: String,
    mut random: Random,
) -> Verdict<Vec<u64>> {
    let clock = Clock::system();
    let all = keyed("orders.placed", &[&key], TRANSACTIONS * 3)?;
    let mut committed = Vec::new();
    for some in all.chunks(3) {
        let (pause, commit) = (random.below(15), random.chance(75));
        let clock = clock.clone();
        let end = async move {
            clock.sleep(Duration::from_millis(pause)).await;
            commit
        };
        transact(&target, &stream, some, end.boxed()).await?;
        if commit {
            committed.extend(some.iter().map(number).collect::<Verdict<Vec<_>>>()?);
        }
    }
    Ok(committed)
}

impl Stage {
    /// Writers at work together: what each committed, by key.
    async fn write_together(&self) -> Verdict<Vec<(String, Vec<u64>)>> {
        let writers = (0..WRITERS).map(|n| {
            let (target, stream) = (self.target.clone(), self.stream.clone());
            let key = format!("writer-{n}");
            let random = Random::new(self.seed.wrapping_add(n as u64));
            async move {
                let numbers = write(target, stream, key.clone(), random).await?;
                Verdict::Ok((key, numbers))
            }
        });
        try_join_all(writers).await
    }
}

fn require_order(came: &[Event], committed: &[(String, Vec<u64>)]) -> Verdict {
    for (key, numbers) in committed {
        let of_key = came.iter().filter(|event| event.key() == Some(key));
        let got = of_key.map(number).collect::<Verdict<Vec<_>>>()?;
        require_eq!(got, *numbers, "events of {key}");
    }
    Ok(())
}

async fn the_order_of_a_key_is_that_of_its_commits(stage: &Stage) -> Verdict {
    let seat = stage.join(&ordered("all", "**")?).await?;
    let committed = stage.write_together().await?;
    let total: usize = committed.iter().map(|(_, numbers)| numbers.len()).sum();
    let mut came = Vec::new();
    while came.len() < total {
        let one = seat.one().await?;
        seat.ack(std::slice::from_ref(&one)).await?;
        came.push(one.event);
    }
    seat.nothing().await?;
    require_order(&came, &committed)
}

async fn a_forwarding_carries_what_was_committed(stage: &Stage) -> Verdict {
    let from = stage.bus()?;
    let stream = format!("{}_forwarded", stage.stream);
    let target = stage.target.open(&stream).await?;
    let to = Bus::builder(target.clone())
        .clock(stage.clock.clone())
        .build()?;
    let forwarding = from.forward("forward", "**", &to).await?;
    let committed = stage.write_together().await?;
    let total: usize = committed.iter().map(|(_, numbers)| numbers.len()).sum();
    tokio::select! {
        () = forwarding.until(|stats| stats.acknowledged >= total as u64) => {}
        () = stage.clock.sleep(stage.patience) => {
            let stats = forwarding.stats();
            return Err(Failure::new(format!("{total} were committed: {stats:?}")));
        }
    }
    let query = EventQuery {
        after: Some(Position::START),
        limit: 1_000,
        ..EventQuery::default()
    };
    let Ok(history) = target.history() else {
        return Err(Failure::NotOffered("history is not full".into()));
    };
    let page = history.events(&query).await?;
    let arrived: Vec<Event> = page.items.into_iter().map(|item| item.event).collect();
    require_eq!(arrived.len(), total, "events forwarded");
    require_order(&arrived, &committed)?;
    from.shutdown(stage.patience).await?;
    to.shutdown(stage.patience).await?;
    Ok(())
}
