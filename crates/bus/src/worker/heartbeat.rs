//! The heartbeat: every third of the lease it extends everything held, so that a slow handler
//! keeps its delivery and a dead process does not.

use std::sync::atomic::Ordering;

use fanfare_core::delivery::{Receipt, Settled};

use super::Core;

/// The most leases extended in one call of the backend.
const CALL_LEASES: usize = 1_000;

/// Beats until it is dropped.
pub(super) async fn run(core: &Core) {
    loop {
        core.clock.sleep(core.spec.lease / 3).await;
        core.extend().await;
    }
}

impl Core {
    async fn extend(&self) {
        let receipts: Vec<Receipt> = {
            let held = self.held.lock();
            held.leases.difference(&held.lost).copied().collect()
        };
        for chunk in receipts.chunks(CALL_LEASES) {
            match self.consumer().extend(chunk, self.spec.lease).await {
                Ok(answers) => self.note(chunk, &answers),
                Err(error) => {
                    self.consuming.errors.add(1);
                    tracing::warn!(subscription = %self.spec.name, %error, "cannot extend leases");
                }
            }
        }
    }

    fn note(&self, receipts: &[Receipt], answers: &[Settled]) {
        let mut held = self.held.lock();
        for (receipt, answer) in receipts.iter().zip(answers) {
            match answer {
                Settled::Done => self.consuming.extended.add(1),
                // Settled by us since we looked.
                _ if !held.leases.contains(receipt) => {}
                Settled::Already => {}
                Settled::Late | Settled::Unknown => {
                    held.lost.insert(*receipt);
                    self.any_lost.store(true, Ordering::Release);
                    self.consuming.leases_lost.add(1);
                    tracing::warn!(subscription = %self.spec.name, delivery = %receipt, "lease lost");
                }
            }
        }
    }
}
