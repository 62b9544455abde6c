//! Subscriptions: creating, changing, listing, pausing and deleting them, and where they start.

use std::time::Duration;

use fanfare_core::admin::Put;
use fanfare_core::consumer::{Member, MemberKind};
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{OnDead, Start, SubscriptionName};

use crate::case::{Verdict, cases, require, require_eq, require_kind};
use crate::stage::{Stage, dead, every_letter, require_same, spec};

cases! { "subscription";
    creating_it_again_changes_nothing: 24 + live;
    options_can_be_changed: 24 + live;
    other_patterns_are_a_conflict_that_names_both: 24 + live;
    another_order_is_a_conflict: 24 + live;
    values_out_of_range_are_refused: 6 + live;
    what_does_not_exist_is_not_found: 24 + live;
    all_are_listed_by_name: 24 + live;
    deleting_is_refused_with_the_counts: 24 + live;
    a_forced_delete_leaves_nothing_behind: 24 + live;
    the_latest_start_begins_with_the_next_event: 24 + live;
    a_start_in_time_begins_there: 24, StartTime;
    a_start_behind_a_position_begins_there: 24, StartPosition;
    start_counts_at_creation_only: 24 + live;
    a_paused_subscription_gives_out_nothing_new: 24, Pause + live;
    an_ephemeral_subscription_goes_with_its_consumer: 24 + live;
}

async fn creating_it_again_changes_nothing(stage: &Stage) -> Verdict {
    let admin = stage.backend.admin();
    let spec = stage.startable(&spec("all", "orders.* users.*")?);
    require_eq!(admin.put(&spec).await?, Put::Created, "first put");
    let created = admin.get(&spec.name).await?.created;
    require_eq!(admin.put(&spec).await?, Put::Unchanged, "second put");
    let info = admin.get(&spec.name).await?;
    require_eq!(info.created, created, "time of creation");
    require_eq!(info.spec, spec, "spec");
    require!(!info.paused, "a new subscription is paused");
    // The same set in another order and form is the same set.
    let mut same = spec.clone();
    same.patterns = PatternSet::parse(["users.*", "orders.*", "users.*"])?;
    require_eq!(
        admin.put(&same).await?,
        Put::Unchanged,
        "put of the same patterns"
    );
    Ok(())
}

async fn options_can_be_changed(stage: &Stage) -> Verdict {
    let admin = stage.backend.admin();
    let mut spec = stage.startable(&spec("all", "**")?);
    admin.put(&spec).await?;
    spec.lease = Duration::from_millis(1_500);
    spec.retry.max_attempts = 9;
    spec.retry.factor = 3.5;
    spec.retry.jitter = false;
    spec.dead_letter = false;
    require_eq!(
        admin.put(&spec).await?,
        Put::Changed,
        "put of other options"
    );
    require_eq!(admin.get(&spec.name).await?.spec, spec, "spec");
    require_eq!(admin.put(&spec).await?, Put::Unchanged, "put again");
    Ok(())
}

async fn other_patterns_are_a_conflict_that_names_both(stage: &Stage) -> Verdict {
    let admin = stage.backend.admin();
    let mine = stage.startable(&spec("all", "orders.*")?);
    admin.put(&mine).await?;
    let other = stage.startable(&spec("all", "users.**")?);
    let error = require_kind!(admin.put(&other).await, Conflict);
    let message = error.to_string();
    for pattern in ["orders.*", "users.**"] {
        require!(
            message.contains(pattern),
            "`{message}` does not name {pattern}"
        );
    }
    require_eq!(
        admin.get(&mine.name).await?.spec,
        mine,
        "spec after the conflict"
    );
    Ok(())
}

async fn another_order_is_a_conflict(stage: &Stage) -> Verdict {
    let admin = stage.backend.admin();
    let mine = stage.startable(&spec("all", "**")?);
    admin.put(&mine).await?;
    let mut other = mine.clone();
    other.ordered = true;
    require_kind!(admin.put(&other).await, Conflict);
    if stage.backend.capabilities().park {
        let mut parking = other.clone();
        parking.name = SubscriptionName::parse("parking")?;
        parking.on_dead = OnDead::Park;
        admin.put(&parking).await?;
        require_eq!(admin.get(&parking.name).await?.spec, parking, "spec");
    }
    require_eq!(
        admin.get(&mine.name).await?.spec,
        mine,
        "spec after the conflict"
    );
    Ok(())
}

