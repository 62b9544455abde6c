//! What both services know of the stream's place: its bus, and the names of its entries.

use std::time::Duration;

use fanfare::Bus;
use fanfare::address::Address;
use fanfare::bus::Limits;
use fanfare::core::Result;
use fanfare::core::position::Position;
use fanfare::registry;
use tokio::task::JoinHandle;

/// How many entries are read at once.
const READ_ENTRIES: usize = 10;
/// How long a read waits for the first.
const READ_WAIT: Duration = Duration::from_secs(5);

/// A bus on the stream at `address`, as soon as Redis can be reached; warns while it cannot.
pub async fn open(address: &Address) -> Result<Bus> {
    let backend = fanfare::when_reachable(|| registry::open(address.clone())).await?;
    let limits = Limits {
        receive_batch: READ_ENTRIES,
        receive_wait: READ_WAIT,
        ..Limits::default()
    };
    Bus::builder(backend).limits(limits).build()
}

/// Ends what was opened in the background, or the waiting for Redis; says why it failed, if it did.
pub async fn close(opened: JoinHandle<Result<Option<Bus>>>, grace: Duration) -> Result<()> {
    if !opened.is_finished() {
        opened.abort();
    }
    match opened.await {
        Ok(opened) => match opened? {
            Some(bus) => bus.shutdown(grace).await.map(drop),
            None => Ok(()),
        },
        // It waited for Redis to the end.
        Err(_) => Ok(()),
    }
}

/// As Redis names the entry at `position`.
pub fn entry_id(position: Position) -> String {
    let milliseconds = position.0 >> 64;
    let sequence = position.0 & u128::from(u64::MAX);
    format!("{milliseconds}-{sequence}")
}
