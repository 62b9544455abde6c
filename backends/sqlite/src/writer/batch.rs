//! What gathered for one transaction, and how it is refused when there is none.

use std::sync::Arc;

use fanfare_core::Error;
use tokio::sync::oneshot;

use crate::subscription::Subscription;

use super::job::{Append, Flush, Job, Operation};

/// What gathered for one transaction.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) appends: Vec<Append>,
    pub(super) flushes: Vec<Flush>,
    pub(super) operations: Vec<Box<dyn Operation>>,
    /// Written like the subscriptions of `flushes`, but nobody asked.
    pub(super) unasked: Vec<Arc<Subscription>>,
    pub(super) close: Option<oneshot::Sender<()>>,
}

impl Batch {
    pub(super) fn of(jobs: impl Iterator<Item = Job>) -> Self {
        let mut batch = Self::default();
        for job in jobs {
            match job {
                Job::Append(append) => batch.appends.push(append),
                Job::Flush(flush) => batch.flushes.push(flush),
                Job::Operate(operation) => batch.operations.push(operation),
                Job::Close(done) => batch.close = Some(done),
            }
        }
        batch
    }

    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty()
            && self.flushes.is_empty()
            && self.operations.is_empty()
            && self.unasked.is_empty()
    }

    pub(super) fn needs_room(&self) -> bool {
        !self.appends.is_empty() || self.operations.iter().any(|o| o.needs_room())
    }

    /// Answers what needs room, and keeps the rest.
    pub(super) fn refuse_room(&mut self, cause: &Error) {
        for append in self.appends.drain(..) {
            append.answer(Err(cause.duplicate()));
        }
        for operation in self.operations.extract_if(.., |o| o.needs_room()) {
            operation.answer(Some(cause.duplicate()));
        }
    }

    pub(super) fn refuse_all(self, cause: &Error) {
        for append in self.appends {
            append.answer(Err(cause.duplicate()));
        }
        for flush in self.flushes {
            flush.answer(Some(cause.duplicate()));
        }
        for operation in self.operations {
            operation.answer(Some(cause.duplicate()));
        }
        if let Some(done) = self.close {
            let _ = done.send(());
        }
    }
}
