//! Past events: every filter, both directions, pages that hold still, and derived status.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare_core::capability::HistoryKind;
use fanfare_core::event::Event;
use fanfare_core::history::{DeliveryState, EventQuery, EventStatus, Recorded};
use fanfare_core::id::EventId;
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;

use crate::case::{Failure, Verdict, cases, require, require_eq, require_kind};
use crate::stage::{Stage, dead, event, events, keyed, require_unchanged, retry};

cases! { "history";
    events_are_listed_as_published_in_either_direction: 21, History;
    every_filter_selects_exactly_its_events: 21, History;
    pages_hold_each_event_once_while_others_are_appended: 21, History;
    events_are_found_by_id: 21, History;
    a_status_follows_from_the_deliveries: 21, History;
    deliveries_tell_where_each_subscription_is: 21, History;
    waiting_beyond_the_head_ends_with_the_next_event: 21, History;
    stats_count_what_is_kept: 21, History;
    asking_for_what_is_not_offered_says_so: 21 + live;
}

impl Stage {
    /// Every page of a query.
    async fn all(&self, mut query: EventQuery) -> Verdict<Vec<Recorded>> {
        let mut found = Vec::new();
        for _ in 0..10_000 {
            let page = self.backend.history()?.events(&query).await?;
            let (got, most) = (page.items.len(), query.limit);
            require!(got <= most, "{got} events on a page of {most}");
            found.extend(page.items);
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(found),
            }
        }
        Err(Failure::new("the pages have no end"))
    }
}

/// Which events a query is meant to find.
type Wanted = fn(&Event) -> bool;

fn query() -> EventQuery {
    EventQuery {
        limit: 100,
        ..EventQuery::default()
    }
}

fn plain(recorded: &[Recorded]) -> Vec<Event> {
    recorded.iter().map(|r| r.event.clone()).collect()
}

async fn events_are_listed_as_published_in_either_direction(stage: &Stage) -> Verdict {
    let published = events("orders.placed", 25)?;
    let positions = stage.publish(&published).await?;
    let forward = stage
        .all(EventQuery {
            limit: 7,
            ..query()
        })
        .await?;
    for (recorded, event) in forward.iter().zip(&published) {
        require_unchanged(&recorded.event, event)?;
    }
    let stands: Vec<_> = forward.iter().map(|recorded| recorded.position).collect();
    require_eq!(stands, positions, "positions");
    let in_time = forward.is_sorted_by_key(|recorded| recorded.recorded);
    require!(in_time, "recorded times go back");
    let descending = true;
    let mut backward = stage
        .all(EventQuery {
            descending,
            limit: 4,
            ..query()
        })
        .await?;
    backward.reverse();
    require!(backward == forward, "both directions list different events");
    Ok(())
}

/// Queries by every filter, beside what they must find of the events that the case publishes.
fn selections(between: Timestamp) -> Verdict<Vec<(EventQuery, Wanted)>> {
    let select = |edit: &dyn Fn(&mut EventQuery)| {
        let mut query = query();
        edit(&mut query);
        query
    };
    let two = PatternSet::parse(["users.*", "*.late"])?;
    let orders = PatternSet::parse(["orders.**"])?;
    let everything = |query: &mut EventQuery| {
        query.key = Some("a".into());
        query.patterns = Some(orders.clone());
        query.until = Some(between);
        query.source = Some("/suite".into());
        query.limit = 2;
    };
    Ok(vec![
        (query(), |_| true),
        (select(&|q| q.patterns = Some(two.clone())), |e| {
            !is(e, "orders.placed")
        }),
        (select(&|q| q.key = Some("b".into())), |e| {
            e.key() == Some("b")
        }),
        (select(&|q| q.source = Some("/other".into())), |e| {
            is(e, "users.deleted")
        }),
        (select(&|q| q.source = Some("/nowhere".into())), |_| false),
        (select(&|q| q.since = Some(between)), |e| {
            is(e, "orders.late")
        }),
        (select(&|q| q.until = Some(between)), |e| {
            !is(e, "orders.late")
        }),
        (select(&everything), |e| {
            e.key() == Some("a") && is(e, "orders.placed")
        }),
    ])
}

fn is(event: &Event, event_type: &str) -> bool {
    event.event_type().as_str() == event_type
}

