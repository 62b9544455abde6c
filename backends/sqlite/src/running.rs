//! A note of which deliveries run in this process, kept in one page of a small file that is written
//! without sync. If the process dies, those come back alone at the next start, and nothing else does.
//! It is a hint: after a power cut it may be old, which costs a few needless isolations.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use fanfare_core::Result;
use parking_lot::Mutex;

use crate::error;

/// The size of the file.
const PAGE: usize = 4_096;
/// The first bytes of the file; the rest is a count and ranges, in little endian.
const MAGIC: &[u8; 8] = b"FFRUN-1\n";
const RANGE: usize = 24;
/// As many ranges as fit.
const MOST: usize = (PAGE - 12) / RANGE;

/// A range of positions that ran: subscription number, first and last.
pub(crate) type Ran = (i64, u64, u64);

/// The note of one process; none once it ended well.
#[derive(Debug)]
pub(crate) struct Running(Mutex<Option<Note>>);

#[derive(Debug)]
struct Note {
    file: File,
    ranges: BTreeMap<i64, Vec<(u64, u64)>>,
    failed: bool,
}

impl Running {
    /// Opens the note and takes over what the last process left in it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Ran>)> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| error::file(e, path))?;
        let mut page = Vec::new();
        file.read_to_end(&mut page)
            .map_err(|e| error::file(e, path))?;
        let left = read(&page).unwrap_or_default();
        let note = Note {
            file,
            ranges: BTreeMap::new(),
            failed: false,
        };
        Ok((Self(Mutex::new(Some(note))), left))
    }

    /// What runs of one subscription now.
    pub(crate) fn note(&self, number: i64, ranges: impl Iterator<Item = (u64, u64)>) {
        let mut note = self.0.lock();
        let Some(note) = &mut *note else {
            return;
        };
        let ranges: Vec<_> = ranges.take(MOST).collect();
        if note
            .ranges
            .get(&number)
            .is_some_and(|before| *before == ranges)
        {
            return;
        }
        if ranges.is_empty() && note.ranges.remove(&number).is_none() {
            return;
        }
        if !ranges.is_empty() {
            note.ranges.insert(number, ranges);
        }
        note.write();
    }

    /// Nothing runs any more, and nothing will.
    pub(crate) fn clear(&self) {
        if let Some(mut note) = self.0.lock().take() {
            note.ranges.clear();
            note.write();
        }
    }
}

impl Note {
    fn write(&mut self) {
        let mut page = Vec::with_capacity(PAGE);
        page.extend_from_slice(MAGIC);
        let each = |(number, ranges): (&i64, &Vec<(u64, u64)>)| {
            let number = *number;
            let ranges = ranges.clone().into_iter();
            ranges.map(move |(first, last)| (number, first, last))
        };
        let all: Vec<Ran> = self.ranges.iter().flat_map(each).take(MOST).collect();
        page.extend_from_slice(&u32::try_from(all.len()).unwrap_or(0).to_le_bytes());
        for (number, first, last) in all {
            page.extend_from_slice(&number.to_le_bytes());
            page.extend_from_slice(&first.to_le_bytes());
            page.extend_from_slice(&last.to_le_bytes());
        }
        page.resize(PAGE, 0);
        let written = self
            .file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&page));
        if let Err(error) = written
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!(%error, "what runs is not noted: after a crash more may come back alone");
        }
    }
}

fn read(page: &[u8]) -> Option<Vec<Ran>> {
    let rest = page.strip_prefix(MAGIC)?;
    let (count, rest) = rest.split_first_chunk()?;
    let count = u32::from_le_bytes(*count) as usize;
    let ranges = rest.chunks_exact(RANGE).take(count).filter_map(|range| {
        let (number, range) = range.split_first_chunk()?;
        let (first, last) = range.split_first_chunk()?;
        Some((
            i64::from_le_bytes(*number),
            u64::from_le_bytes(*first),
            u64::from_le_bytes(*last.first_chunk()?),
        ))
    });
    Some(ranges.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_reads_what_ran() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.running");
        let (running, left) = Running::open(&path).unwrap();
        assert!(left.is_empty());
        running.note(1, [(5, 9), (20, 20)].into_iter());
        running.note(2, [(7, 7)].into_iter());
        running.note(2, [].into_iter());
        let (_, left) = Running::open(&path).unwrap();
        assert_eq!(left, [(1, 5, 9), (1, 20, 20)]);
        running.note(3, (0..1_000).map(|p| (p, p)));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), PAGE as u64);
    }
}
