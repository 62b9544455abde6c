//! Redriving dead letters at a rate, and looking at the newest. Storing and listing them is the
//! backend's; deciding that a delivery is dead is `retry`'s.

use std::collections::VecDeque;
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::dead_letter::{Acted, DeadLetter, DeadLetterFilter, Selection};

use crate::bus::Bus;
use crate::options::RedriveOptions;

/// The most dead letters redriven in one call of the backend.
const CALL_LETTERS: u64 = 500;
/// The most dead letters asked for in one call of the backend.
const PAGE_LETTERS: usize = 1_000;
/// How often a limited rate hands out its share, per second.
const SHARES_PER_SECOND: u32 = 10;

impl Bus {
    /// Returns the selected dead letters to their own subscriptions, oldest first, as fresh
    /// deliveries; each once, however often this is called. `matched` counts those selected at
    /// the start. Dead letters that come back dead meanwhile are not redriven again by this call.
    pub async fn redrive(&self, selection: Selection, options: RedriveOptions) -> Result<Acted> {
        let letters = self.backend().dead_letters();
        let matched = letters.count(&selection).await?;
        let mut acted = Acted { matched, done: 0 };
        if options.dry_run {
            return Ok(acted);
        }
        let goal = options.limit.unwrap_or(u64::MAX).min(matched);
        let (share, pause) = pace(options.rate);
        while acted.done < goal {
            let n = share.min(goal - acted.done);
            let n = usize::try_from(n).unwrap_or(usize::MAX);
            let done = letters.redrive(&selection, n).await?.done;
            acted.done += done;
            // Somebody else took the rest.
            if done == 0 {
                break;
            }
            if let Some(pause) = pause
                && acted.done < goal
            {
                self.clock().sleep(pause).await;
            }
        }
        Ok(acted)
    }

    /// At most `limit` of the dead letters that match, the newest first: for people who look what
    /// went wrong just now. Backends list from the oldest on, so all that match are read; keeps no
    /// more than `limit` and a page of them.
    pub async fn newest_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let letters = self.backend().dead_letters();
        let mut newest = VecDeque::new();
        let mut after = None;
        loop {
            let page = letters.list(filter, after.as_deref(), PAGE_LETTERS).await?;
            newest.extend(page.items);
            newest.drain(..newest.len().saturating_sub(limit));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(newest.into_iter().rev().collect()),
            }
        }
    }
}

/// How many at once, and how long to wait in between.
fn pace(rate: Option<u32>) -> (u64, Option<Duration>) {
    match rate {
        None => (CALL_LETTERS, None),
        Some(rate) => {
            let rate = rate.max(1);
            let share = rate.div_ceil(SHARES_PER_SECOND);
            let pause = Duration::from_secs_f64(f64::from(share) / f64::from(rate));
            (u64::from(share).min(CALL_LETTERS), Some(pause))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_in_shares() {
        assert_eq!(pace(Some(1)), (1, Some(Duration::from_secs(1))));
        assert_eq!(pace(Some(100)), (10, Some(Duration::from_millis(100))));
        assert_eq!(pace(None), (CALL_LETTERS, None));
    }
}
