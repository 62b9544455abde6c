//! Closing a backend: what waits ends, what is called later is told so.

use std::time::Duration;

use bytes::Bytes;
use fanfare_core::consumer::{Member, MemberKind};
use fanfare_core::dead_letter::DeadLetterFilter;
use fanfare_core::delivery::Settlement;

use crate::case::{Failure, Verdict, cases, require_kind};
use crate::stage::{Stage, events, spec};

cases! { "shutdown";
    every_call_after_close_says_closed: 20 + live;
    closing_twice_is_fine: 20 + live;
    closing_ends_what_waits: 20 + live;
    closing_at_once_with_other_calls_ends: 20 + live;
}

async fn every_call_after_close_says_closed(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 1).await?;
    let delivery = seat.one().await?;
    stage.backend.close().await?;
    let backend = &stage.backend;
    let member = Member {
        name: "suite".into(),
        kind: MemberKind::Embedded,
    };
    require_kind!(backend.publish(&events("orders.placed", 1)?).await, Closed);
    require_kind!(backend.consume(&seat.subscription, member).await, Closed);
    require_kind!(backend.admin().put(&spec("other", "**")?).await, Closed);
    require_kind!(backend.admin().list().await, Closed);
    require_kind!(backend.state().get("k").await, Closed);
    require_kind!(
        backend.state().put_if_absent("k", Bytes::new()).await,
        Closed
    );
    let filter = DeadLetterFilter::default();
    require_kind!(backend.dead_letters().list(&filter, None, 1).await, Closed);
    require_kind!(seat.consumer.receive(1, Duration::ZERO).await, Closed);
    let settlement = vec![(delivery.receipt, Settlement::Ack)];
    require_kind!(seat.consumer.settle(settlement).await, Closed);
    Ok(())
}

async fn closing_twice_is_fine(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.backend.close().await?;
    stage.backend.close().await?;
    seat.consumer.close().await.or_else(|error| {
        let closed = error.kind() == fanfare_core::ErrorKind::Closed;
        if closed { Ok(()) } else { Err(error) }
    })?;
    Ok(())
}

async fn closing_ends_what_waits(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let started = stage.clock.now();
    let (received, closed) = futures::join!(seat.consumer.receive(1, stage.patience * 2), async {
        tokio::task::yield_now().await;
        stage.backend.close().await
    });
    closed?;
    if let Ok(came) = received
        && !came.is_empty()
    {
        return Err(Failure::new("a delivery came from nowhere"));
    }
    let took = stage.clock.now().since(started);
    if took > stage.patience {
        return Err(Failure::new(format!(
            "a receive outlived the close by {took:?}"
        )));
    }
    Ok(())
}

async fn closing_at_once_with_other_calls_ends(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 50).await?;
    let more = events("orders.placed", 50)?;
    let (closed, _, _, _) = futures::join!(
        stage.backend.close(),
        stage.backend.publish(&more),
        seat.consumer.receive(100, Duration::from_secs(1)),
        seat.consumer.close(),
    );
    Ok(closed?)
}
