//! A directory for one round, in memory where there is room: a dying process and not a slow disk is
//! to decide the pace, and a kill leaves the page cache alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::command;

const FAST: &str = "/dev/shm";
/// As much as a round may need there, in KiB.
const ROOM: u64 = 1 << 20;

/// A directory that goes when the round does.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) dir: PathBuf,
}

impl Scratch {
    pub(super) fn create(seed: u64) -> Result<Self> {
        let base = if available(FAST) >= ROOM {
            FAST.into()
        } else {
            std::env::temp_dir()
        };
        let dir = base.join(format!("fanfare-chaos-{seed}"));
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Copies the data to where it stays.
    pub(super) fn keep(&self, to: &Path) {
        let _ = copy(&self.dir, to);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// KiB free below a directory; 0 where nobody can tell.
fn available(dir: &str) -> u64 {
    let mut df = Command::new("df");
    df.args(["--output=avail", "-k", dir]);
    let said = command::output(df).unwrap_or_default();
    let last = said.lines().last().unwrap_or_default();
    last.trim().parse().unwrap_or(0)
}

fn copy(from: &Path, to: &Path) -> Result {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
