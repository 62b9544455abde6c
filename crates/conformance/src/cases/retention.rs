//! Retention: what a bounded stream does when it is full.

use fanfare_core::ErrorKind;
use fanfare_core::backend::Backend;
use fanfare_core::consumer::{Member, MemberKind};
use fanfare_core::data::Data;
use fanfare_core::delivery::Settlement;
use fanfare_core::event::Event;
use std::sync::Arc;
use std::time::Duration;

use crate::case::{Failure, Verdict, cases, require, require_eq};
use crate::stage::{Stage, event, spec};

cases! { "retention";
    a_full_stream_refuses_and_forgets_nothing_unsettled: 19;
    a_full_stream_takes_events_again_once_all_is_settled: 19;
}

const BYTES: u64 = 256 * 1024;

/// Publishes until the stream is full; answers what was acknowledged.
async fn fill(backend: &Arc<dyn Backend>) -> Verdict<Vec<Event>> {
    let mut kept = Vec::new();
    for _ in 0..100_000 {
        let data = Data::binary(vec![7; 1_000]);
        let one = event("orders.placed")?.data(data).build()?;
        let answer = match backend.publish(std::slice::from_ref(&one)).await {
            Ok(answers) => answers.into_iter().next(),
            Err(error) => Some(Err(error)),
        };
        match answer {
            Some(Ok(_)) => kept.push(one),
            Some(Err(error)) if error.kind() == ErrorKind::Full => return Ok(kept),
            other => return Err(Failure::new(format!("a full stream answered {other:?}"))),
        }
    }
    Err(Failure::new("a stream bounded to 256 KiB took 100 MB"))
}

/// Takes and acknowledges until nothing comes; answers the ids, sorted.
async fn drain(stage: &Stage, backend: &Arc<dyn Backend>) -> Verdict<Vec<String>> {
    let member = Member {
        name: "suite".into(),
        kind: MemberKind::Embedded,
    };
    let consumer = backend.consume(&spec("all", "**")?.name, member).await?;
    let mut ids = Vec::new();
    loop {
        let wait = if ids.is_empty() {
            stage.patience
        } else {
            Duration::from_millis(200)
        };
        let came = consumer.receive(100, wait).await?;
        if came.is_empty() {
            ids.sort();
            return Ok(ids);
        }
        ids.extend(came.iter().map(|d| d.event.id().to_string()));
        let all = came.iter().map(|d| (d.receipt, Settlement::Ack));
        consumer.settle(all.collect()).await?;
    }
}

async fn a_full_stream_refuses_and_forgets_nothing_unsettled(stage: &Stage) -> Verdict {
    let backend = stage.bounded(BYTES).await?;
    backend.admin().put(&spec("all", "**")?).await?;
    let kept = fill(&backend).await?;
    require!(!kept.is_empty(), "nothing fits");
    let mut ids: Vec<_> = kept.iter().map(|event| event.id().to_string()).collect();
    ids.sort();
    require_eq!(
        drain(stage, &backend).await?.len(),
        ids.len(),
        "events that came"
    );
    Ok(backend.close().await?)
}

async fn a_full_stream_takes_events_again_once_all_is_settled(stage: &Stage) -> Verdict {
    let backend = stage.bounded(BYTES).await?;
    backend.admin().put(&spec("all", "**")?).await?;
    fill(&backend).await?;
    drain(stage, &backend).await?;
    let kept = fill(&backend).await?;
    require!(!kept.is_empty(), "still full after everything was settled");
    require_eq!(
        drain(stage, &backend).await?.len(),
        kept.len(),
        "events that came"
    );
    Ok(backend.close().await?)
}