async fn every_filter_selects_exactly_its_events(stage: &Stage) -> Verdict {
    let mut published = keyed("orders.placed", &["a", "b"], 5)?;
    published.extend(keyed("users.created", &["a"], 5)?);
    let other = event("users.deleted")?.source("/other").key("b").build()?;
    published.push(other);
    stage.publish(&published).await?;
    stage.clock.sleep(Duration::from_millis(5)).await;
    let between = stage.clock.now();
    stage.clock.sleep(Duration::from_millis(5)).await;
    let late = events("orders.late", 3)?;
    stage.publish(&late).await?;
    published.extend(late);

    for (query, wanted) in selections(between)? {
        let expected: Vec<_> = published.iter().filter(|e| wanted(e)).cloned().collect();
        let found = plain(&stage.all(query.clone()).await?);
        require!(
            found == expected,
            "{query:?} found {found:?}, expected {expected:?}"
        );
        let descending = EventQuery {
            descending: true,
            ..query
        };
        let mut found = plain(&stage.all(descending).await?);
        found.reverse();
        require!(
            found == expected,
            "backwards found {found:?}, expected {expected:?}"
        );
    }
    Ok(())
}

async fn pages_hold_each_event_once_while_others_are_appended(stage: &Stage) -> Verdict {
    let first = stage.publish_many("orders.placed", 30).await?;
    for descending in [false, true] {
        let mut seen: BTreeMap<Position, Event> = BTreeMap::new();
        let mut query = EventQuery {
            descending,
            limit: 4,
            ..query()
        };
        for _ in 0..200 {
            let page = stage.backend.history()?.events(&query).await?;
            for recorded in page.items {
                let again = seen.insert(recorded.position, recorded.event);
                require!(again.is_none(), "{again:?} is on two pages");
            }
            if seen.len() < 40 {
                stage.publish_many("orders.later", 1).await?;
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        let seen: Vec<_> = seen.into_values().collect();
        let missing = first.iter().find(|event| !seen.contains(event));
        require!(missing.is_none(), "{missing:?} is on no page");
    }
    Ok(())
}

async fn events_are_found_by_id(stage: &Stage) -> Verdict {
    let mut published = Vec::new();
    for source in ["/a", "/b"] {
        for id in ["7", "0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a"] {
            let event = event("orders.placed")?.source(source);
            published.push(event.id(EventId::parse(id)?).build()?);
        }
    }
    stage.publish(&published).await?;
    let history = stage.backend.history()?;
    for event in &published {
        let id = event.id().to_string();
        let all = history.event(&id, None).await?;
        require_eq!(all.len(), 2, "events with id {id}");
        let one = plain(&history.event(&id, Some(event.source())).await?);
        require_eq!(
            one.iter().collect::<Vec<_>>(),
            [event],
            "event with id {id} of one source"
        );
    }
    require_eq!(
        history.event("8", None).await?.len(),
        0,
        "events with an unknown id"
    );
    require_eq!(
        history.event("7", Some("/c")).await?.len(),
        0,
        "of an unknown source"
    );
    Ok(())
}

async fn a_status_follows_from_the_deliveries(stage: &Stage) -> Verdict {
    let billing = stage.join_new("billing", "orders.*").await?;
    let audit = stage.join_new("audit", "orders.*").await?;
    let published = stage.publish_many("orders.placed", 5).await?;
    let unheard = stage.publish_many("nobody.listens", 1).await?;
    audit.ack(&audit.take(5).await?).await?;
    // 0 done, 1 leased, 2 waits for a retry, 3 dead, 4 still to come.
    let taken = billing.take(4).await?;
    let [done, _leased, waits, given_up] = &taken[..] else {
        return Ok(());
    };
    billing.ack(std::slice::from_ref(done)).await?;
    billing
        .settle(waits, retry(Duration::from_hours(1)))
        .await?;
    billing.settle(given_up, dead("rejected")).await?;
    let expected = [
        (
            EventStatus::Completed,
            vec![published.first(), unheard.first()],
        ),
        (EventStatus::Processing, vec![published.get(1)]),
        (
            EventStatus::Pending,
            vec![published.get(2), published.get(4)],
        ),
        (EventStatus::Failed, vec![published.get(3)]),
    ];
    for (status, wanted) in expected {
        let found = plain(
            &stage
                .all(EventQuery {
                    status: Some(status),
                    ..query()
                })
                .await?,
        );
        let wanted: Vec<_> = wanted.into_iter().flatten().cloned().collect();
        require!(
            found == wanted,
            "{status:?}: {found:?}, expected {wanted:?}"
        );
    }
    let history = stage.backend.history()?;
    for recorded in stage.all(query()).await? {
        let deliveries = history.deliveries(recorded.position).await?;
        let heard = usize::from(recorded.event.event_type().as_str() == "orders.placed") * 2;
        require_eq!(
            deliveries.len(),
            heard,
            "deliveries of {:?}",
            recorded.event
        );
    }
    Ok(())
}

async fn deliveries_tell_where_each_subscription_is(stage: &Stage) -> Verdict {
    let billing = stage.join_new("billing", "orders.*").await?;
    stage.join_new("audit", "**").await?;
    stage.join_new("users", "users.**").await?;
    let positions = stage.publish(&events("orders.placed", 1)?).await?;
    let position = positions.first().copied().unwrap_or_default();
    let history = stage.backend.history()?;
    let mut expected = DeliveryState::Waiting;
    for step in 0..4 {
        let deliveries = history.deliveries(position).await?;
        let seen: Vec<_> = deliveries
            .iter()
            .map(|d| (d.subscription.as_str(), d.state))
            .collect();
        let wanted = [("audit", DeliveryState::Waiting), ("billing", expected)];
        require_eq!(seen, wanted, "deliveries in step {step}");
        let billed = deliveries
            .into_iter()
            .find(|d| d.subscription == billing.subscription);
        expected = match (step, billed) {
            (0, _) => {
                let delivery = billing.one().await?;
                billing
                    .settle(&delivery, retry(Duration::from_hours(1)))
                    .await?;
                DeliveryState::Waiting
            }
            (1, Some(billed)) => {
                require_eq!(billed.attempts, 1, "attempts while the retry waits");
                let soon = stage.clock.now() + Duration::from_mins(59);
                require!(
                    billed.due.is_some_and(|due| due > soon),
                    "due {:?}",
                    billed.due
                );
                if !stage.backend.capabilities().seek {
                    break;
                }
                let earliest = fanfare_core::admin::SeekTo::Earliest;
                stage
                    .backend
                    .admin()
                    .seek(&billing.subscription, &earliest, false)
                    .await?;
                billing.one().await?;
                DeliveryState::InFlight
            }
            (2, _) => {
                let earliest = fanfare_core::admin::SeekTo::Earliest;
                stage
                    .backend
                    .admin()
                    .seek(&billing.subscription, &earliest, false)
                    .await?;
                billing.ack(&billing.take(1).await?).await?;
                DeliveryState::Settled
            }
            _ => expected,
        };
    }
    Ok(())
}

async fn waiting_beyond_the_head_ends_with_the_next_event(stage: &Stage) -> Verdict {
    let history = stage.backend.history()?;
    require_eq!(
        history.head().await?,
        Position::START,
        "head of a new stream"
    );
    for _ in 0..10 {
        let head = history.head().await?;
        let still = history.wait_beyond(head, Duration::from_millis(10)).await?;
        require_eq!(still, head, "head after waiting for nothing");
        let event = events("orders.placed", 1)?;
        let (woken, positions) = futures::join!(
            history.wait_beyond(head, stage.patience),
            stage.publish(&event)
        );
        require_eq!(
            Some(woken?),
            positions?.last().copied(),
            "head after a publish"
        );
    }
    Ok(())
}

async fn stats_count_what_is_kept(stage: &Stage) -> Verdict {
    let admin = stage.backend.admin();
    let empty = admin.stats().await?;
    require_eq!(
        (empty.events, empty.last),
        (0, None),
        "events, last of a new stream"
    );
    let positions = stage.publish(&events("orders.placed", 30)?).await?;
    let stats = admin.stats().await?;
    require_eq!(stats.events, 30, "events");
    require_eq!(stats.first, positions.first().copied(), "first position");
    require_eq!(stats.last, positions.last().copied(), "last position");
    require!(
        admin.health().await.ok,
        "unhealthy: {:?}",
        admin.health().await
    );
    Ok(())
}

async fn asking_for_what_is_not_offered_says_so(stage: &Stage) -> Verdict {
    let offered = stage.backend.capabilities().history;
    if offered == HistoryKind::None {
        require_kind!(stage.backend.history(), Unsupported);
    } else {
        stage.backend.history()?.head().await?;
    }
    Ok(())
}
