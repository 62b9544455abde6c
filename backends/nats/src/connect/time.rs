//! What time it is on the server: a difference to ours, and how wrong that may be. Members in other
//! processes measured another difference, so whoever sets a time sets it late and whoever reads one is
//! early by what they may be wrong; then nothing comes back before it is due.

use std::time::Duration;

use bytes::Bytes;
use fanfare_core::error::Result;
use fanfare_core::timestamp::Timestamp;

use super::{Failed, Wire};
use crate::error::unexpected;

/// How often it is asked at most, when the answers take long.
const TRIES: usize = 5;
/// Good enough to ask no more.
const GOOD: Duration = Duration::from_micros(500);

/// In nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offset {
    /// By how much the server's clock is ahead of ours.
    ahead: i128,
    /// By how much that may be wrong.
    wrong: i128,
}

impl Wire {
    /// Time on the server: it is no earlier than this.
    pub(crate) fn now(&self) -> Timestamp {
        let Offset { ahead, wrong } = *self.offset.lock();
        Timestamp::from_nanos(self.config.clock.now().as_nanos() + ahead - wrong)
    }

    /// By how much [`Wire::now`] may be behind.
    pub(crate) fn behind(&self) -> Duration {
        let wrong = self.offset.lock().wrong;
        Duration::from_nanos(u64::try_from(wrong).unwrap_or(0).saturating_mul(2))
    }

    /// Learns what time it is on the server.
    pub(crate) async fn learn_time(&self) -> Result<()> {
        let mut best = self.ask_time().await?;
        for _ in 1..TRIES {
            if best.wrong <= i128::try_from(GOOD.as_nanos()).unwrap_or(0) {
                break;
            }
            let again = self.ask_time().await?;
            if again.wrong < best.wrong {
                best = again;
            }
        }
        *self.offset.lock() = best;
        Ok(())
    }

    async fn ask_time(&self) -> Result<Offset> {
        let subject = self.names.time();
        let before = self.config.clock.now().as_nanos();
        let written = self
            .write(&subject, &Bytes::new(), None, self.patience())
            .await;
        let written = written
            .map_err(Failed::harmless)?
            .map_err(|refusal| refusal.error())?;
        let after = self.config.clock.now().as_nanos();
        let kept = self.last(&subject).await?;
        let kept = kept.ok_or_else(|| unexpected("the question for its time"))?;
        // Where another process asked since, it was before we had read.
        let read = self.config.clock.now().as_nanos();
        let after = if kept.seq == written.seq { after } else { read };
        Ok(Offset {
            ahead: kept.time.as_nanos() - i128::midpoint(before, after),
            wrong: (after - before) / 2,
        })
    }
}
