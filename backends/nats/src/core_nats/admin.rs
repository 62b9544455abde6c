//! Operating the subscriptions of this process. They are gone with it; what NATS would have to keep
//! for them (a place to seek to, a log to audit) it does not have.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::admin::{
    Admin, Audited, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{OnDead, Start, SubscriptionName, SubscriptionSpec};
use fanfare_cursor::queue::Queue;

use super::NatsCore;
use super::subscription::Subscription;

/// How long the server may take to show that it is well.
const HEALTH: Duration = Duration::from_secs(1);

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

fn not_offered(what: &str) -> Error {
    let text = format!("{what}: nats keeps nothing in the mode core");
    Error::new(ErrorKind::Unsupported, text)
}

#[async_trait]
impl Admin for NatsCore {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        self.room.check_open()?;
        spec.check()?;
        let kept = SubscriptionSpec {
            start: Start::Latest,
            ..spec.clone()
        };
        if let Ok(there) = self.room.subscription(&spec.name) {
            return alter(&there, &kept);
        }
        if spec.start != Start::Latest {
            return Err(not_offered(
                "a subscription can only start with the next event",
            ));
        }
        if spec.on_dead == OnDead::Park {
            return Err(not_offered("a key cannot wait behind its dead letter"));
        }
        // What was published before is nothing to it.
        self.room.caught_up().await?;
        let now = self.room.wire.config.clock.now();
        let mut all = self.room.subscriptions.lock();
        // A close, or somebody with the same name, may have come in between.
        self.room.check_open()?;
        if let Some(there) = all.get(&spec.name) {
            return alter(there, &kept);
        }
        let queue = Queue::new(kept, now, self.room.bounds);
        all.insert(spec.name.clone(), Arc::new(Subscription::new(queue)));
        Ok(Put::Created)
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        self.room.check_open()?;
        let subscription = self.room.subscription(name)?;
        self.room.caught_up().await?;
        subscription.change(|queue| queue.spec.patterns = patterns);
        Ok(())
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        self.room.check_open()?;
        let subscription = self.room.subscription(name)?;
        let counts = subscription.queue().counts();
        if !force && (counts.unsettled() > 0 || counts.dead > 0) {
            return Err(counts.refuse_deletion(name));
        }
        let own = Selection::Filter(DeadLetterFilter {
            subscription: Some(name.clone()),
            ..DeadLetterFilter::default()
        });
        self.room.letters.discard(&own, &self.room);
        self.room.subscriptions.lock().remove(name);
        subscription.end();
        Ok(())
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        self.room.check_open()?;
        Ok(self.room.subscription(name)?.queue().info())
    }

    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        Ok(Admin::get(self, name).await?.spec)
    }

    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        self.room.check_open()?;
        let all = self.room.all().into_iter();
        let named = all.filter(|subscription| !subscription.ephemeral);
        Ok(named
            .map(|subscription| subscription.queue().info())
            .collect())
    }

    /// What comes meanwhile fills the queue, and then is lost.
    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.room.check_open()?;
        let subscription = self.room.subscription(name)?;
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
        self.room.check_open()?;
        let mut stats = StreamStats::default();
        for subscription in self.room.all() {
            let (events, bytes) = subscription.queue().held();
            stats.events += events as u64;
            stats.bytes += bytes as u64;
        }
        (stats.losses, stats.lost) = self.room.missed();
        Ok(stats)
    }

    async fn health(&self) -> Health {
        let ill = |detail: String| Health { ok: false, detail };
        if let Err(error) = self.room.check_open() {
            return ill(error.to_string());
        }
        if !self.room.wire.is_connected() {
            return ill("there is no connection to nats".into());
        }
        tokio::select! {
            heard = self.room.caught_up() => match heard {
                Ok(()) => {
                    let (gaps, dropped) = self.room.missed();
                    let detail = format!(
                        "at most once; gaps so far: {gaps}; events without room: {dropped}"
                    );
                    Health { ok: true, detail }
                }
                Err(error) => ill(error.to_string()),
            },
            () = self.room.wire.config.clock.sleep(HEALTH) => ill("nats does not answer".into()),
        }
    }
}
