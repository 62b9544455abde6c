//! A broker that is gone for a while: publishing waits and then says so, subscriptions come back by
//! themselves, nothing is lost, and the health tells.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::{Bus, Limits, Subscription};
use fanfare_core::backend::Published;
use fanfare_core::capability::Dedup;
use fanfare_core::error::{ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::subscription::Start;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::broker::Fault;
use crate::case::{Failure, Verdict, cases, offered, require, require_eq, require_kind};
use crate::line::{Breakable, Line};
use crate::offer::NO_NETWORK;
use crate::stage::{BRIEF, Seat, Stage, event, events};

cases! { "gap";
    a_publish_waits_for_the_broker_to_come_back: 18;
    a_publish_fails_at_its_deadline: 18;
    an_answer_lost_on_the_way_is_unknown: 18, Dedup;
    a_subscription_comes_back_by_itself_and_loses_nothing: 18;
    what_was_handled_in_a_gap_is_settled_after_it: 18;
    the_health_tells_of_a_gap: 18;
    a_subscription_deleted_under_us_is_created_again: 18;
    a_lost_stream_goes_on_and_its_loss_is_told_once: 18;
}

/// How long a publish waits for its broker.
const DEADLINE: Duration = Duration::from_secs(2);
/// How much longer anything may take than it should, on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
/// A lease that outlasts a short gap.
const LEASE: Duration = Duration::from_secs(2);

/// A bus whose line to the broker can be broken.
struct Far {
    bus: Bus,
    line: Arc<dyn Line>,
}

impl Far {
    /// No connection lives, and none can be made.
    fn gap(&self) {
        self.line.set(Fault::Refuse);
        self.line.end(false);
    }

    fn mend(&self) {
        self.line.set(Fault::None);
    }

    /// Publishes, and again where what was sent met the break and nobody knows what became of it.
    async fn publish(&self, event: &Event) -> Result<Published> {
        let mut published = self.bus.publish(event).await;
        for _ in 0..2 {
            match published {
                Err(error) if error.kind() == ErrorKind::Unknown => {}
                known => return known,
            }
            published = self.bus.publish(event).await;
        }
        published
    }

    async fn end(self, stage: &Stage) -> Verdict {
        self.bus.shutdown(stage.patience).await?;
        Ok(())
    }
}

impl Stage {
    /// On the same stream as the stage's own backend.
    async fn far(&self) -> Verdict<Far> {
        let opened = self.target.open_breakable(&self.stream).await;
        let Breakable { backend, line } = offered(opened, NO_NETWORK)?;
        let limits = Limits {
            publish_timeout: DEADLINE,
            receive_wait: Duration::from_secs(1),
            reconnect_max: Duration::from_millis(300),
            ..Limits::default()
        };
        let bus = Bus::builder(backend).clock(self.clock.clone());
        Ok(Far {
            bus: bus.limits(limits).build()?,
            line,
        })
    }
}

impl Stage {
    /// So many events come, and no more. Where duplicates are not known, one that was published again
    /// may come again.
    async fn require_events(&self, seat: &Seat, count: usize) -> Verdict {
        if self.backend.capabilities().dedup != Dedup::None {
            return seat.finish(count).await.map(drop);
        }
        let mut ids = HashSet::new();
        while ids.len() < count {
            let next = seat.one().await?;
            seat.ack(std::slice::from_ref(&next)).await?;
            ids.insert(next.event.id().clone());
        }
        Ok(())
    }
}

async fn a_publish_waits_for_the_broker_to_come_back(stage: &Stage) -> Verdict {
    let far = stage.far().await?;
    let seat = stage.join_new("all", "**").await?;
    far.bus.publish(&event("orders.placed")?.build()?).await?;
    far.gap();
    let event = event("orders.placed")?.build()?;
    let (published, ()) = futures::join!(far.publish(&event), async {
        stage.clock.sleep(DEADLINE / 4).await;
        far.mend();
    });
    published?;
    stage.require_events(&seat, 2).await?;
    far.end(stage).await
}

async fn a_publish_fails_at_its_deadline(stage: &Stage) -> Verdict {
    let far = stage.far().await?;
    let seat = stage.join_new("all", "**").await?;
    far.bus.publish(&event("orders.placed")?.build()?).await?;
    far.gap();
    let event = event("orders.placed")?.build()?;
    let started = stage.clock.now();
    let error = far.publish(&event).await.err();
    let took = stage.clock.now().since(started);
    let kind = error.map(|error| error.kind());
    require_eq!(kind, Some(ErrorKind::Unavailable), "kind of the error");
    require!(took >= DEADLINE / 2, "it waited only {took:?}");
    require!(took <= DEADLINE + SLACK, "it took {took:?}");
    far.mend();
    far.publish(&event).await?;
    stage.require_events(&seat, 2).await?;
    far.end(stage).await
}

async fn an_answer_lost_on_the_way_is_unknown(stage: &Stage) -> Verdict {
    let far = stage.far().await?;
    let seat = stage.join_new("all", "**").await?;
    far.bus.publish(&event("orders.placed")?.build()?).await?;
    far.line.set(Fault::Blackhole);
    let event = event("orders.placed")?.build()?;
    require_kind!(far.bus.publish(&event).await, Unknown);
    far.mend();
    far.line.end(true);
    far.publish(&event).await?;
    require!(
        far.publish(&event).await?.duplicate,
        "the same event was stored again"
    );
    seat.finish(2).await?;
    far.end(stage).await
}

/// What a handler saw, each event once.
#[derive(Clone)]
struct Seen {
    ids: Arc<Mutex<HashSet<String>>>,
    count: Arc<watch::Sender<usize>>,
}

impl Seen {
    fn new() -> Self {
        Self {
            ids: Arc::default(),
            count: Arc::new(watch::Sender::new(0)),
        }
    }

    fn note(&self, event: &Event) {
        let mut ids = self.ids.lock();
        ids.insert(event.id().to_string());
        self.count.send_replace(ids.len());
    }

    async fn all(&self, events: usize, stage: &Stage, after: &str) -> Verdict {
        let mut count = self.count.subscribe();
        tokio::select! {
            _ = count.wait_for(|count| *count >= events) => Ok(()),
            () = stage.clock.sleep(stage.patience) => {
                let seen = *self.count.borrow();
                Err(Failure::new(format!("{seen} of {events} events came after {after}")))
            }
        }
    }
}

async fn subscribe(bus: &Bus, seen: &Seen) -> Verdict<Subscription> {
    let seen = seen.clone();
    let builder = bus.subscribe("all", "**").lease(LEASE);
    let started = builder.start(Start::Earliest).concurrency(4);
    Ok(started
        .handle(move |event: Event| {
            seen.note(&event);
            async {}
        })
        .await?)
}

async fn a_subscription_comes_back_by_itself_and_loses_nothing(stage: &Stage) -> Verdict {
    let far = stage.far().await?;
    let seen = Seen::new();
    let subscription = subscribe(&far.bus, &seen).await?;
    let mut published = 0;
    for (what, fault, reset) in [
        ("a refusal", Some(Fault::Refuse), Some(false)),
        ("silence", Some(Fault::Blackhole), None),
        ("a cut", None, Some(false)),
        ("a reset", None, Some(true)),
        (
            "a break in mid-answer",
            Some(Fault::BreakAfter(1_500)),
            Some(true),
        ),
    ] {
        if let Some(fault) = fault {
            far.line.set(fault);
        }
        if let Some(reset) = reset {
            far.line.end(reset);
        }
        // By the stage's own line, which is never broken.
        stage.publish_many("orders.placed", 10).await?;
        published += 10;
        stage.clock.sleep(BRIEF).await;
        far.mend();
        seen.all(published, stage, what).await?;
    }
    let until = stage.clock.now() + stage.patience;
    while stage.counts(subscription.name()).await?.unsettled() > 0 {
        require!(stage.clock.now() < until, "not everything is settled");
        stage.clock.sleep(Duration::from_millis(20)).await;
    }
    let counts = stage.counts(subscription.name()).await?;
    require_eq!(counts.dead, 0, "dead");
    if stage.backend.capabilities().audit {
        require_eq!(counts.acknowledged, 50, "acknowledged");
    }
    far.end(stage).await
}

async fn what_was_handled_in_a_gap_is_settled_after_it(stage: &Stage) -> Verdict {
    let far = stage.far().await?;
    let (started, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (started, gate) = (started.clone(), gate.clone());
        move || {
            let (started, gate) = (started.clone(), gate.clone());
            async move {
                started.add_permits(1);
                if let Ok(permit) = gate.acquire().await {
                    permit.forget();
                }
            }
        }
    };
    let subscription = far.bus.subscribe("all", "**").handle(handler).await?;
    stage.publish_many("orders.placed", 1).await?;
    let running = started.acquire().await;
    running.map_err(Failure::new)?.forget();
    far.gap();
    gate.add_permits(1);
    stage.clock.sleep(BRIEF).await;
    far.mend();
    tokio::select! {
        () = subscription.until(|stats| stats.acknowledged == 1) => {}
        () = stage.clock.sleep(stage.patience) => {
            return Err(Failure::new("what was handled in the gap was not settled"));
        }
    }
    let counts = stage.counts(subscription.name()).await?;
    require_eq!(counts.unsettled(), 0, "unsettled");
    if stage.backend.capabilities().audit {
        // Else a handle knows what it settled itself.
        require_eq!(counts.acknowledged, 1, "acknowledged");
    }
    require_eq!(started.available_permits(), 0, "further runs");
    far.end(stage).await
}

async fn the_health_tells_of_a_gap(stage: &Stage) -> Verdict {
    let far = stage.far().await?;
    let seen = Seen::new();
    subscribe(&far.bus, &seen).await?;
    stage.publish_many("orders.placed", 1).await?;
    seen.all(1, stage, "the start").await?;
    require!(far.bus.health().await.ok, "not healthy before the gap");
    for (before, fault) in [(1, Fault::Refuse), (2, Fault::Blackhole)] {
        far.line.set(fault);
        far.line.end(fault == Fault::Refuse);
        let asked = stage.clock.now();
        let health = far.bus.health().await;
        let took = stage.clock.now().since(asked);
        require!(!health.ok, "healthy without a broker: {health:?}");
        require!(took <= SLACK, "the health took {took:?}");
        far.mend();
        far.line.end(true);
        let until = stage.clock.now() + stage.patience;
        while !far.bus.health().await.ok {
            require!(stage.clock.now() < until, "not healthy after the gap");
            stage.clock.sleep(Duration::from_millis(20)).await;
        }
        stage.publish_many("orders.placed", 1).await?;
        seen.all(before + 1, stage, "it was healthy again").await?;
    }
    far.end(stage).await
}

async fn a_subscription_deleted_under_us_is_created_again(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let seen = Seen::new();
    let runs = Arc::new(watch::Sender::new(0));
    let handler = {
        let (seen, runs) = (seen.clone(), runs.clone());
        move |event: Event| {
            seen.note(&event);
            runs.send_modify(|runs| *runs += 1);
            async {}
        }
    };
    let builder = bus.subscribe("all", "**").start(Start::Earliest);
    let subscription = builder.handle(handler).await?;
    stage.publish(&events("orders.placed", 5)?).await?;
    subscription.until(|stats| stats.acknowledged == 5).await;
    let admin = stage.backend.admin();
    admin.delete(subscription.name(), true).await?;
    stage.publish(&events("orders.paid", 5)?).await?;
    seen.all(10, stage, "a deletion").await?;
    subscription.until(|stats| stats.acknowledged == 10).await;
    require_eq!(*runs.borrow(), 10, "runs for 10 events");
    bus.shutdown(stage.patience).await?;
    Ok(())
}

async fn a_lost_stream_goes_on_and_its_loss_is_told_once(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.lost", 5).await?;
    let lost = stage.target.lose(&stage.stream).await;
    offered(lost, "nobody else can delete its events")?;
    let until = stage.clock.now() + stage.patience;
    let losses = async || Verdict::Ok(stage.backend.admin().stats().await?.losses);
    while losses().await? == 0 {
        require!(stage.clock.now() < until, "the loss was not told");
        stage.clock.sleep(Duration::from_millis(50)).await;
    }
    let later = stage.publish_many("orders.placed", 5).await?;
    let mut missing: HashSet<_> = later.iter().map(|event| event.id().clone()).collect();
    while !missing.is_empty() && stage.clock.now() < until {
        // What was lost may still be in somebody's memory.
        let came = seat.consumer.receive(10, Duration::from_secs(1)).await?;
        seat.ack(&came).await?;
        for delivery in &came {
            missing.remove(delivery.event.id());
        }
    }
    require!(
        missing.is_empty(),
        "{} later events never came",
        missing.len()
    );
    require_eq!(losses().await?, 1, "losses told");
    Ok(())
}
