//! Somebody who writes garbage to a memory backend and deletes its events, in play, and the saboteurs
//! of those who find it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::admin::{SeekTo, StreamStats};
use fanfare_core::backend::Backend;
use fanfare_core::capability::Capabilities;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{DeadBody, DeadLetter, DeadLetterPage};
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::error::{Error, Result};
use fanfare_core::event::Event;

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;

saboteurs! {
    LosesWhatItCannotRead: 12, "keeps no dead letter of what it cannot read" => [
        "foreign::what_is_no_event_becomes_a_dead_letter_with_its_bytes",
        "foreign::it_is_in_no_subscriptions_way",
    ];
    ReadsGarbageAsText: 12, "keeps as text what it cannot read" => [
        "foreign::what_is_no_event_becomes_a_dead_letter_with_its_bytes",
    ];
    HidesItsLosses: 18, "keeps quiet about events that somebody deleted" => [
        "gap::a_lost_stream_goes_on_and_its_loss_is_told_once",
    ];
    TellsItsLossesAgain: 18, "tells of the same loss whenever it is asked" => [
        "gap::a_lost_stream_goes_on_and_its_loss_is_told_once",
    ];
    StopsAtGarbage: 12, "gives out nothing more behind what it cannot read" => [
        "foreign::what_is_no_event_becomes_a_dead_letter_with_its_bytes",
        "foreign::it_is_in_no_subscriptions_way",
    ];
}

/// The event type under which garbage lies in the backend below.
const GARBAGE: &str = "played.garbage";

/// Writes garbage where [`Neighbours`] take it for such.
pub(crate) async fn write(real: &dyn Backend, bytes: &[u8]) -> Result<()> {
    let event = Event::builder(GARBAGE.parse()?).source("/elsewhere");
    let data = Data::binary(Bytes::copy_from_slice(bytes));
    for answer in real.publish(&[event.data(data).build()?]).await? {
        answer?;
    }
    Ok(())
}

fn is_garbage(event: &Event) -> bool {
    event.event_type().as_str() == GARBAGE
}

/// A backend below which not everything is an event, and not everything stays.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    losses: AtomicU64,
}

impl Neighbours {
    /// Takes away whatever is not delivered yet.
    pub(crate) async fn delete(&self, real: &dyn Backend) -> Result<()> {
        for info in real.admin().list().await? {
            let name = &info.spec.name;
            real.admin().seek(name, &SeekTo::Latest, false).await?;
        }
        self.losses.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl Sabotage for Neighbours {
    fn stats(&self, stats: &mut StreamStats) {
        stats.losses = self.losses.load(Ordering::Relaxed);
    }

    fn capable(&self, capabilities: &mut Capabilities) {
        capabilities.foreign_input = true;
    }

    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let came = tap.real.receive(max, wait).await?;
        let (garbage, events): (Vec<_>, Vec<_>) =
            came.into_iter().partition(|d| is_garbage(&d.event));
        let dead = |delivery: Delivery| {
            let reason = "undecodable".into();
            let error = "this is no event".into();
            (delivery.receipt, Settlement::DeadLetter { reason, error })
        };
        if !garbage.is_empty() {
            let all = garbage.into_iter().map(dead).collect();
            tap.real.settle(all).await?;
        }
        Ok(events)
    }

    fn letter(&self, letter: &mut DeadLetter) {
        let bytes = match &letter.body {
            DeadBody::Event(event) if is_garbage(event) => Bytes::copy_from_slice(event.bytes()),
            _ => return,
        };
        letter.body = DeadBody::Raw(bytes);
    }

    async fn replace(&self, real: &dyn Backend, id: &str, data: Data) -> Result<DeadLetter> {
        let letter = real.dead_letters().get(id).await?;
        if letter.body.event().is_some_and(is_garbage) {
            return Err(Error::invalid("/data", "undecodable input has no data"));
        }
        real.dead_letters().replace(id, data).await
    }
}

fn is_raw(letter: &DeadLetter) -> bool {
    matches!(letter.body, DeadBody::Raw(_))
}

#[derive(Debug, Default)]
struct LosesWhatItCannotRead;

impl Sabotage for LosesWhatItCannotRead {
    fn letters(&self, page: &mut DeadLetterPage) {
        page.items.retain(|letter| !is_raw(letter));
    }
}

#[derive(Debug, Default)]
struct ReadsGarbageAsText;

impl Sabotage for ReadsGarbageAsText {
    fn letter(&self, letter: &mut DeadLetter) {
        if let DeadBody::Raw(bytes) = &letter.body {
            let text = String::from_utf8_lossy(bytes).into_owned();
            letter.body = DeadBody::Raw(text.into());
        }
    }
}

#[derive(Debug, Default)]
struct StopsAtGarbage;

#[async_trait]
impl Sabotage for StopsAtGarbage {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let all = fanfare_core::dead_letter::DeadLetterFilter::default();
        let letters = tap.backend.dead_letters().list(&all, None, 10).await?;
        if letters.items.iter().any(is_raw) {
            return Ok(Vec::new());
        }
        tap.real.receive(max.min(1), wait).await
    }
}

#[derive(Debug, Default)]
struct HidesItsLosses;

impl Sabotage for HidesItsLosses {
    fn stats(&self, stats: &mut StreamStats) {
        stats.losses = 0;
    }
}

#[derive(Debug, Default)]
struct TellsItsLossesAgain(AtomicU64);

impl Sabotage for TellsItsLossesAgain {
    fn stats(&self, stats: &mut StreamStats) {
        if stats.losses > 0 {
            stats.losses += self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
