//! What a case stands on: a fresh stream, and the few moves that most cases make. Checks that only
//! one case needs live in that case.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::Bus;
use fanfare_core::admin::{Counts, SubscriptionInfo};
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::event::{Event, EventBuilder};
use fanfare_core::event_type::EventType;
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};

use crate::case::{Failure, Verdict, offered, require, require_eq};
use crate::offer::NO_BOUND;
use crate::random::Random;
use crate::run::Options;
use crate::target::Target;

/// How long a case looks whether something comes that must not.
pub(crate) const BRIEF: Duration = Duration::from_millis(200);
/// A lease that is meant to end during the case.
pub(crate) const SHORT_LEASE: Duration = Duration::from_millis(500);
/// A lease that is meant to outlast the case.
pub(crate) const LONG_LEASE: Duration = Duration::from_mins(5);

/// A fresh stream of the target and a seed.
pub(crate) struct Stage {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Clock,
    pub(crate) seed: u64,
    /// How long to wait for what must come. Only a broken promise makes a case wait so long.
    pub(crate) patience: Duration,
    pub(crate) target: Arc<dyn Target>,
    pub(crate) stream: String,
}

impl Stage {
    pub(crate) async fn open(
        target: Arc<dyn Target>,
        stream: String,
        options: &Options,
        seed: u64,
    ) -> Verdict<Self> {
        let backend = target.open(&stream).await?;
        Ok(Self {
            backend,
            clock: Clock::system(),
            seed,
            patience: options.patience,
            target,
            stream,
        })
    }

    pub(crate) fn random(&self) -> Random {
        Random::new(self.seed)
    }

    /// Closes the backend and opens the same stream again.
    pub(crate) async fn restart(&mut self) -> Verdict {
        self.backend.close().await?;
        self.backend = self.target.open(&self.stream).await?;
        Ok(())
    }

    /// A bus on the stream, which its shutdown leaves open.
    pub(crate) fn bus(&self) -> Verdict<Bus> {
        let bus = Bus::builder(self.backend.clone()).clock(self.clock.clone());
        Ok(bus.closes_backend(false).build()?)
    }

    /// A second, bounded stream of the same target.
    pub(crate) async fn bounded(&self, bytes: u64) -> Verdict<Arc<dyn Backend>> {
        let stream = format!("{}_bounded", self.stream);
        let opened = self.target.open_bounded(&stream, bytes).await;
        offered(opened, NO_BOUND)
    }

    /// Publishes in batches; every event must be stored and new.
    pub(crate) async fn publish(&self, events: &[Event]) -> Verdict<Vec<Position>> {
        let listeners = self.listeners().await?;
        let mut positions = Vec::with_capacity(events.len());
        let most = self.backend.capabilities().limits.batch_events.min(500);
        for batch in events.chunks(most.max(1)) {
            let answers = self.backend.publish(batch).await?;
            require_eq!(answers.len(), batch.len(), "answers to a publish");
            for answer in answers {
                let published = answer?;
                require!(!published.duplicate, "a new event was called a duplicate");
                positions.push(published.position.unwrap_or_default());
            }
        }
        self.until_heard(listeners, events).await?;
        Ok(positions)
    }

    /// Who is told of an event a moment after its publisher is: everybody, at most once.
    async fn listeners(&self) -> Verdict<Vec<SubscriptionInfo>> {
        if !self.backend.capabilities().at_most_once {
            return Ok(Vec::new());
        }
        Ok(self.backend.admin().list().await?)
    }

