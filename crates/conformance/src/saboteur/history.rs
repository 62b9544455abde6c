//! Saboteurs of reading the past.

use async_trait::async_trait;
use fanfare_core::backend::Backend;
use fanfare_core::error::Result;
use fanfare_core::history::{EventPage, EventQuery};
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
struct IgnoresTheStatus;

#[async_trait]
impl Sabotage for IgnoresTheStatus {
    async fn events(&self, real: &dyn Backend, query: &EventQuery) -> Result<EventPage> {
        let mut any = query.clone();
        any.status = None;
        real.history()?.events(&any).await
    }
}
