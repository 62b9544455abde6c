//! Moving a subscription: replay, skip, dry run, and what it does to what was under way.

use std::time::Duration;

use fanfare_core::admin::SeekTo;
use fanfare_core::delivery::{Settled, Settlement};
use fanfare_core::id::EventId;

use crate::case::{Failure, Verdict, cases, require, require_eq, require_kind};
use crate::stage::{Seat, Stage, dead, event, events, every_letter, require_same, retry};

cases! { "seek";
    seeking_to_the_earliest_replays_everything: 24, Seek;
    seeking_to_the_latest_skips_what_waits: 24, Seek;
    seeking_behind_a_position_goes_on_there: 24, Seek;
    seeking_to_a_time_goes_on_there: 24, Seek;
    seeking_to_an_event_includes_it: 24, Seek;
    an_unknown_or_ambiguous_event_is_refused: 24, Seek;
    a_dry_run_says_the_same_and_changes_nothing: 24, Seek;
    seeking_makes_open_leases_late: 24, Seek;
    seeking_forgets_waiting_retries: 24, Seek;
    dead_letters_stay_when_a_subscription_is_moved: 24, Seek;
    the_balance_starts_anew_after_a_seek: 22, Seek;
}

impl Stage {
    async fn seek(&self, seat: &Seat, to: SeekTo) -> Verdict<u64> {
        let admin = self.backend.admin();
        let foretold = admin.seek(&seat.subscription, &to, true).await?;
        let sought = admin.seek(&seat.subscription, &to, false).await?;
        require_eq!(
            sought.events,
            foretold.events,
            "events by the seek and its dry run"
        );
        require_eq!(sought.to, foretold.to, "place by the seek and its dry run");
        Ok(sought.events)
    }
}

async fn seeking_to_the_earliest_replays_everything(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "orders.*").await?;
    let published = stage.publish_many("orders.placed", 40).await?;
    stage.publish_many("users.created", 10).await?;
    seat.finish(40).await?;
    for _ in 0..2 {
        require_eq!(
            stage.seek(&seat, SeekTo::Earliest).await?,
            40,
            "events to come"
        );
        let came = seat.finish(40).await?;
        require_same(&came, &published)?;
        let fresh = came.iter().all(|delivery| delivery.attempt == 1);
        require!(fresh, "a replayed event came with an old attempt number");
    }
    Ok(())
}

async fn seeking_to_the_latest_skips_what_waits(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 100).await?;
    seat.ack(&seat.take(10).await?).await?;
    require_eq!(
        stage.seek(&seat, SeekTo::Latest).await?,
        0,
        "events to come"
    );
    seat.nothing().await?;
    let published = stage.publish_many("orders.placed", 3).await?;
    require_same(&seat.finish(3).await?, &published)
}

async fn seeking_behind_a_position_goes_on_there(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = events("orders.placed", 20)?;
    let positions = stage.publish(&published).await?;
    seat.finish(20).await?;
    let behind = positions.get(14).copied().unwrap_or_default();
    require_eq!(
        stage.seek(&seat, SeekTo::After(behind)).await?,
        5,
        "events to come"
    );
    let wanted = published.get(15..).unwrap_or_default();
    require_same(&seat.finish(5).await?, wanted)
}

async fn seeking_to_a_time_goes_on_there(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 7).await?;
    stage.clock.sleep(Duration::from_millis(5)).await;
    let between = stage.clock.now();
    stage.clock.sleep(Duration::from_millis(5)).await;
    let published = stage.publish_many("orders.placed", 4).await?;
    seat.finish(11).await?;
    require_eq!(
        stage.seek(&seat, SeekTo::Time(between)).await?,
        4,
        "events to come"
    );
    require_same(&seat.finish(4).await?, &published)
}

async fn seeking_to_an_event_includes_it(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = stage.publish_many("orders.placed", 10).await?;
    seat.finish(10).await?;
    let from = published.get(6..).unwrap_or_default();
    let id = from.first().map(|event| event.id().to_string());
    let to = SeekTo::Event(id.unwrap_or_default());
    require_eq!(stage.seek(&seat, to).await?, 4, "events to come");
    require_same(&seat.finish(4).await?, from)
}

