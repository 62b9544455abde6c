//! Where the stream lives and what is bounded, as one plain struct. Nothing is opened here.

use std::path::PathBuf;
use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::{Error, Result};

/// The name of a stream when none is given.
pub const DEFAULT_STREAM: &str = "fanfare";

/// One stream in one directory. Start from [`SqliteConfig::new`] and change what differs.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    /// The directory; made when it is not there.
    pub dir: PathBuf,
    /// The stream, 1 to 64 of `A-Z a-z 0-9 _ -`: the database is `<stream>.db` in the directory.
    pub stream: String,
    /// The most bytes the database may take before publishers get
    /// [`Full`](fanfare_core::ErrorKind::Full); none means as much as the disk holds.
    pub max_bytes: Option<u64>,
    /// How long an event is kept after every subscription settled it. Default 7 days.
    pub retention: Duration,
    /// The time. Default the machine's.
    pub clock: Clock,
    /// The most bytes of data in one event. Default 256 KiB.
    pub data_bytes: usize,
    /// The most events in one publish. Default 1,000.
    pub batch_events: usize,
    /// The most calls that wait for the writer; further ones wait for room. Default 8,192.
    pub queue_calls: usize,
    /// The most bytes of events that wait for the writer. Default 64 MiB.
    pub queue_bytes: usize,
    /// The most events kept in memory behind the log's head, so that consumers that keep up
    /// never read the disk. Default 65,536.
    pub tail_events: usize,
    /// The most bytes of such events. Default 64 MiB.
    pub tail_bytes: usize,
    /// How many read-only connections serve consumers that are behind, and history. Default 4.
    pub readers: usize,
    /// The page cache of the writing connection, in KiB. Default 64 MiB.
    pub cache_kib: u32,
    /// Bytes set aside on disk, so that settlements can still be written when it is full.
    /// Default 8 MiB; keep it above 4 MiB.
    pub reserve_bytes: u64,
    /// How often settled events are looked at for trimming. Default 1 min.
    pub trim_every: Duration,
}

impl SqliteConfig {
    /// The default stream in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            stream: DEFAULT_STREAM.into(),
            max_bytes: None,
            retention: Duration::from_hours(7 * 24),
            clock: Clock::system(),
            data_bytes: 256 * 1024,
            batch_events: 1_000,
            queue_calls: 8_192,
            queue_bytes: 64 * 1024 * 1024,
            tail_events: 65_536,
            tail_bytes: 64 * 1024 * 1024,
            readers: 4,
            cache_kib: 64 * 1024,
            reserve_bytes: 8 * 1024 * 1024,
            trim_every: Duration::from_mins(1),
        }
    }

    /// Names what is out of range.
    pub fn check(&self) -> Result<()> {
        let name = &self.stream;
        let good = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !good {
            let shown: String = name.chars().take(80).collect();
            let detail = format!(
                "`{}` is not a stream name: 1 to 64 of A-Z a-z 0-9 _ and -",
                shown.escape_debug()
            );
            return Err(Error::invalid("/stream", detail));
        }
        if self.queue_calls == 0 || self.readers == 0 || self.tail_events == 0 {
            return Err(Error::invalid(
                "",
                "queue_calls, readers and tail_events must be at least 1",
            ));
        }
        Ok(())
    }

    /// A file of this stream.
    pub(crate) fn file(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.{suffix}", self.stream))
    }
}