async fn values_out_of_range_are_refused(stage: &Stage) -> Verdict {
    let admin = stage.backend.admin();
    let mut bad = spec("all", "**")?;
    bad.lease = Duration::from_millis(1);
    let error = require_kind!(admin.put(&bad).await, Invalid);
    require!(!error.violations().is_empty(), "no violation is named");
    let mut bad = spec("all", "**")?;
    bad.retry.max_attempts = 0;
    bad.retry.factor = 0.0;
    let error = require_kind!(admin.put(&bad).await, Invalid);
    require_eq!(error.violations().len(), 2, "violations named");
    require_eq!(admin.list().await?.len(), 0, "subscriptions");
    Ok(())
}

async fn what_does_not_exist_is_not_found(stage: &Stage) -> Verdict {
    let admin = stage.backend.admin();
    let name = SubscriptionName::parse("nobody")?;
    let member = Member {
        name: "suite".into(),
        kind: MemberKind::Embedded,
    };
    require_kind!(stage.backend.consume(&name, member).await, NotFound);
    require_kind!(admin.get(&name).await, NotFound);
    require_kind!(admin.delete(&name, false).await, NotFound);
    require_kind!(
        admin.set_patterns(&name, PatternSet::parse(["**"])?).await,
        NotFound
    );
    if stage.backend.capabilities().pause {
        require_kind!(admin.set_paused(&name, true).await, NotFound);
    }
    Ok(())
}

async fn all_are_listed_by_name(stage: &Stage) -> Verdict {
    let admin = stage.backend.admin();
    require_eq!(
        admin.list().await?.len(),
        0,
        "subscriptions of a new stream"
    );
    for name in ["zeta", "app.mail", "Alpha", "b-2", "b_1"] {
        stage.create(&spec(name, "**")?).await?;
    }
    let mut passing = spec("passing", "**")?;
    passing.ephemeral = true;
    passing.start = Start::Latest;
    admin.put(&passing).await?;
    let listed = admin.list().await?;
    let names: Vec<_> = listed.iter().map(|info| info.spec.name.as_str()).collect();
    require_eq!(names, ["Alpha", "app.mail", "b-2", "b_1", "zeta"], "names");
    Ok(())
}

async fn deleting_is_refused_with_the_counts(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let admin = stage.backend.admin();
    stage.publish_many("orders.placed", 7).await?;
    let error = require_kind!(admin.delete(&seat.subscription, false).await, Conflict);
    require!(
        error.to_string().contains('7'),
        "`{error}` does not give the count"
    );
    for delivery in seat.take(7).await? {
        require_kind!(admin.delete(&seat.subscription, false).await, Conflict);
        seat.settle(&delivery, dead("rejected")).await?;
    }
    let error = require_kind!(admin.delete(&seat.subscription, false).await, Conflict);
    require!(
        error.to_string().contains('7'),
        "`{error}` does not give the dead letters"
    );
    let every = every_letter();
    stage.backend.dead_letters().discard(&every).await?;
    admin.delete(&seat.subscription, false).await?;
    require_kind!(admin.get(&seat.subscription).await, NotFound);
    Ok(())
}

async fn a_forced_delete_leaves_nothing_behind(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let other = stage.join_new("other", "**").await?;
    let published = stage.publish_many("orders.placed", 9).await?;
    for delivery in seat.take(3).await? {
        seat.settle(&delivery, dead("rejected")).await?;
    }
    let held = seat.take(3).await?;
    stage
        .backend
        .admin()
        .delete(&seat.subscription, true)
        .await?;
    require_kind!(
        stage.backend.admin().get(&seat.subscription).await,
        NotFound
    );
    let every = every_letter();
    require_eq!(
        stage.backend.dead_letters().count(&every).await?,
        0,
        "dead letters left"
    );
    // A new one of that name has nothing of the old one.
    let mut fresh = spec("all", "**")?;
    fresh.start = Start::Latest;
    let fresh = stage.join(&fresh).await?;
    for delivery in held {
        let settled = fresh.try_settle(delivery.receipt, dead("rejected")).await?;
        let counted = settled == fanfare_core::delivery::Settled::Done;
        require!(!counted, "a receipt of the deleted subscription counted");
    }
    fresh.nothing().await?;
    require_same(&other.finish(9).await?, &published)
}

