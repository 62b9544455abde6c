//! Input that is no event, written past the backend by somebody else: kept, and in nobody's way.

use fanfare_core::data::Data;
use fanfare_core::dead_letter::{DeadBody, DeadLetter, DeadLetterFilter};

use crate::case::{Failure, Verdict, cases, offered, require, require_eq};
use crate::offer::NOBODY_ELSE;
use crate::stage::{BRIEF, Seat, Stage, every_letter, keyed, ordered, require_same};

cases! { "foreign";
    what_is_no_event_becomes_a_dead_letter_with_its_bytes: 12 + live;
    it_is_in_no_subscriptions_way: 12 + live;
    it_can_be_discarded_but_not_edited: 12 + live;
}

/// Not UTF-8, not JSON, and longer than a word.
const GARBAGE: &[u8] = b"\xff\x00 { \"no\": event, \xc3\x28";

impl Stage {
    async fn garbage(&self) -> Verdict {
        let written = self.target.write_past(&self.stream, GARBAGE).await;
        offered(written, NOBODY_ELSE)
    }

    /// The dead letters, once there are so many.
    async fn letters(&self, seats: &[&Seat], count: usize) -> Verdict<Vec<DeadLetter>> {
        let until = self.clock.now() + self.patience;
        let all = DeadLetterFilter::default();
        loop {
            let page = self.backend.dead_letters().list(&all, None, 10).await?;
            if page.items.len() >= count || self.clock.now() >= until {
                require_eq!(page.items.len(), count, "dead letters");
                return Ok(page.items);
            }
            for seat in seats {
                seat.nothing_for(BRIEF).await?;
            }
        }
    }
}

async fn what_is_no_event_becomes_a_dead_letter_with_its_bytes(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let before = stage.publish_many("orders.placed", 2).await?;
    stage.garbage().await?;
    let mut published = stage.publish_many("orders.paid", 2).await?;
    published.extend(before);
    require_same(&seat.finish(4).await?, &published)?;
    for letter in stage.letters(&[&seat], 1).await? {
        require_eq!(letter.reason, "undecodable", "reason");
        require_eq!(letter.subscription, seat.subscription, "subscription");
        require!(!letter.error.is_empty(), "it does not say what is wrong");
        match letter.body {
            DeadBody::Raw(bytes) => require_eq!(&bytes[..], GARBAGE, "bytes"),
            DeadBody::Event(event) => {
                return Err(Failure::new(format!("garbage was read as {event:?}")));
            }
        }
    }
    let counts = stage.counts(&seat.subscription).await?;
    let all = (counts.acknowledged, counts.dead, counts.unsettled());
    require_eq!(all, (4, 1, 0), "acknowledged, dead, unsettled");
    Ok(())
}

async fn it_is_in_no_subscriptions_way(stage: &Stage) -> Verdict {
    let one = stage.join_new("one", "**").await?;
    let other = stage.join(&ordered("other", "**")?).await?;
    stage.garbage().await?;
    stage.garbage().await?;
    stage
        .publish(&keyed("orders.placed", &["a", "b"], 3)?)
        .await?;
    one.finish(6).await?;
    for _ in 0..3 {
        other.ack(&other.take(2).await?).await?;
    }
    let letters = stage.letters(&[&one, &other], 4).await?;
    for seat in [&one, &other] {
        let own = letters
            .iter()
            .filter(|l| l.subscription == seat.subscription);
        require_eq!(own.count(), 2, "dead letters of a subscription");
    }
    if stage.backend.capabilities().start.earliest {
        // Who comes later meets it too.
        let late = stage.join_new("late", "**").await?;
        late.finish(6).await?;
        stage.letters(&[&late], 6).await?;
    }
    Ok(())
}

async fn it_can_be_discarded_but_not_edited(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.garbage().await?;
    let letters = stage.backend.dead_letters();
    for letter in stage.letters(&[&seat], 1).await? {
        let edited = letters.replace(&letter.id, Data::json("1")).await;
        require!(edited.is_err(), "undecodable input was edited");
    }
    let acted = letters.discard(&every_letter()).await?;
    require_eq!(acted.done, 1, "discarded");
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!((counts.dropped, counts.dead), (1, 0), "dropped, dead");
    Ok(())
}
