//! Operating subscriptions: those that were made here are the log's, those that others made on the
//! broker are the broker's, and a name says which.

use async_trait::async_trait;
use fanfare_core::Result;
use fanfare_core::admin::{
    Admin, Audited, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};

use super::{JOURNAL, Journal};

impl Journal {
    /// Refuses what would take events away from the journal.
    pub(super) fn not_ours(&self, name: &SubscriptionName) -> Result<()> {
        if *name != self.name {
            return Ok(());
        }
        let text = format!("`{JOURNAL}` fills the journal of this stream: it can be looked at");
        Err(Error::new(ErrorKind::Conflict, text))
    }
}

#[async_trait]
impl Admin for Journal {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        self.not_ours(&spec.name)?;
        self.owner(&spec.name).await?.admin().put(spec).await
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        self.not_ours(name)?;
        let owner = self.owner(name).await?.admin();
        owner.set_patterns(name, patterns).await
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        self.not_ours(name)?;
        self.owner(name).await?.admin().delete(name, force).await
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        self.owner(name).await?.admin().get(name).await
    }

    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        self.owner(name).await?.admin().spec(name).await
    }

    /// Without the journal's own.
    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        let mut all = self.log.admin().list().await?;
        for there in self.source.admin().list().await? {
            let name = &there.spec.name;
            if *name != self.name && all.iter().all(|known| known.spec.name != *name) {
                all.push(there);
            }
        }
        all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        Ok(all)
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.not_ours(name)?;
        let owner = self.owner(name).await?.admin();
        owner.set_paused(name, paused).await
    }

    async fn seek(&self, name: &SubscriptionName, to: &SeekTo, dry_run: bool) -> Result<Sought> {
        self.not_ours(name)?;
        let owner = self.owner(name).await?.admin();
        owner.seek(name, to, dry_run).await
    }

    /// All are those of the log: of others' subscriptions the broker has nothing to compare.
    async fn audit(&self, name: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        let owner = match name {
            Some(name) => self.owner(name).await?,
            None => &self.log,
        };
        owner.admin().audit(name).await
    }

    /// What the log holds, and what was lost on the way to it.
    async fn stats(&self) -> Result<StreamStats> {
        let mut stats = self.log.admin().stats().await?;
        // Of a broker that is away nothing is known, and the log is there all the same.
        let source = self.source.admin().stats().await.unwrap_or_default();
        stats.losses += source.losses;
        stats.lost += source.lost;
        Ok(stats)
    }

    async fn health(&self) -> Health {
        let hears = self.hears.health().await;
        let log = self.log.admin().health().await;
        let mut detail = format!("{}; journal: {}", hears.backend.detail, log.detail);
        for (_, trouble) in &hears.failing {
            detail = format!("{detail}; the journal does not grow: {trouble}");
        }
        Health {
            ok: hears.ok && log.ok,
            detail,
        }
    }
}
