//! A place on the user's own backend where nothing of theirs is, for what `conformance` and `bench`
//! write. Files are removed with it; streams on a server are not yet.

use std::path::{Path, PathBuf};

use fanfare::address::Address;
use tempfile::TempDir;

use crate::failure::Result;

/// Fresh streams beside the user's.
#[derive(Debug)]
pub(crate) struct Scratch {
    address: Address,
    dir: Option<TempDir>,
}

impl Scratch {
    /// For a database in files: a new directory in the one named, so that the same disk is used.
    pub(crate) fn beside(address: Address) -> Result<Self> {
        if address.scheme() != "sqlite" || address.path().is_empty() {
            return Ok(Self { address, dir: None });
        }
        let parent = existing(Path::new(address.path()));
        let dir = tempfile::Builder::new()
            .prefix("fanfare-scratch-")
            .tempdir_in(parent)?;
        let address = address.with_path(dir.path().display().to_string());
        Ok(Self {
            address,
            dir: Some(dir),
        })
    }

    /// The address of a stream of this name.
    pub(crate) fn stream(&self, name: &str) -> Address {
        self.address.clone().with_parameter("stream", name)
    }

    /// The directory, where there is one.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(TempDir::path)
    }
}

/// The path, or what of it exists.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|ancestor| ancestor.is_dir());
    match found {
        Some(dir) if dir != Path::new("") => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
