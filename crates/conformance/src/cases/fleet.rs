//! Several processes on one stream: they share what there is, wake each other, keep the order of
//! keys between them, and one that is gone without a word loses its work to the others.
//!
//! Another process is, to a backend, another handle on a runtime of its own, and its death the end
//! of that runtime: nothing is closed, nothing is dropped, nobody beats for it any more.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::backend::Backend;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::error::Result;
use fanfare_core::subscription::SubscriptionName;
use tokio::runtime::{Builder, Runtime};

use crate::case::{Failure, Verdict, cases, require, require_eq};
use crate::stage::{Stage, events, keyed, number, ordered, require_same, short_lease, spec};

cases! { "fleet";
    members_of_two_processes_get_each_event_once: 7, Shared;
    a_publish_wakes_a_member_of_another_process: 7, Shared + live;
    what_a_lost_process_held_goes_to_another_when_its_lease_ends: 8, Shared;
    the_order_of_keys_holds_across_processes: 11, Shared;
}

/// How much later than the end of a lease its work may come elsewhere, on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// A process beside ours.
struct Process {
    backend: Arc<dyn Backend>,
    runtime: Option<Runtime>,
}

impl Process {
    async fn start(stage: &Stage) -> Verdict<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(Failure::new)?;
        let (target, stream) = (stage.target.clone(), stage.stream.clone());
        let opening = runtime.spawn(async move { target.open(&stream).await });
        Ok(Self {
            backend: opening.await??,
            runtime: Some(runtime),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Verdict<T> {
        match &self.runtime {
            Some(runtime) => Ok(runtime.spawn(work).await??),
            None => Err(Failure::new("this process is gone")),
        }
    }

    async fn join(&self, name: &SubscriptionName) -> Verdict<Arc<dyn Consumer>> {
        let (backend, name) = (self.backend.clone(), name.clone());
        let member = Member {
            name: "elsewhere".into(),
            kind: MemberKind::Embedded,
        };
        self.run(async move { backend.consume(&name, member).await })
            .await
    }

    async fn receive(&self, seat: &Arc<dyn Consumer>, max: usize) -> Verdict<Vec<Delivery>> {
        let seat = seat.clone();
        self.run(async move { seat.receive(max, Duration::from_millis(50)).await })
            .await
    }

    async fn ack(&self, seat: &Arc<dyn Consumer>, deliveries: &[Delivery]) -> Verdict {
        let all = deliveries.iter().map(|d| (d.receipt, Settlement::Ack));
        let (seat, all) = (seat.clone(), all.collect());
        self.run(async move { seat.settle(all).await }).await?;
        Ok(())
    }

    async fn end(self) -> Verdict {
        let backend = self.backend.clone();
        self.run(async move { backend.close().await }).await
    }

    /// Without a word.
    fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.die();
    }
}

async fn members_of_two_processes_get_each_event_once(stage: &Stage) -> Verdict {
    let here = stage.join(&spec("all", "**")?).await?;
    let process = Process::start(stage).await?;
    let there = process.join(&here.subscription).await?;
    let mut published = stage.publish_many("orders.placed", 100).await?;
    let theirs = events("orders.paid", 100)?;
    published.extend(theirs.clone());
    let backend = process.backend.clone();
    process
        .run(async move { backend.publish(&theirs).await })
        .await?;
    let until = stage.clock.now() + stage.patience;
    let mut came = Vec::new();
    while came.len() < published.len() && stage.clock.now() < until {
        let mine = here.consumer.receive(7, Duration::from_millis(50)).await?;
        here.ack(&mine).await?;
        let other = process.receive(&there, 11).await?;
        process.ack(&there, &other).await?;
        came.extend(mine);
        came.extend(other);
    }
    require_same(&came, &published)?;
    here.nothing().await?;
    process.end().await
}

async fn a_publish_wakes_a_member_of_another_process(stage: &Stage) -> Verdict {
    let here = stage.join(&spec("all", "**")?).await?;
    let process = Process::start(stage).await?;
    // The other process may be the faster one, and its event there before a receive looks. Not every time.
    for _ in 0..20 {
        let event = events("orders.placed", 1)?;
        let (backend, sent) = (process.backend.clone(), event.clone());
        let started = stage.clock.now();
        let (came, published) = futures::join!(
            here.consumer.receive(1, stage.patience),
            process.run(async move { backend.publish(&sent).await })
        );
        published?;
        let came = came?;
        require_same(&came, &event)?;
        let took = stage.clock.now().since(started);
        require!(took < SLACK, "a waiting member heard of it after {took:?}");
        here.ack(&came).await?;
    }
    process.end().await
}

async fn what_a_lost_process_held_goes_to_another_when_its_lease_ends(stage: &Stage) -> Verdict {
    let mut spec = short_lease("all", "**")?;
    spec.lease = Duration::from_secs(1);
    let here = stage.join(&spec).await?;
    let mut process = Process::start(stage).await?;
    let there = process.join(&spec.name).await?;
    let published = stage.publish_many("orders.placed", 10).await?;
    let leased = stage.clock.now();
    let mut held = Vec::new();
    while held.len() < 10 && stage.clock.now().since(leased) < spec.lease / 2 {
        held.extend(process.receive(&there, 10).await?);
    }
    process.die();
    let mut came = Vec::new();
    while came.len() < 10 {
        let next = here.one().await?;
        let after = stage.clock.now().since(leased);
        if held.iter().any(|d| d.event.id() == next.event.id()) {
            require!(after >= spec.lease, "taken from its owner after {after:?}");
        }
        if came.is_empty() {
            let most = spec.lease + spec.lease / 2 + SLACK;
            require!(after < most, "the first came after {after:?}");
        }
        require_eq!(next.attempt, 1, "attempt");
        if here.try_settle(next.receipt, Settlement::Ack).await?
            == fanfare_core::delivery::Settled::Done
        {
            came.push(next);
        }
    }
    require_same(&came, &published)?;
    here.nothing().await
}

async fn the_order_of_keys_holds_across_processes(stage: &Stage) -> Verdict {
    let keys = ["a", "b", "c", "d", "e"];
    let here = stage.join(&ordered("all", "**")?).await?;
    let process = Process::start(stage).await?;
    let there = process.join(&here.subscription).await?;
    stage.publish(&keyed("orders.placed", &keys, 20)?).await?;
    let until = stage.clock.now() + stage.patience;
    let mut done = Vec::new();
    while done.len() < 100 && stage.clock.now() < until {
        // Both hold some while the other asks, together more than there are keys.
        let mine = here.consumer.receive(4, Duration::from_millis(50)).await?;
        let theirs = process.receive(&there, 4).await?;
        for key in keys {
            let held = mine.iter().chain(&theirs);
            let of_key = held.filter(|d| d.event.key() == Some(key)).count();
            require!(of_key < 2, "{of_key} events of key {key} at once");
        }
        process.ack(&there, &theirs).await?;
        here.ack(&mine).await?;
        done.extend(theirs.into_iter().chain(mine).map(|d| d.event));
    }
    for key in keys {
        let of_key = done.iter().filter(|event| event.key() == Some(key));
        let numbers = of_key.map(number).collect::<Verdict<Vec<_>>>()?;
        require_eq!(numbers, (0..20).collect::<Vec<_>>(), "order of key {key}");
    }
    process.end().await
}