async fn the_latest_start_begins_with_the_next_event(stage: &Stage) -> Verdict {
    stage.publish_many("orders.placed", 50).await?;
    let mut spec = spec("late", "**")?;
    spec.start = Start::Latest;
    let seat = stage.join(&spec).await?;
    seat.nothing().await?;
    require_eq!(
        stage.counts(&seat.subscription).await?.published,
        0,
        "published"
    );
    let published = stage.publish_many("orders.placed", 5).await?;
    require_same(&seat.finish(5).await?, &published)
}

async fn a_start_in_time_begins_there(stage: &Stage) -> Verdict {
    stage.publish_many("orders.placed", 5).await?;
    stage.clock.sleep(Duration::from_millis(5)).await;
    let between = stage.clock.now();
    stage.clock.sleep(Duration::from_millis(5)).await;
    let published = stage.publish_many("orders.placed", 5).await?;
    let mut spec = spec("timed", "**")?;
    spec.start = Start::Time(between);
    let seat = stage.join(&spec).await?;
    require_same(&seat.finish(5).await?, &published)?;
    for (n, (start, count)) in [
        (Start::Time(between - Duration::from_hours(1)), 10),
        (Start::Time(between + Duration::from_hours(1)), 0),
    ]
    .into_iter()
    .enumerate()
    {
        spec.name = SubscriptionName::parse(&format!("timed-{n}"))?;
        spec.start = start;
        stage.join(&spec).await?.finish(count).await?;
    }
    Ok(())
}

async fn a_start_behind_a_position_begins_there(stage: &Stage) -> Verdict {
    let events = crate::stage::events("orders.placed", 10)?;
    let positions = stage.publish(&events).await?;
    let mut spec = spec("placed", "**")?;
    for (n, position) in positions.iter().enumerate() {
        spec.name = SubscriptionName::parse(&format!("behind-{n}"))?;
        spec.start = Start::After(*position);
        let seat = stage.join(&spec).await?;
        let wanted = events.get(n + 1..).unwrap_or_default();
        let came = seat.take(wanted.len()).await?;
        require_same(&came, wanted)?;
        seat.ack(&came).await?;
        seat.nothing_for(Duration::ZERO).await?;
    }
    Ok(())
}

async fn start_counts_at_creation_only(stage: &Stage) -> Verdict {
    stage.publish_many("orders.placed", 5).await?;
    let mut spec = spec("all", "**")?;
    spec.start = Start::Latest;
    let seat = stage.join(&spec).await?;
    spec.start = Start::Earliest;
    require_eq!(
        stage.backend.admin().put(&spec).await?,
        Put::Unchanged,
        "put"
    );
    seat.nothing().await
}

async fn a_paused_subscription_gives_out_nothing_new(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let other = stage.join_new("other", "**").await?;
    let admin = stage.backend.admin();
    stage.publish_many("orders.placed", 10).await?;
    let held = seat.take(4).await?;
    admin.set_paused(&seat.subscription, true).await?;
    require!(
        admin.get(&seat.subscription).await?.paused,
        "not shown as paused"
    );
    seat.nothing().await?;
    seat.ack(&held).await?;
    seat.nothing().await?;
    other.finish(10).await?;
    // A member that waits is woken when it goes on.
    let (came, resumed) = futures::join!(seat.take(6), admin.set_paused(&seat.subscription, false));
    resumed?;
    seat.ack(&came?).await?;
    require!(
        !admin.get(&seat.subscription).await?.paused,
        "still shown as paused"
    );
    Ok(())
}

async fn an_ephemeral_subscription_goes_with_its_consumer(stage: &Stage) -> Verdict {
    stage.publish_many("orders.placed", 5).await?;
    let mut spec = spec("passing", "**")?;
    spec.ephemeral = true;
    spec.start = Start::Latest;
    let seat = stage.join(&spec).await?;
    let published = stage.publish_many("orders.placed", 10).await?;
    let came = seat.take(10).await?;
    require_same(&came, &published)?;
    seat.ack(came.get(..5).unwrap_or_default()).await?;
    seat.consumer.close().await?;
    require_kind!(stage.backend.admin().get(&spec.name).await, NotFound);
    Ok(())
}
