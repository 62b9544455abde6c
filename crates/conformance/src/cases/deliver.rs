//! Delivering: every matching event, unchanged, to each subscription, within bounds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_core::data::Data;
use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::event::Event;
use fanfare_core::id::EventId;
use fanfare_core::timestamp::Timestamp;
use futures::FutureExt;
use futures::future::join_all;

use crate::case::{Verdict, cases, require, require_eq};
use crate::stage::{BRIEF, Stage, event, events, require_same};

cases! { "deliver";
    ids_of_every_kind_come_back_unchanged: 7 + live;
    data_bytes_are_untouched: 7 + live;
    every_attribute_and_extension_comes_back: 7 + live;
    members_share_what_there_is: 7 + live;
    members_at_work_together_get_each_event_once: 7 + live;
    subscriptions_do_not_touch_each_other: 7 + live;
    a_waiting_receive_is_woken_by_a_publish: 7 + live;
    a_receive_that_is_dropped_strands_nothing: 7 + live;
    unordered_deliveries_come_in_publish_order_at_first: 7 + live;
    a_receive_answers_no_more_than_asked: 13 + live;
    an_empty_receive_ends_after_its_wait: 13 + live;
    a_stuck_member_stops_no_other_subscription: 13 + live;
}

async fn comes_unchanged(stage: &Stage, published: Vec<Event>) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish(&published).await?;
    require_same(&seat.finish(published.len()).await?, &published)
}

async fn ids_of_every_kind_come_back_unchanged(stage: &Stage) -> Verdict {
    let long = "x".repeat(1_024);
    let ids = [
        "0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a",
        "0190A5E4-3F5B-7D2A-9C41-1F2E3D4C5B6A",
        "0190a5e43f5b7d2a9c411f2e3d4c5b6a",
        "{0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a}",
        "00000000-0000-0000-0000-000000000000",
        "1",
        "01",
        " 1 ",
        "0",
        "-1",
        "1e3",
        "18446744073709551616",
        "null",
        "it's; drop table \"events\" --",
        "%_*?[]{}$1",
        "bestellung-\u{00fc}-\u{1f98a}",
        "u\u{0308}",
        "\u{00fc}",
        "A",
        "a",
        &long,
    ];
    let published = ids
        .iter()
        .map(|id| Ok(event("ids.kept")?.id(EventId::parse(id)?).build()?));
    comes_unchanged(stage, published.collect::<Verdict<_>>()?).await
}

async fn data_bytes_are_untouched(stage: &Stage) -> Verdict {
    let every_byte: Vec<u8> = (0..=255).collect();
    let data = [
        None,
        Some(Data::json(
            " { \"b\" : 1.0,\n\t\"a\":1e2, \"a\": \"\\u00fc\" } ",
        )),
        Some(Data::json("9007199254740993")),
        Some(Data::json("null")),
        Some(Data::text("")),
        Some(Data::text("{\"not\": \"json\"}")),
        Some(Data::text("gr\u{00fc}\u{00df}e\r\n\u{0}")),
        Some(Data::binary(Vec::new())),
        Some(Data::binary(every_byte)),
        Some(Data::binary(vec![0xff; 100_000])),
        Some(Data::binary("{}")),
    ];
    let with = |data: Option<Data>| {
        let event = event("data.kept")?;
        Ok(match data {
            Some(data) => event.data(data).build()?,
            None => event.build()?,
        })
    };
    let published = data.into_iter().map(with).collect::<Verdict<_>>()?;
    comes_unchanged(stage, published).await
}

