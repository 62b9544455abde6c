//! Operating the subscriptions of this process. They are gone with it; what Redis would have to keep
//! for them (a place to seek to, a log to audit) it does not have.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::admin::{
    Admin, Audited, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::dead_letter::{DeadLetterFilter, DeadLetters, Selection};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{OnDead, Start, SubscriptionName, SubscriptionSpec};
use fanfare_cursor::queue::Queue;

use super::RedisPubSub;
use super::line::{self, Line};
use super::subscription::Subscription;

/// How long the server may take to show that it is well.
const HEALTH: Duration = Duration::from_secs(1);

impl RedisPubSub {
    /// Changes what may be changed of a subscription that is there.
    fn alter(subscription: &Subscription, spec: &SubscriptionSpec) -> Result<Put> {
        let mut queue = subscription.queue();
        queue.spec.agrees_with(spec)?;
        if queue.spec == *spec {
            return Ok(Put::Unchanged);
        }
        queue.change(spec.clone());
        Ok(Put::Changed)
    }

    async fn create(&self, spec: &SubscriptionSpec) -> Result<()> {
        let line = Line::open(&self.stream, self.stream.channels.selectors(&spec.patterns)).await?;
        let now = self.stream.wire.config.clock.now();
        let queue = Queue::new(spec.clone(), now, self.stream.bounds);
        let subscription = Arc::new(Subscription::new(queue, self.gaps.clone()));
        {
            let mut all = self.subscriptions.lock();
            // A close may have come in between: then nobody would end the line.
            self.check_open()?;
            all.insert(spec.name.clone(), subscription.clone());
        }
        subscription.is_up_by(&line);
        tokio::spawn(line::run(self.stream.clone(), subscription, line));
        Ok(())
    }

    fn all(&self) -> Vec<Arc<Subscription>> {
        self.subscriptions.lock().values().cloned().collect()
    }
}

fn not_offered(what: &str) -> Error {
    let text = format!("{what}: redis keeps nothing in the mode pubsub");
    Error::new(ErrorKind::Unsupported, text)
}

#[async_trait]
impl Admin for RedisPubSub {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        self.check_open()?;
        spec.check()?;
        if let Ok(there) = self.subscription(&spec.name) {
            let kept = SubscriptionSpec {
                start: Start::Latest,
                ..spec.clone()
            };
            return Self::alter(&there, &kept);
        }
        if spec.start != Start::Latest {
            return Err(not_offered(
                "a subscription can only start with the next event",
            ));
        }
        if spec.on_dead == OnDead::Park {
            return Err(not_offered("a key cannot wait behind its dead letter"));
        }
        let _alone = self.creating.lock().await;
        if let Ok(there) = self.subscription(&spec.name) {
            return Self::alter(&there, spec);
        }
        self.create(spec).await?;
        Ok(Put::Created)
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        self.check_open()?;
        let subscription = self.subscription(name)?;
        subscription.change_patterns(&self.stream, patterns).await
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        self.check_open()?;
        let subscription = self.subscription(name)?;
        let counts = subscription.queue().counts();
        if !force && (counts.unsettled() > 0 || counts.dead > 0) {
            return Err(counts.refuse_deletion(name));
        }
        let filter = DeadLetterFilter {
            subscription: Some(name.clone()),
            ..DeadLetterFilter::default()
        };
        self.discard(&Selection::Filter(filter)).await?;
        self.subscriptions.lock().remove(name);
        subscription.end();
        Ok(())
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        self.check_open()?;
        Ok(self.subscription(name)?.queue().info())
    }

    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        Ok(Admin::get(self, name).await?.spec)
    }

    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        self.check_open()?;
        let all = self.all().into_iter();
        let named = all.filter(|subscription| !subscription.ephemeral);
        Ok(named
            .map(|subscription| subscription.queue().info())
            .collect())
    }

    /// What comes meanwhile fills the queue, and then the server's patience.
    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.check_open()?;
        let subscription = self.subscription(name)?;
        subscription.change(|queue| queue.paused = paused);
        Ok(())
    }

    async fn seek(&self, _: &SubscriptionName, _: &SeekTo, _: bool) -> Result<Sought> {
        Err(not_offered("a subscription cannot be moved"))
    }

    async fn audit(&self, _: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        Err(not_offered("there is nothing to count against"))
    }

    async fn stats(&self) -> Result<StreamStats> {
        self.check_open()?;
        let mut stats = StreamStats::default();
        for subscription in self.all() {
            let (events, bytes) = subscription.queue().held();
            stats.events += events as u64;
            stats.bytes += bytes as u64;
        }
        stats.losses = self.gaps.load(Ordering::Relaxed);
        Ok(stats)
    }

    async fn health(&self) -> Health {
        if let Err(error) = self.check_open() {
            let detail = error.to_string();
            return Health { ok: false, detail };
        }
        let all = self.all();
        let deaf = all.iter().filter(|one| !one.hears());
        let deaf = deaf.count();
        if deaf > 0 {
            let detail = format!("{deaf} of {} subscriptions hear nothing now", all.len());
            return Health { ok: false, detail };
        }
        let ping = redis::cmd("PING");
        tokio::select! {
            answer = self.stream.wire.run::<String>(&ping) => match answer {
                Ok(_) => Health { ok: true, detail: self.wellbeing().await },
                Err(error) => Health { ok: false, detail: error.to_string() },
            },
            () = self.stream.wire.config.clock.sleep(HEALTH) => {
                Health { ok: false, detail: "redis does not answer".into() }
            }
        }
    }
}

impl RedisPubSub {
    async fn wellbeing(&self) -> String {
        let gaps = self.stats().await.map_or(0, |stats| stats.losses);
        let unheard = self.unheard();
        format!("at most once; gaps so far: {gaps}; events that nobody heard: {unheard}")
    }
}
