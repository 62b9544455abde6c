//! Appending to a file and making it durable by fdatasync: what no store can beat.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::group::Group;
use crate::Outcome;

/// A writer that appends the data of what has gathered and flushes once.
pub(crate) fn open(dir: &Path) -> Outcome<Group> {
    let mut file = File::create(dir.join("floor"))?;
    let mut buffer = Vec::new();
    Ok(Group::start(move |jobs| {
        buffer.clear();
        for (event, _) in jobs {
            buffer.extend_from_slice(event.bytes());
        }
        file.write_all(&buffer)?;
        Ok(file.sync_data()?)
    }))
}