async fn an_unknown_or_ambiguous_event_is_refused(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let mut published = Vec::new();
    for source in ["/a", "/b"] {
        let event = event("orders.placed")?.source(source);
        published.push(event.id(EventId::parse("7")?).build()?);
    }
    stage.publish(&published).await?;
    let admin = stage.backend.admin();
    let name = &seat.subscription;
    let unknown = SeekTo::Event("8".into());
    require_kind!(admin.seek(name, &unknown, false).await, NotFound);
    let ambiguous = SeekTo::Event("7".into());
    let refused = admin.seek(name, &ambiguous, false).await;
    require!(refused.is_err(), "an ambiguous id was taken for one event");
    seat.finish(2).await?;
    Ok(())
}

async fn a_dry_run_says_the_same_and_changes_nothing(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 30).await?;
    let held = seat.take(10).await?;
    let before = stage.backend.admin().get(&seat.subscription).await?;
    for to in [SeekTo::Earliest, SeekTo::Latest] {
        let admin = stage.backend.admin();
        let foretold = admin.seek(&seat.subscription, &to, true).await?;
        require_eq!(foretold.from, before.frontier, "from");
        let events = if to == SeekTo::Earliest { 30 } else { 0 };
        require_eq!(foretold.events, events, "events foretold");
    }
    let after = stage.backend.admin().get(&seat.subscription).await?;
    require_eq!(after.counts, before.counts, "counts after dry runs");
    require_eq!(after.frontier, before.frontier, "frontier after dry runs");
    seat.ack(&held).await?;
    seat.finish(20).await?;
    Ok(())
}

async fn seeking_makes_open_leases_late(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 5).await?;
    let held = seat.take(5).await?;
    stage.seek(&seat, SeekTo::Earliest).await?;
    for delivery in &held {
        let settled = seat.try_settle(delivery.receipt, Settlement::Ack).await?;
        require_eq!(
            settled,
            Settled::Late,
            "settling a lease from before the seek"
        );
    }
    let came = seat.take(5).await?;
    for delivery in &held {
        let settled = seat.try_settle(delivery.receipt, dead("rejected")).await?;
        require_eq!(settled, Settled::Late, "settling once it is leased again");
    }
    seat.ack(&came).await?;
    stage.require_balance().await
}

async fn seeking_forgets_waiting_retries(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 5).await?;
    for delivery in seat.take(5).await? {
        seat.settle(&delivery, retry(Duration::from_millis(100)))
            .await?;
    }
    stage.seek(&seat, SeekTo::Latest).await?;
    seat.nothing_for(Duration::from_millis(400)).await?;
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!(counts.unsettled(), 0, "unsettled");
    Ok(())
}

async fn dead_letters_stay_when_a_subscription_is_moved(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = stage.publish_many("orders.placed", 3).await?;
    for delivery in seat.take(3).await? {
        seat.settle(&delivery, dead("rejected")).await?;
    }
    stage.seek(&seat, SeekTo::Latest).await?;
    stage.require_balance().await?;
    let every = every_letter();
    let letters = stage.backend.dead_letters();
    require_eq!(letters.count(&every).await?, 3, "dead letters");
    require_eq!(letters.redrive(&every, 10).await?.done, 3, "redriven");
    stage.require_balance().await?;
    require_same(&seat.finish(3).await?, &published)
}

async fn the_balance_starts_anew_after_a_seek(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 20).await?;
    let held = seat.take(15).await?;
    let (acked, rest) = held.split_at(10);
    seat.ack(acked).await?;
    for delivery in rest {
        seat.settle(delivery, dead("rejected")).await?;
    }
    for (to, published) in [(SeekTo::Earliest, 20), (SeekTo::Latest, 0)] {
        stage.seek(&seat, to).await?;
        stage.require_balance().await?;
        let counts = stage.counts(&seat.subscription).await?;
        require_eq!(counts.published, published, "published since the new place");
        require_eq!(counts.acknowledged, 0, "acknowledged since the new place");
    }
    if !stage.backend.capabilities().audit {
        return Ok(());
    }
    let one = stage
        .backend
        .admin()
        .audit(Some(&seat.subscription))
        .await?;
    let [audited] = &one[..] else {
        return Err(Failure::new(
            "an audit of one subscription answers another number",
        ));
    };
    require_eq!(audited.name, seat.subscription, "name");
    Ok(())
}
