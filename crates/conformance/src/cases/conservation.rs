//! Conservation: nothing is unaccounted for, whatever is done.

use std::time::Duration;

use fanfare_core::admin::{Counts, SeekTo};
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::pattern::{Pattern, PatternSet};
use futures::future::join_all;

use crate::case::{Verdict, cases, require, require_eq};
use crate::random::Random;
use crate::stage::{Seat, Stage, dead, ordered, retry, spec};

cases! { "conservation";
    counts_tell_where_every_delivery_is: 22 + live;
    the_books_balance_after_every_random_step: 22, Audit;
    counts_are_exact_after_every_random_step: 22 + live;
    the_books_balance_under_order: 22, Audit;
    the_books_balance_after_many_members_worked_at_once: 22, Audit;
    each_subscription_has_its_own_books: 22, Audit;
}

async fn counts_tell_where_every_delivery_is(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "orders.*").await?;
    stage.publish_many("orders.placed", 28).await?;
    stage.publish_many("users.created", 5).await?;
    let taken = seat.take(21).await?;
    for (n, delivery) in taken.iter().enumerate() {
        let settlement = match n {
            0..6 => Settlement::Ack,
            6..11 => Settlement::Drop,
            11..15 => dead("rejected"),
            15..18 => retry(Duration::from_hours(1)),
            _ => continue,
        };
        seat.settle(delivery, settlement).await?;
    }
    let expected = Counts {
        published: 28,
        acknowledged: 6,
        dropped: 5,
        dead: 4,
        in_flight: 3,
        waiting: 10,
    };
    require_eq!(stage.counts(&seat.subscription).await?, expected, "counts");
    let listed = stage.backend.admin().list().await?;
    let listed = listed.first().map(|info| info.counts);
    require_eq!(listed, Some(expected), "counts in the list");
    if stage.backend.capabilities().audit {
        let audited = stage
            .backend
            .admin()
            .audit(Some(&seat.subscription))
            .await?;
        let audited = audited.first().map(|audited| audited.counts);
        require_eq!(audited, Some(expected), "counts of the audit");
    }
    Ok(())
}

/// The longest walk that counts after each step.
const WALK: Duration = Duration::from_secs(20);

/// A random walk of one operator with one seat.
struct Walk<'a> {
    stage: &'a Stage,
    seat: Seat,
    random: Random,
    held: Vec<Delivery>,
    /// Events published and letters redriven: after a seek a redriven letter is one delivery more.
    begun: u64,
    patterns: PatternSet,
    /// What the counts must be, without what is in flight or waits. Holds until the first seek.
    counts: Counts,
    seeks: bool,
}

impl<'a> Walk<'a> {
    fn new(stage: &'a Stage, seat: Seat) -> Self {
        let everything = Pattern::everything().into();
        Self {
            patterns: everything,
            counts: Counts::default(),
            seeks: true,
            stage,
            seat,
            random: stage.random(),
            held: Vec::new(),
            begun: 0,
        }
    }

    async fn step(&mut self) -> Verdict {
        match self.random.below(100) {
            0..20 => self.publish().await,
            20..45 => {
                let most = 1 + usize::try_from(self.random.below(20)).unwrap_or(0);
                self.held
                    .extend(self.seat.consumer.receive(most, Duration::ZERO).await?);
                Ok(())
            }
            45..85 => self.settle().await,
            85..97 => self.mend().await,
            97 => self.seek().await,
            _ => self.change_patterns().await,
        }
    }

    async fn publish(&mut self) -> Verdict {
        let types = [
            "orders.placed",
            "orders.paid",
            "users.created",
            "nobody.listens",
        ];
        for _ in 0..=self.random.below(15) {
            let event_type = self.random.pick(&types).copied().unwrap_or("orders.placed");
            let key = ["a", "b", "c", "d"];
            let key = self.random.pick(&key).copied().unwrap_or("a");
            let event = crate::stage::event(event_type)?.key(key).build()?;
            self.counts.published += u64::from(self.patterns.matches(event.event_type()));
            self.stage.publish(&[event]).await?;
            self.begun += 1;
        }
        Ok(())
    }

    async fn settle(&mut self) -> Verdict {
        for _ in 0..=self.random.below(8) {
            let Some(delivery) = self.random.take(&mut self.held) else {
                return Ok(());
            };
            let settlement = match self.random.below(10) {
                0..5 => Settlement::Ack,
                5 => Settlement::Drop,
                6 => Settlement::Release,
                7 => dead("rejected"),
                8 => retry(Duration::ZERO),
                _ => retry(Duration::from_hours(1)),
            };
            let again = self.random.chance(10);
            let settled = self
                .seat
                .try_settle(delivery.receipt, settlement.clone())
                .await?;
            let once = u64::from(settled == Settled::Done);
            match settlement {
                Settlement::Ack => self.counts.acknowledged += once,
                Settlement::Drop => self.counts.dropped += once,
                Settlement::DeadLetter { .. } => self.counts.dead += once,
                Settlement::Retry { .. } | Settlement::Release => {}
            }
            if again {
                let settled = self
                    .seat
                    .try_settle(delivery.receipt, Settlement::Drop)
                    .await?;
                require!(settled != Settled::Done, "the same receipt settled twice");
            }
        }
        Ok(())
    }

