//! Jobs that follow their sources: what each event does to what is known of its source. The job that
//! comes of it, and doing it once, are [`super::jobs`]'s.

use super::handler::{SourceEvent, SourceEvents};
use super::jobs::{Applied, Change, Jobs};
use crate::Failure;
use crate::events::{SourceDeleted, SourceDetails, SourceDisabled, SourceEnabled, SourceUpdated};

/// Changes jobs.
#[derive(Debug, Clone)]
pub struct Follow(pub Jobs);

impl Follow {
    async fn apply<T: Send>(
        &self,
        event: &SourceEvent<T>,
        change: impl FnOnce(Option<SourceDetails>) -> Result<Change, Failure> + Send,
    ) -> Result<(), Failure> {
        let SourceEvent {
            id,
            event_type,
            source_id,
            at,
            stream_id,
            ..
        } = event;
        match self.0.apply(Some(*id), *source_id, *at, change).await? {
            Applied::Unknown => {
                // Reconciliation asks the source-manager.
                tracing::warn!(event_type, %source_id, stream_id, "about a source never heard of");
            }
            applied => tracing::info!(event_type, %source_id, stream_id, ?applied, "processed"),
        }
        Ok(())
    }
}

/// Known with this state, or unknown still.
fn toggled(known: Option<SourceDetails>, enabled: bool) -> Change {
    known.map_or(Change::Unknown, |details| Change::Is {
        details: SourceDetails { enabled, ..details },
        toggled: true,
    })
}

impl SourceEvents for Follow {
    async fn created(&self, event: SourceEvent<SourceDetails>) -> Result<(), Failure> {
        let details = event.payload.clone();
        let made = Change::Is {
            details,
            toggled: true,
        };
        self.apply(&event, |_| Ok(made)).await
    }

    async fn updated(&self, event: SourceEvent<SourceUpdated>) -> Result<(), Failure> {
        let current = event.payload.current.clone().unwrap_or_default();
        // Who publishes may not say what changed, so that is found by comparing.
        let change = |known: Option<SourceDetails>| {
            let Some(known) = known else {
                return Ok(Change::Unknown);
            };
            let details = known.with(&current)?;
            let toggled = details.enabled != known.enabled;
            Ok(Change::Is { details, toggled })
        };
        self.apply(&event, change).await
    }

    async fn deleted(&self, event: SourceEvent<SourceDeleted>) -> Result<(), Failure> {
        self.apply(&event, |_| Ok(Change::Gone)).await
    }

    async fn enabled(&self, event: SourceEvent<SourceEnabled>) -> Result<(), Failure> {
        self.apply(&event, |known| Ok(toggled(known, true))).await
    }

    async fn disabled(&self, event: SourceEvent<SourceDisabled>) -> Result<(), Failure> {
        self.apply(&event, |known| Ok(toggled(known, false))).await
    }
}
