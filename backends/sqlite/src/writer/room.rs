//! Room on disk that is set aside: given up when the disk is full, so that settlements can still be
//! written, and taken again when there is room. Taking it is also how we learn that there is.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use fanfare_core::timestamp::Timestamp;

/// How often a full disk is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The reserve file.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    look_at: Timestamp,
}

impl Reserve {
    pub(crate) fn new(path: PathBuf, bytes: u64) -> Self {
        Self {
            path,
            bytes,
            look_at: Timestamp::EPOCH,
        }
    }

    /// Sets the room aside; cheap where it is already.
    pub(crate) fn take(&self) -> io::Result<()> {
        if std::fs::metadata(&self.path).is_ok_and(|m| m.len() == self.bytes) {
            return Ok(());
        }
        let written = self.write();
        if written.is_err() {
            self.give_up();
        }
        written
    }

    /// Sets the room aside again, unless that was tried a moment ago.
    pub(crate) fn take_again(&mut self, now: Timestamp) -> bool {
        if now < self.look_at {
            return false;
        }
        self.look_at = now + LOOK_AGAIN;
        self.take().is_ok()
    }

    /// Gives the room to whoever needs it.
    pub(crate) fn give_up(&self) {
        // Not there is what we want.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Zeros, not a hole: a hole reserves nothing.
    fn write(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        let zeros = vec![0; 1024 * 1024];
        let mut left = self.bytes;
        while left > 0 {
            let length = left.min(zeros.len() as u64);
            let chunk = zeros.get(..usize::try_from(length).unwrap_or(0));
            file.write_all(chunk.unwrap_or_default())?;
            left -= length;
        }
        file.sync_all()
    }
}