    async fn mend(&mut self) -> Verdict {
        let letters = self.stage.backend.dead_letters();
        let filter = DeadLetterFilter::default();
        let some = 1 + usize::try_from(self.random.below(3)).unwrap_or(0);
        let page = letters.list(&filter, None, some).await?;
        let ids = Selection::Ids(page.items.into_iter().map(|letter| letter.id).collect());
        if self.random.chance(70) {
            let redriven = letters.redrive(&ids, 10).await?.done;
            self.begun += redriven;
            self.counts.dead = self.counts.dead.saturating_sub(redriven);
        } else {
            let discarded = letters.discard(&ids).await?.done;
            self.counts.dead = self.counts.dead.saturating_sub(discarded);
            self.counts.dropped += discarded;
        }
        Ok(())
    }

    async fn change_patterns(&mut self) -> Verdict {
        let sets = [["orders.*"], ["users.*"], ["**"]];
        let set = self.random.pick(&sets).copied().unwrap_or(["**"]);
        self.patterns = PatternSet::parse(set)?;
        let admin = self.stage.backend.admin();
        let name = &self.seat.subscription;
        Ok(admin.set_patterns(name, self.patterns.clone()).await?)
    }

    async fn seek(&mut self) -> Verdict {
        if !self.seeks || !self.stage.backend.capabilities().seek {
            return Ok(());
        }
        let to = match self.random.below(3) {
            0 => SeekTo::Earliest,
            1 => SeekTo::Latest,
            _ => match self.random.pick(&self.held) {
                Some(delivery) => SeekTo::After(delivery.position),
                None => SeekTo::Latest,
            },
        };
        let admin = self.stage.backend.admin();
        admin.seek(&self.seat.subscription, &to, false).await?;
        Ok(())
    }

    /// What the counts must be now; only of a walk that never seeks.
    fn expected(&self) -> Counts {
        let mut expected = self.counts;
        expected.in_flight = self.held.len() as u64;
        let over = expected.acknowledged + expected.dropped + expected.dead;
        expected.waiting = expected.published.saturating_sub(over + expected.in_flight);
        expected
    }
}

async fn walk(stage: &Stage, seat: Seat, steps: usize) -> Verdict {
    let mut walk = Walk::new(stage, seat);
    for _ in 0..steps {
        walk.step().await?;
        stage.require_balance().await?;
        let info = stage.backend.admin().get(&walk.seat.subscription).await?;
        require!(
            info.counts.balanced(),
            "counts do not balance: {:?}",
            info.counts
        );
        let (published, begun) = (info.counts.published, walk.begun);
        require!(published <= begun, "{published} published of {begun}");
    }
    Ok(())
}

async fn the_books_balance_after_every_random_step(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    walk(stage, seat, 300).await
}

async fn counts_are_exact_after_every_random_step(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let mut walk = Walk::new(stage, seat);
    walk.seeks = false;
    // As many as this takes at most: a count costs some brokers several questions.
    let until = stage.clock.now() + WALK;
    for _ in 0..400 {
        if stage.clock.now() >= until {
            break;
        }
        walk.step().await?;
        let counts = stage.counts(&walk.seat.subscription).await?;
        require_eq!(counts, walk.expected(), "counts");
    }
    Ok(())
}

async fn the_books_balance_under_order(stage: &Stage) -> Verdict {
    let seat = stage.join(&ordered("all", "**")?).await?;
    walk(stage, seat, 300).await
}

async fn the_books_balance_after_many_members_worked_at_once(stage: &Stage) -> Verdict {
    stage.backend.admin().put(&spec("all", "**")?).await?;
    let workers = (0..8_u64).map(|n| async move {
        let seat = stage.rejoin(&spec("all", "**")?.name).await?;
        let mut random = Random::new(stage.seed ^ n);
        for _ in 0..15 {
            stage.publish_many("orders.placed", 10).await?;
            for delivery in seat.consumer.receive(15, Duration::ZERO).await? {
                let settlement = match random.below(10) {
                    0..6 => Settlement::Ack,
                    6 => Settlement::Drop,
                    7 => dead("rejected"),
                    8 => retry(Duration::ZERO),
                    _ => Settlement::Release,
                };
                seat.settle(&delivery, settlement).await?;
            }
        }
        Verdict::Ok(())
    });
    for done in join_all(workers).await {
        done?;
    }
    stage.require_balance().await?;
    let counts = stage.counts(&spec("all", "**")?.name).await?;
    require_eq!(counts.published, 1_200, "published");
    require!(counts.balanced(), "counts do not balance: {counts:?}");
    Ok(())
}

async fn each_subscription_has_its_own_books(stage: &Stage) -> Verdict {
    let orders = stage.join_new("orders", "orders.*").await?;
    let users = stage.join_new("users", "users.*").await?;
    stage.publish_many("orders.placed", 7).await?;
    stage.publish_many("users.created", 3).await?;
    orders.finish(7).await?;
    let audited = stage.backend.admin().audit(None).await?;
    let mut books: Vec<_> = audited
        .iter()
        .map(|a| {
            (
                a.name.as_str(),
                a.counts.published,
                a.counts.acknowledged,
                a.counts.waiting,
            )
        })
        .collect();
    books.sort_unstable();
    require_eq!(books, [("orders", 7, 7, 0), ("users", 3, 0, 3)], "books");
    users.finish(3).await?;
    Ok(())
}
