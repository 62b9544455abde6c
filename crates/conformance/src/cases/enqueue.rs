//! `try_publish`, and what a bus says of outcomes that nobody knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_bus::{Bus, Limits};
use fanfare_core::ErrorKind;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::data::Data;
use fanfare_core::error::{Error, Result};
use fanfare_core::event::Event;
use tokio::sync::Semaphore;

use crate::case::{Verdict, cases, require, require_eq, require_kind};
use crate::saboteur::sabotage::Sabotage;
use crate::saboteur::wrap::Wrapped;
use crate::stage::{Stage, event, events, require_same};

cases! { "enqueue";
    what_is_queued_is_published_by_a_shutdown: 4 + live;
    a_full_queue_says_so_at_once: 4 + live;
    what_failed_in_the_background_is_listed: 4 + live;
    an_unknown_outcome_is_said_and_safe_to_repeat: 2, Dedup;
    a_batch_is_answered_per_event_through_the_bus: 3 + live;
    a_refused_event_never_reaches_the_backend: 6 + live;
    every_mistake_in_a_subscription_is_named: 6 + live;
}

/// The connection in front of a backend, in the hands of a case.
#[derive(Debug)]
struct Line {
    /// A publish passes with a permit.
    gate: Semaphore,
    publishes: AtomicUsize,
    /// What publishes answer instead, where anything.
    answer: Option<ErrorKind>,
    /// Whether an event is kept before its publish is held up.
    keeps_first: bool,
}

impl Line {
    fn with(permits: usize) -> Self {
        Self {
            gate: Semaphore::new(permits),
            publishes: AtomicUsize::new(0),
            answer: None,
            keeps_first: false,
        }
    }
}

#[async_trait]
impl Sabotage for Line {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        self.publishes.fetch_add(1, Ordering::Relaxed);
        if let Some(kind) = self.answer {
            return Err(Error::new(kind, "as the case wants it"));
        }
        let kept = if self.keeps_first {
            Some(real.publish(events).await)
        } else {
            None
        };
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        match kept {
            Some(kept) => kept,
            None => real.publish(events).await,
        }
    }
}

impl Stage {
    /// A bus whose publishes go through `line`.
    fn behind(&self, line: &Arc<Line>, limits: Limits) -> Verdict<Bus> {
        let backend = Wrapped::around(self.backend.clone(), line.clone(), false);
        let bus = Bus::builder(backend).limits(limits).closes_backend(false);
        Ok(bus.build()?)
    }
}

async fn what_is_queued_is_published_by_a_shutdown(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let bus = stage.bus()?;
    let published = events("orders.placed", 500)?;
    for event in &published {
        bus.try_publish(event)?;
    }
    let report = bus.shutdown(stage.patience).await?;
    require_eq!(report.queue_failures, 0, "failures of the queue");
    require_same(&seat.finish(500).await?, &published)
}

async fn a_full_queue_says_so_at_once(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let line = Arc::new(Line::with(0));
    let limits = Limits {
        queue_events: 10,
        ..Limits::default()
    };
    let bus = stage.behind(&line, limits)?;
    let published = events("orders.placed", 10)?;
    for event in &published {
        bus.try_publish(event)?;
    }
    for event in &events("orders.placed", 5)? {
        require_kind!(bus.try_publish(event), Full);
    }
    require_eq!(bus.stats().queue_full, 5, "refusals counted");
    line.gate.add_permits(100);
    bus.shutdown(stage.patience).await?;
    require_same(&seat.finish(10).await?, &published)
}

async fn what_failed_in_the_background_is_listed(stage: &Stage) -> Verdict {
    let line = Arc::new(Line {
        answer: Some(ErrorKind::Storage),
        ..Line::with(0)
    });
    let bus = stage.behind(&line, Limits::default())?;
    let lost = events("orders.placed", 3)?;
    for event in &lost {
        bus.try_publish(event)?;
    }
    let report = bus.shutdown(stage.patience).await?;
    require_eq!(report.queue_failures, 3, "failures counted");
    let mut listed: Vec<_> = report.failed.into_iter().map(|(id, _)| id).collect();
    listed.sort();
    let mut ids: Vec<_> = lost.iter().map(|event| event.id().to_string()).collect();
    ids.sort();
    require_eq!(listed, ids, "ids of the failures listed");
    Ok(())
}

async fn an_unknown_outcome_is_said_and_safe_to_repeat(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    for keeps_first in [true, false] {
        let line = Arc::new(Line {
            keeps_first,
            ..Line::with(0)
        });
        let limits = Limits {
            publish_timeout: Duration::from_millis(300),
            ..Limits::default()
        };
        let bus = stage.behind(&line, limits)?;
        let event = event("orders.placed")?.build()?;
        require_kind!(bus.publish(&event).await, Unknown);
        line.gate.add_permits(10);
        // With the usual deadline: only the first try had to run out of time.
        let patient = stage.behind(&line, Limits::default())?;
        let again = patient.publish(&event).await?;
        require!(
            again.duplicate == keeps_first,
            "the first try was kept: {keeps_first}, the second answered {again:?}"
        );
        require_same(&seat.finish(1).await?, &[event])?;
        bus.shutdown(stage.patience).await?;
        patient.shutdown(stage.patience).await?;
    }
    Ok(())
}

async fn a_batch_is_answered_per_event_through_the_bus(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let bus = stage.bus()?;
    let mut batch = events("orders.placed", 5)?;
    let most = bus.limits().data_bytes;
    let large = event("orders.placed")?.data(Data::binary(vec![0; most + 1]));
    batch.insert(2, large.build()?);
    let answers = bus.publish_all(batch.clone()).await?;
    require_eq!(answers.len(), 6, "answers");
    for (n, answer) in answers.iter().enumerate() {
        let kind = answer.as_ref().err().map(Error::kind);
        let expected = (n == 2).then_some(ErrorKind::TooLarge);
        require_eq!(kind, expected, "error of event {n}");
    }
    batch.remove(2);
    require_same(&seat.finish(5).await?, &batch)?;
    bus.shutdown(stage.patience).await?;
    Ok(())
}

async fn a_refused_event_never_reaches_the_backend(stage: &Stage) -> Verdict {
    let line = Arc::new(Line::with(100));
    let bus = stage.behind(&line, Limits::default())?;
    let most = bus.limits().data_bytes;
    let large = event("orders.placed")?.data(Data::binary(vec![0; most + 1]));
    require_kind!(bus.publish(large.build()?).await, TooLarge);
    let malformed = event("orders.placed")?
        .subject("")
        .extension("User-Id", "1");
    let error = require_kind!(bus.publish(malformed).await, Invalid);
    require_eq!(error.violations().len(), 2, "violations named");
    let batch = events("orders.placed", bus.limits().batch_events + 1)?;
    require_kind!(bus.publish_all(batch).await, TooLarge);
    let reached = line.publishes.load(Ordering::Relaxed);
    require_eq!(reached, 0, "publishes that reached the backend");
    bus.shutdown(stage.patience).await?;
    Ok(())
}

async fn every_mistake_in_a_subscription_is_named(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let builder = bus
        .subscribe("a name!", ["orders..placed"])
        .lease(Duration::ZERO);
    let error = require_kind!(builder.handle(|| async {}).await, Invalid);
    require_eq!(
        error.violations().len(),
        3,
        "mistakes named of name, pattern and lease"
    );
    require_eq!(
        stage.backend.admin().list().await?.len(),
        0,
        "subscriptions"
    );
    bus.shutdown(stage.patience).await?;
    Ok(())
}