    /// Until each of them counts what it is to get.
    async fn until_heard(&self, listeners: Vec<SubscriptionInfo>, events: &[Event]) -> Verdict {
        let until = self.clock.now() + self.patience;
        for before in listeners {
            let types = events.iter().map(Event::event_type);
            let meant = types.filter(|t| before.spec.patterns.matches(t)).count();
            let wanted = before.counts.published + meant as u64;
            while self.counts(&before.spec.name).await?.published < wanted {
                require!(
                    self.clock.now() < until,
                    "{} did not hear {meant} events",
                    before.spec.name
                );
                self.clock.sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }

    /// Publishes `count` events of one type, numbered in their data.
    pub(crate) async fn publish_many(&self, event_type: &str, count: usize) -> Verdict<Vec<Event>> {
        let events = events(event_type, count)?;
        self.publish(&events).await?;
        Ok(events)
    }

    /// Creates a subscription and joins it.
    pub(crate) async fn join(&self, spec: &SubscriptionSpec) -> Verdict<Seat> {
        self.create(spec).await?;
        self.rejoin(&spec.name).await
    }

    /// Creates a subscription, or changes its options.
    pub(crate) async fn create(&self, spec: &SubscriptionSpec) -> Verdict {
        self.backend.admin().put(&self.startable(spec)).await?;
        Ok(())
    }

    /// The same with the next event as its start, where the earliest is not offered.
    pub(crate) fn startable(&self, spec: &SubscriptionSpec) -> SubscriptionSpec {
        let mut spec = spec.clone();
        if spec.start == Start::Earliest && !self.backend.capabilities().start.earliest {
            spec.start = Start::Latest;
        }
        spec
    }

    /// Creates a subscription from the earliest event with a long lease, and joins it.
    pub(crate) async fn join_new(&self, subscription: &str, pattern: &str) -> Verdict<Seat> {
        self.join(&spec(subscription, pattern)?).await
    }

    /// Another member of a subscription.
    pub(crate) async fn rejoin(&self, subscription: &SubscriptionName) -> Verdict<Seat> {
        let member = Member {
            name: "suite".into(),
            kind: MemberKind::Embedded,
        };
        self.seat(subscription, member).await
    }

    pub(crate) async fn seat(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Verdict<Seat> {
        Ok(Seat {
            consumer: self.backend.consume(subscription, member).await?,
            subscription: subscription.clone(),
            clock: self.clock.clone(),
            patience: self.patience,
        })
    }

    pub(crate) async fn counts(&self, subscription: &SubscriptionName) -> Verdict<Counts> {
        Ok(self.backend.admin().get(subscription).await?.counts)
    }

    /// Whatever a case did, its books must balance at the end.
    pub(crate) async fn close(&self) -> Verdict {
        if self.backend.admin().stats().await.is_ok() {
            self.require_balance().await?;
        }
        Ok(self.backend.close().await?)
    }

    /// Every balance must hold, where the backend can prove it.
    pub(crate) async fn require_balance(&self) -> Verdict {
        if !self.backend.capabilities().audit {
            return Ok(());
        }
        for audited in self.backend.admin().audit(None).await? {
            let sound = audited.counts.balanced() && audited.breaches.is_empty();
            require!(sound, "the balance does not hold: {audited:?}");
        }
        Ok(())
    }
}

/// One member of one subscription.
pub(crate) struct Seat {
    pub(crate) subscription: SubscriptionName,
    pub(crate) consumer: Arc<dyn Consumer>,
    pub(crate) patience: Duration,
    clock: Clock,
}

impl Seat {
    /// Exactly `count` deliveries; fails when they do not come, or more come.
    #[track_caller]
    pub(crate) fn take(&self, count: usize) -> impl Future<Output = Verdict<Vec<Delivery>>> {
        let at = std::panic::Location::caller();
        async move {
            let until = self.clock.now() + self.patience;
            let mut taken = Vec::with_capacity(count);
            while taken.len() < count && self.clock.now() < until {
                let most = count - taken.len();
                taken.extend(self.consumer.receive(most, Duration::from_secs(1)).await?);
            }
            if taken.len() == count {
                return Ok(taken);
            }
            Err(Failure::Broken(format!(
                "{} deliveries came, expected {count} ({}:{})",
                taken.len(),
                at.file(),
                at.line()
            )))
        }
    }

    /// The next delivery.
    #[track_caller]
    pub(crate) fn one(&self) -> impl Future<Output = Verdict<Delivery>> {
        let taken = self.take(1);
        async move {
            let first = taken.await?.pop();
            first.ok_or_else(|| Failure::new("no delivery"))
        }
    }

    /// Fails when anything comes within `wait`.
    pub(crate) async fn nothing_for(&self, wait: Duration) -> Verdict {
        let came = self.consumer.receive(10, wait).await?;
        require!(
            came.is_empty(),
            "{} got what it must not get: {:?}",
            self.subscription,
            came.iter().map(|d| &d.event).collect::<Vec<_>>()
        );
        Ok(())
    }

    /// Fails when anything comes soon.
    pub(crate) async fn nothing(&self) -> Verdict {
        self.nothing_for(BRIEF).await
    }

    /// Settles one delivery and says what became of it.
    pub(crate) async fn try_settle(&self, receipt: Receipt, with: Settlement) -> Verdict<Settled> {
        let answers = self.consumer.settle(vec![(receipt, with)]).await?;
        require_eq!(answers.len(), 1, "answers to a settlement");
        answers
            .first()
            .copied()
            .ok_or_else(|| Failure::new("no answer"))
    }

    /// Settles one delivery, which must count.
    pub(crate) async fn settle(&self, delivery: &Delivery, with: Settlement) -> Verdict {
        let settled = self.try_settle(delivery.receipt, with.clone()).await?;
        require_eq!(settled, Settled::Done, "settling with {with:?}");
        Ok(())
    }

    /// Acknowledges all, which must count.
    pub(crate) async fn ack(&self, deliveries: &[Delivery]) -> Verdict {
        let all = deliveries.iter().map(|d| (d.receipt, Settlement::Ack));
        let answers = self.consumer.settle(all.collect()).await?;
        require_eq!(answers.len(), deliveries.len(), "answers to a settlement");
        for answer in answers {
            require_eq!(answer, Settled::Done, "acknowledging");
        }
        Ok(())
    }

    /// Takes and acknowledges exactly `count`, then nothing more may come.
    pub(crate) async fn finish(&self, count: usize) -> Verdict<Vec<Delivery>> {
        let taken = self.take(count).await?;
        self.ack(&taken).await?;
        self.nothing().await?;
        Ok(taken)
    }
}

/// A subscription from the earliest event, with a lease that outlasts the case.
pub(crate) fn spec(subscription: &str, pattern: &str) -> Verdict<SubscriptionSpec> {
    let name = SubscriptionName::parse(subscription)?;
    let patterns = PatternSet::parse(pattern.split(' '))?;
    let mut spec = SubscriptionSpec::new(name, patterns);
    spec.start = Start::Earliest;
    spec.lease = LONG_LEASE;
    Ok(spec)
}

/// The same with a lease that is meant to end during the case.
pub(crate) fn short_lease(subscription: &str, pattern: &str) -> Verdict<SubscriptionSpec> {
    let mut spec = spec(subscription, pattern)?;
    spec.lease = SHORT_LEASE;
    Ok(spec)
}

/// The same with order by key.
pub(crate) fn ordered(subscription: &str, pattern: &str) -> Verdict<SubscriptionSpec> {
    let mut spec = spec(subscription, pattern)?;
    spec.ordered = true;
    Ok(spec)
}

/// A failure to be tried again.
pub(crate) fn retry(after: Duration) -> Settlement {
    Settlement::Retry {
        after,
        error: "did not work".into(),
    }
}

/// A failure for good.
pub(crate) fn dead(reason: &str) -> Settlement {
    Settlement::DeadLetter {
        reason: reason.into(),
        error: "will not work".into(),
    }
}

/// Every dead letter of the stream.
pub(crate) fn every_letter() -> Selection {
    Selection::Filter(DeadLetterFilter::default())
}

/// Starts an event.
pub(crate) fn event(event_type: &str) -> Verdict<EventBuilder> {
    Ok(Event::builder(EventType::parse(event_type)?).source("/suite"))
}

/// `count` events of one type, numbered in their data.
pub(crate) fn events(event_type: &str, count: usize) -> Verdict<Vec<Event>> {
    (0..count)
        .map(|n| Ok(event(event_type)?.data(Data::json(n.to_string())).build()?))
        .collect()
}

/// `count` events of each key, in turn, numbered from 0 within their key.
pub(crate) fn keyed(event_type: &str, keys: &[&str], count: usize) -> Verdict<Vec<Event>> {
    let mut events = Vec::with_capacity(keys.len() * count);
    for n in 0..count {
        for key in keys {
            let event = event(event_type)?.key(*key);
            events.push(event.data(Data::json(n.to_string())).build()?);
        }
    }
    Ok(events)
}

/// The number in an event's data.
pub(crate) fn number(event: &Event) -> Verdict<u64> {
    std::str::from_utf8(event.bytes())
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::new("the data are no number"))
}

/// Fails unless exactly these events came, each once, and unchanged.
pub(crate) fn require_same(came: &[Delivery], published: &[Event]) -> Verdict {
    let identity = |event: &Event| (event.source().clone(), event.id().clone());
    let mut missing: BTreeMap<_, _> = published.iter().map(|e| (identity(e), e)).collect();
    for delivery in came {
        let Some(original) = missing.remove(&identity(&delivery.event)) else {
            let event = &delivery.event;
            return Err(Failure::new(format!("came unasked, or twice: {event:?}")));
        };
        require_unchanged(&delivery.event, original)?;
    }
    let left: Vec<_> = missing.values().collect();
    require!(
        left.is_empty(),
        "{} never came: {:?}",
        left.len(),
        left.first()
    );
    Ok(())
}

/// Fails unless the event is what was published, and says which attribute is not.
pub(crate) fn require_unchanged(came: &Event, published: &Event) -> Verdict {
    require_eq!(came.id(), published.id(), "id");
    require_eq!(came.source(), published.source(), "source");
    require_eq!(came.event_type(), published.event_type(), "type");
    require_eq!(came.subject(), published.subject(), "subject");
    require_eq!(came.time(), published.time(), "time");
    require_eq!(
        came.content_type(),
        published.content_type(),
        "datacontenttype"
    );
    require_eq!(came.schema(), published.schema(), "dataschema");
    let extensions = |event: &Event| {
        let own = event
            .extensions()
            .map(|(name, value)| (name.to_owned(), value.clone()));
        own.collect::<Vec<_>>()
    };
    require_eq!(extensions(came), extensions(published), "extensions");
    require!(
        came.data() == published.data(),
        "the data of {came:?} changed"
    );
    Ok(())
}
