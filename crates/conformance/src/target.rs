//! What the suite needs from a backend's test: streams to run against. Not a backend itself.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::backend::Backend;
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use futures::future::BoxFuture;

use crate::line::Breakable;

/// One engine, as configured, under test.
///
/// What needs more than a client, such as a line that can be broken, is answered with none where the
/// engine has nothing of the kind, and with an [`Unsupported`](fanfare_core::ErrorKind::Unsupported)
/// error that says why where this target must not or cannot try it.
#[async_trait]
pub trait Target: Debug + Send + Sync + 'static {
    /// Shown in the report, such as `sqlite`.
    fn name(&self) -> String;

    /// Opens the stream named `stream` (`[a-z0-9_]`, at most 80 bytes). A name that was never seen
    /// MUST be new and empty; one that was opened and closed before MUST hold the same data, where
    /// the capabilities say `durable`.
    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>>;

    /// Hears that a case is over, whatever came of it: all streams whose names begin with `stream`, and
    /// what is still open of them, were its own.
    async fn over(&self, stream: &str) {
        let _ = stream;
    }

    /// Opens a new stream that holds about `bytes` of events at most; none where the engine has no
    /// such bound.
    async fn open_bounded(&self, stream: &str, bytes: u64) -> Option<Result<Arc<dyn Backend>>> {
        let _ = (stream, bytes);
        None
    }

    /// Publishes the events within a transaction of the caller's own, and then, as `end` says,
    /// commits it or rolls it back; none where there are no such transactions.
    async fn transact(
        &self,
        stream: &str,
        events: &[Event],
        end: BoxFuture<'static, bool>,
    ) -> Option<Result<()>> {
        let _ = (stream, events, end);
        None
    }

    /// Writes bytes that are no event to the stream, past every backend; none where nobody else can.
    async fn write_past(&self, stream: &str, bytes: &[u8]) -> Option<Result<()>> {
        let _ = (stream, bytes);
        None
    }

    /// Deletes every event of the stream, past every backend; none where nobody else can.
    async fn lose(&self, stream: &str) -> Option<Result<()>> {
        let _ = stream;
        None
    }

    /// Opens the stream over a line that can be broken, beside a handle of [`Target::open`]; none
    /// where there is no network in between.
    async fn open_breakable(&self, stream: &str) -> Option<Result<Breakable>> {
        let _ = stream;
        None
    }
}