async fn every_attribute_and_extension_comes_back(stage: &Stage) -> Verdict {
    let time: Timestamp = "2024-02-29T23:59:59.123456789Z".parse()?;
    let full = event("Public.users_2.CREATE-now")?
        .source("urn:app/\u{00fc}?a=b#c")
        .subject("users/\u{1f98a}")
        .time(time)
        .content_type("application/json; charset=utf-8")
        .schema("https://example.com/schema#v1")
        .key("tenant 1/\u{00e9}")
        .extension("correlationid", "c-1")
        .extension(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .extension("flag", true)
        .extension("off", false)
        .extension("count", i32::MIN)
        .extension("looksnumeric", "42")
        .extension("lookstrue", "true")
        .data(Data::json("{}"))
        .build()?;
    let early = "0001-01-01T00:00:00Z".parse()?;
    let bare = event("a")?.time(early).build()?;
    comes_unchanged(stage, vec![full, bare]).await
}

async fn members_share_what_there_is(stage: &Stage) -> Verdict {
    let first = stage.join_new("workers", "**").await?;
    let second = stage.rejoin(&first.subscription).await?;
    let published = stage.publish_many("orders.placed", 100).await?;
    let mut came = first.take(40).await?;
    came.extend(second.take(60).await?);
    require_same(&came, &published)?;
    first.nothing().await?;
    second.nothing().await?;
    let (mine, others) = came.split_at(40);
    first.ack(mine).await?;
    second.ack(others).await
}

async fn members_at_work_together_get_each_event_once(stage: &Stage) -> Verdict {
    let first = stage.join_new("workers", "**").await?;
    let mut seats = Vec::new();
    for _ in 0..7 {
        seats.push(stage.rejoin(&first.subscription).await?);
    }
    seats.push(first);
    let published = events("orders.placed", 2_000)?;
    let publishing = async {
        for part in published.chunks(50) {
            stage.publish(part).await?;
            tokio::task::yield_now().await;
        }
        Verdict::Ok(Vec::new())
    };
    let (arrived, expected) = (AtomicUsize::new(0), published.len());
    let working = seats.iter().map(async |seat| {
        let mut came = Vec::new();
        let mut silent = Duration::ZERO;
        // Once all have come, silence is the end; before, somebody may only be slow.
        while silent < stage.patience / 2 {
            let some = seat.consumer.receive(20, BRIEF * 3).await?;
            let all = arrived.fetch_add(some.len(), Ordering::Relaxed) >= expected;
            if some.is_empty() {
                if all {
                    break;
                }
                silent += BRIEF * 3;
                continue;
            }
            silent = Duration::ZERO;
            seat.ack(&some).await?;
            came.extend(some);
        }
        Verdict::Ok(came)
    });
    let (published_all, worked) = futures::join!(publishing, join_all(working));
    let mut came: Vec<Delivery> = published_all?;
    for part in worked {
        came.extend(part?);
    }
    require_same(&came, &published)
}

async fn subscriptions_do_not_touch_each_other(stage: &Stage) -> Verdict {
    let billing = stage.join_new("billing", "orders.*").await?;
    let audit = stage.join_new("audit", "**").await?;
    let published = stage.publish_many("orders.placed", 20).await?;
    let taken = billing.take(20).await?;
    // A receipt of one subscription means nothing to another that never leased the event.
    for delivery in &taken {
        let settled = audit.try_settle(delivery.receipt, Settlement::Ack).await?;
        require_eq!(settled, Settled::Unknown, "another subscription's receipt");
    }
    billing.ack(&taken).await?;
    require_same(&audit.finish(20).await?, &published)?;
    let counts = stage.counts(&audit.subscription).await?;
    require_eq!(counts.acknowledged, 20, "acknowledged by the other");
    Ok(())
}

async fn a_waiting_receive_is_woken_by_a_publish(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    for _ in 0..20 {
        let event = events("orders.placed", 1)?;
        let (came, published) = futures::join!(
            seat.consumer.receive(1, stage.patience),
            stage.publish(&event)
        );
        published?;
        let came = came?;
        require_same(&came, &event)?;
        seat.ack(&came).await?;
    }
    Ok(())
}

async fn a_receive_that_is_dropped_strands_nothing(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let mut published = events("orders.placed", 200)?;
    let (mut tried, mut came) = (0, Vec::new());
    let until = stage.clock.now() + stage.patience;
    for event in &published {
        // Slow backends are tried less often, not longer.
        if stage.clock.now() >= until {
            break;
        }
        tried += 1;
        // Polled once before and once after the event is there, then dropped.
        let mut waiting = seat.consumer.receive(3, stage.patience);
        let early = (&mut waiting).now_or_never();
        stage.publish(std::slice::from_ref(event)).await?;
        let late = if early.is_none() {
            waiting.now_or_never()
        } else {
            early
        };
        came.extend(late.transpose()?.unwrap_or_default());
        // Whatever a backend left running gets its turn to take what nobody waits for.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    published.truncate(tried);
    came.extend(seat.take(tried - came.len()).await?);
    seat.ack(&came).await?;
    require_same(&came, &published)
}

async fn unordered_deliveries_come_in_publish_order_at_first(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = stage.publish_many("orders.placed", 300).await?;
    let came = seat.finish(300).await?;
    let in_order = came.iter().map(|d| &d.event).eq(&published);
    require!(in_order, "events came out of order without a failure");
    Ok(())
}

async fn a_receive_answers_no_more_than_asked(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 100).await?;
    let mut came = Vec::new();
    for most in [1, 2, 7, 90] {
        let some = seat.consumer.receive(most, stage.patience).await?;
        require!(some.len() <= most, "{} came, {most} asked for", some.len());
        came.extend(some);
    }
    came.extend(seat.take(100 - came.len()).await?);
    seat.ack(&came).await
}

async fn an_empty_receive_ends_after_its_wait(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    for wait in [Duration::ZERO, Duration::from_millis(100)] {
        let started = stage.clock.now();
        seat.nothing_for(wait).await?;
        let took = stage.clock.now().since(started);
        require!(took < stage.patience, "a wait of {wait:?} took {took:?}");
    }
    Ok(())
}

async fn a_stuck_member_stops_no_other_subscription(stage: &Stage) -> Verdict {
    let stuck = stage.join_new("stuck", "**").await?;
    let lively = stage.join_new("lively", "**").await?;
    let published = stage.publish_many("orders.placed", 2_000).await?;
    let held = stuck.take(1_000).await?;
    require_same(&lively.finish(published.len()).await?, &published)?;
    let counts = stage.counts(&stuck.subscription).await?;
    require_eq!(counts.in_flight, 1_000, "in flight at the stuck member");
    stuck.ack(&held).await
}
