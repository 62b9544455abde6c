//! The answer to a pull. If the client is gone before the answer was written, its deliveries are
//! released at once instead of waiting for their leases to end.
//!
//! HTTP/1 gives no receipt for an answer, so the last byte is held back until everything before it
//! was flushed and the connection was looked at again: a client that hung up is noticed there.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use fanfare::core::delivery::{Receipt, Settlement};
use hyper::body::{Body, Frame, SizeHint};
use tokio_util::task::TaskTracker;

use crate::member::Member;

/// A body that knows whether it was written.
pub(crate) struct Held {
    /// What is still to be written.
    rest: Bytes,
    stage: Stage,
    deliveries: Option<Deliveries>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Flushing,
    Last,
}

struct Deliveries {
    tasks: TaskTracker,
    member: Arc<Member>,
    receipts: Vec<Receipt>,
}

impl Held {
    /// Holds deliveries; dropped without being written, it releases them.
    pub(crate) fn new(tasks: TaskTracker, member: Arc<Member>, receipts: Vec<Receipt>) -> Self {
        Self {
            rest: Bytes::new(),
            stage: Stage::Head,
            deliveries: (!receipts.is_empty()).then_some(Deliveries {
                tasks,
                member,
                receipts,
            }),
        }
    }

    /// What is to be written.
    pub(crate) fn with_body(mut self, body: Vec<u8>) -> Self {
        self.rest = body.into();
        self
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.stage {
            Stage::Head => {
                self.stage = Stage::Flushing;
                let most = self.rest.len().saturating_sub(1);
                let head = self.rest.split_to(most);
                Poll::Ready(Some(Ok(Frame::data(head))))
            }
            Stage::Flushing => {
                self.stage = Stage::Last;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Stage::Last => {
                self.deliveries = None;
                let last = std::mem::take(&mut self.rest);
                let frame = (!last.is_empty()).then(|| Ok(Frame::data(last)));
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stage == Stage::Last && self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(Deliveries {
            tasks,
            member,
            receipts,
        }) = self.deliveries.take()
        else {
            return;
        };
        // Outside of the runtime there is no server any more.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        tasks.spawn(async move {
            let count = receipts.len();
            let released = receipts
                .into_iter()
                .map(|receipt| (receipt, Settlement::Release))
                .collect();
            match member.settle(released).await {
                Ok(_) => tracing::debug!(count, "released what a client did not wait for"),
                Err(error) => tracing::warn!(%error, count, "could not release"),
            }
        });
    }
}
