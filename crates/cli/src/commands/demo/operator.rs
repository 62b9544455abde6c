//! The person who looks after the shop: sees dead letters, mends the card terminal, redrives, and
//! after a while the terminal breaks again.

use std::time::Duration;

use fanfare::Bus;
use fanfare::bus::RedriveOptions;
use fanfare::core::dead_letter::{DeadLetter, DeadLetterFilter, Selection};
use fanfare::core::subscription::SubscriptionName;

use super::shop::{BILLING, Shop};
use super::story::Story;
use crate::failure::Result;
use crate::output::Tone;

/// How often the operator looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many dead letters make the operator act.
const MEND_AT: u64 = 2;
/// How many dead letters are redriven in a second.
const REDRIVE_RATE: u32 = 1;
/// How long the terminal works once it is mended.
const WORKS_FOR: Duration = Duration::from_secs(10);
/// How long the end waits for retries that are due.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
/// The most dead letters looked at in one go.
const PAGE: usize = 100;

/// Watches the dead letters.
#[derive(Debug)]
pub(super) struct Operator {
    bus: Bus,
    story: Story,
    shop: Shop,
    last_seen: Option<String>,
}

impl Operator {
    pub(super) fn new(bus: &Bus, story: &Story, shop: &Shop) -> Self {
        Self {
            bus: bus.clone(),
            story: story.clone(),
            shop: shop.clone(),
            last_seen: None,
        }
    }

    /// Looks and acts without end.
    pub(super) async fn watch(&mut self) -> Result<()> {
        let filter = DeadLetterFilter {
            subscription: Some(SubscriptionName::parse(BILLING)?),
            ..DeadLetterFilter::default()
        };
        loop {
            self.bus.clock().sleep(LOOK_EVERY).await;
            self.look(&filter).await?;
            let selection = Selection::Filter(filter.clone());
            let dead = self.bus.backend().dead_letters().count(&selection).await?;
            if dead >= MEND_AT {
                self.mend(dead, selection).await?;
            }
        }
    }

    async fn look(&mut self, filter: &DeadLetterFilter) -> Result<()> {
        let letters = self.bus.backend().dead_letters();
        let page = letters
            .list(filter, self.last_seen.as_deref(), PAGE)
            .await?;
        for letter in page.items {
            self.story.tell("operator", Tone::Bad, &describe(&letter))?;
            self.last_seen = Some(letter.id);
        }
        Ok(())
    }

    async fn mend(&mut self, dead: u64, selection: Selection) -> Result<()> {
        self.shop.set_terminal(true);
        let text = format!(
            "the card terminal works again; redriving {dead} dead letters, {REDRIVE_RATE} a second"
        );
        self.story.tell("operator", Tone::Good, &text)?;
        let options = RedriveOptions {
            rate: Some(REDRIVE_RATE),
            ..RedriveOptions::default()
        };
        let acted = self.bus.redrive(selection, options).await?;
        let text = format!("{} of {} redriven", acted.done, acted.matched);
        self.story.tell("operator", Tone::Good, &text)?;
        self.bus.clock().sleep(WORKS_FOR).await;
        self.shop.set_terminal(false);
        self.story
            .tell("operator", Tone::Bad, "the card terminal is broken again")
    }

    /// Waits until nothing is under way and no retry is due, within a bound.
    pub(super) async fn wait_until_settled(&self) -> Result<()> {
        let clock = self.bus.clock();
        let until = clock.now() + SETTLE_WITHIN;
        while clock.now() < until {
            let all = self.bus.backend().admin().list().await?;
            if all.iter().all(|info| info.counts.unsettled() == 0) {
                return Ok(());
            }
            clock.sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

fn describe(letter: &DeadLetter) -> String {
    let order = letter.body.event().and_then(|event| event.key());
    format!(
        "dead letter: {} gave up order {} after {} attempts: {}",
        letter.subscription,
        order.unwrap_or("?"),
        letter.attempts,
        letter.error
    )
}
