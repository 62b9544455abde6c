//! Work that must end although nobody may wait for it any more. While somebody does it runs in that
//! task: another one would have to be woken for it, and wake the first one again.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{BoxFuture, FusedFuture, Shared, WeakShared};
use tokio::runtime::Handle;

/// A future that goes on by itself where whoever waits for it stops.
pub(crate) struct Onward(Shared<BoxFuture<'static, ()>>);

/// The same work, for somebody who may need it to end.
pub(crate) struct Begun(WeakShared<BoxFuture<'static, ()>>);

impl Onward {
    pub(crate) fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(work.boxed().shared())
    }

    pub(crate) fn begun(&self) -> Option<Begun> {
        self.0.downgrade().map(Begun)
    }
}

impl Begun {
    /// Whoever waits for it may never look at it again: from now on it does not depend on that.
    pub(crate) fn go_on(self) {
        if let Some(work) = self.0.upgrade() {
            go_on(work);
        }
    }
}

impl Future for Onward {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_unpin(context)
    }
}

impl Drop for Onward {
    fn drop(&mut self) {
        // It is over for who has seen its end.
        if !self.0.is_terminated() {
            go_on(self.0.clone());
        }
    }
}

fn go_on(work: Shared<BoxFuture<'static, ()>>) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_was_begun_ends_although_nobody_waits() {
        let (go, going) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let mut work = Onward::new(async move {
            let gone: u32 = going.await.unwrap();
            tell.send(gone).unwrap();
        });
        assert!(futures::poll!(&mut work).is_pending());
        drop(work);
        go.send(7).unwrap();
        assert_eq!(told.await, Ok(7));
    }

    #[tokio::test]
    async fn what_was_begun_ends_although_whoever_waits_never_looks_again() {
        let (go, going) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let mut work = Onward::new(async move {
            let gone: u32 = going.await.unwrap();
            tell.send(gone).unwrap();
        });
        assert!(futures::poll!(&mut work).is_pending());
        work.begun().unwrap().go_on();
        go.send(7).unwrap();
        assert_eq!(told.await, Ok(7));
        work.await;
    }
}
