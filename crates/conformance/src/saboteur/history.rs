//! Saboteurs of reading the past.

use async_trait::async_trait;
use fanfare_core::admin::StreamStats;
use fanfare_core::backend::Backend;
use fanfare_core::capability::{Capabilities, HistoryKind};
use fanfare_core::error::Result;
use fanfare_core::history::{DeliveryInfo, EventPage, EventQuery, Recorded};
use fanfare_core::position::Position;

use super::sabotage::Sabotage;
use super::saboteurs;

saboteurs! {
    SkipsBetweenPages: 21, "leaves out the last event of each page" => [
        "history::events_are_listed_as_published_in_either_direction",
        "history::pages_hold_each_event_once_while_others_are_appended",
    ];
    RepeatsBetweenPages: 21, "begins each page with the last event of the one before" => [
        "history::pages_hold_each_event_once_while_others_are_appended",
    ];
    ListsOneWay: 21, "lists oldest first whatever was asked for" => [
        "history::events_are_listed_as_published_in_either_direction",
    ];
    IgnoresTheKey: 21, "lists events of every key" => [
        "history::every_filter_selects_exactly_its_events",
    ];
    FindsOneOnly: 21, "finds one of several events with an id" => [
        "history::events_are_found_by_id",
    ];
    ForgetsDueTimes: 21, "does not say when a retry is due" => [
        "history::deliveries_tell_where_each_subscription_is",
    ];
    WakesWithoutNews: 21, "ends a wait without the position waited for" => [
        "history::waiting_beyond_the_head_ends_with_the_next_event",
    ];
    MiscountsEvents: 21, "counts one event too few" => [
        "history::stats_count_what_is_kept",
    ];
    DeniesItsHistory: 21, "says that it has no history and shows one, or the other way round" => [
        "history::asking_for_what_is_not_offered_says_so",
    ];
    IgnoresTheStatus: 21, "lists events of every status" => [
        "history::a_status_follows_from_the_deliveries",
    ];
}

#[derive(Debug, Default)]
struct SkipsBetweenPages;

#[async_trait]
impl Sabotage for SkipsBetweenPages {
    async fn events(&self, real: &dyn Backend, query: &EventQuery) -> Result<EventPage> {
        let mut page = real.history()?.events(query).await?;
        if page.next.is_some() {
            page.items.pop();
        }
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct RepeatsBetweenPages;

#[async_trait]
impl Sabotage for RepeatsBetweenPages {
    async fn events(&self, real: &dyn Backend, query: &EventQuery) -> Result<EventPage> {
        let mut page = real.history()?.events(query).await?;
        page.next = page.next.map(|next| {
            Position(if query.descending {
                next.0 + 1
            } else {
                next.0 - 1
            })
        });
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct ListsOneWay;

#[async_trait]
impl Sabotage for ListsOneWay {
    async fn events(&self, real: &dyn Backend, query: &EventQuery) -> Result<EventPage> {
        let mut forward = query.clone();
        forward.descending = false;
        real.history()?.events(&forward).await
    }
}

#[derive(Debug, Default)]
struct IgnoresTheKey;

#[async_trait]
impl Sabotage for IgnoresTheKey {
    async fn events(&self, real: &dyn Backend, query: &EventQuery) -> Result<EventPage> {
        let mut any = query.clone();
        any.key = None;
        real.history()?.events(&any).await
    }
}

#[derive(Debug, Default)]
struct FindsOneOnly;

impl Sabotage for FindsOneOnly {
    fn found(&self, found: &mut Vec<Recorded>) {
        found.truncate(1);
    }
}

#[derive(Debug, Default)]
struct ForgetsDueTimes;

impl Sabotage for ForgetsDueTimes {
    fn deliveries(&self, deliveries: &mut Vec<DeliveryInfo>) {
        for delivery in deliveries {
            delivery.due = None;
        }
    }
}

#[derive(Debug, Default)]
struct WakesWithoutNews;

impl Sabotage for WakesWithoutNews {
    fn woken(&self, after: Position, _: Position) -> Position {
        after
    }
}

#[derive(Debug, Default)]
struct MiscountsEvents;

impl Sabotage for MiscountsEvents {
    fn stats(&self, stats: &mut StreamStats) {
        stats.events = stats.events.saturating_sub(1);
    }
}

#[derive(Debug, Default)]
struct DeniesItsHistory;

impl Sabotage for DeniesItsHistory {
    fn capable(&self, capabilities: &mut Capabilities) {
        capabilities.history = match capabilities.history {
            HistoryKind::None => HistoryKind::Full,
            _ => HistoryKind::None,
        };
    }
}

#[derive(Debug, Default)]
struct IgnoresTheStatus;

#[async_trait]
impl Sabotage for IgnoresTheStatus {
    async fn events(&self, real: &dyn Backend, query: &EventQuery) -> Result<EventPage> {
        let mut any = query.clone();
        any.status = None;
        real.history()?.events(&any).await
    }
}
