//! A place on the user's own backend where nothing of theirs is, for what `conformance` and `bench`
//! write: streams that begin with a name nobody else has, removed when all is done.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanfare::address::Address;
use fanfare::core::backend::Backend;
use fanfare::core::clock::Clock;
use fanfare::core::id::EventId;
use fanfare::core::{Error, ErrorKind};
use fanfare::registry;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::RwLock;

use crate::failure::Result;

/// How long a stream may take to close before it is left to itself.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Streams removed at a time, where they are removed one by one.
const AT_ONCE: usize = 4;

/// Fresh streams beside the user's. What is open is known: a stream that is removed while it is open
/// makes itself again.
#[derive(Debug)]
pub(crate) struct Scratch {
    address: Address,
    dir: Option<TempDir>,
    prefix: String,
    open: Mutex<Vec<(String, Arc<dyn Backend>)>>,
    /// Every stream that was ever opened.
    made: Mutex<BTreeSet<String>>,
    /// Shared by what is being opened, which goes on when nobody waits for it any more.
    opening: Arc<RwLock<()>>,
    ended: AtomicBool,
}

impl Scratch {
    /// For a database in files: a new directory in the one named, so that the same disk is used.
    pub(crate) fn beside(address: Address) -> Result<Self> {
        let (address, dir) = match address.scheme() {
            "sqlite" if !address.path().is_empty() => {
                let parent = existing(Path::new(address.path()));
                let dir = tempfile::Builder::new()
                    .prefix("fanfare-scratch-")
                    .tempdir_in(parent)?;
                let within = address.with_path(dir.path().display().to_string());
                (within, Some(dir))
            }
            _ => (address, None),
        };
        let id = EventId::generate().to_string();
        let random = id.rsplit('-').next().unwrap_or_default();
        Ok(Self {
            address,
            dir,
            prefix: format!("scratch_{random}"),
            open: Mutex::default(),
            made: Mutex::default(),
            opening: Arc::default(),
            ended: AtomicBool::new(false),
        })
    }

    /// What every stream here begins with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Opens the stream at an address of [`Scratch::stream`].
    pub(crate) async fn open(
        &self,
        stream: &str,
        at: Address,
    ) -> fanfare::core::Result<Arc<dyn Backend>> {
        self.made.lock().insert(stream.to_owned());
        let opening = self.opening.clone().read_owned().await;
        if self.ended.load(Ordering::SeqCst) {
            return Err(removed());
        }
        let backend = tokio::spawn(async move {
            let backend = registry::open(at).await;
            drop(opening);
            backend
        });
        let backend = backend.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "a stream was not opened").because(error)
        })??;
        self.open.lock().push((stream.to_owned(), backend.clone()));
        if self.ended.load(Ordering::SeqCst) {
            self.close(stream).await;
            return Err(removed());
        }
        Ok(backend)
    }

    /// The address of a stream of this name, which begins with the prefix.
    pub(crate) fn stream(&self, name: &str) -> Address {
        let address = self.address.clone().with_parameter("stream", name);
        match (address.scheme(), address.get("mode"), address.get("wire")) {
            // The usual list of a foreign form is everybody's.
            (_, Some("pubsub"), _) => {
                address.with_parameter("dead_letters", format!("{{{name}}}:ff:dlq"))
            }
            // Two streams of NATS share no subject.
            ("nats", _, Some(_)) => address.with_parameter("subjects", name),
            _ => address,
        }
    }

    /// Closes what is open of all streams that begin so.
    pub(crate) async fn close(&self, stream: &str) {
        let (mine, others) = std::mem::take(&mut *self.open.lock())
            .into_iter()
            .partition::<Vec<_>, _>(|(name, _)| name.starts_with(stream));
        self.open.lock().extend(others);
        let clock = Clock::system();
        join_all(mine.into_iter().map(|(_, backend)| {
            let limit = clock.sleep(CLOSE_LIMIT);
            async move {
                tokio::select! {
                    // One that was meant to be broken may not close well.
                    _ = backend.close() => {}
                    () = limit => {}
                }
            }
        }))
        .await;
    }

    /// Closes and removes everything; nothing is opened from now on.
    pub(crate) async fn remove(&self) -> Result<()> {
        self.ended.store(true, Ordering::SeqCst);
        let clock = Clock::system();
        tokio::select! {
            _ = self.opening.write() => {}
            () = clock.sleep(CLOSE_LIMIT) => {}
        }
        self.close(&self.prefix).await;
        let removed = self.remove_streams().await;
        if let Some(dir) = &self.dir {
            std::fs::remove_dir_all(dir.path())?;
        }
        Ok(removed?)
    }

    async fn remove_streams(&self) -> fanfare::core::Result<()> {
        let remove =
            |stream: String| async move { registry::remove(self.stream(&stream), &stream).await };
        if registry::lists(&self.address) {
            return remove(self.prefix.clone()).await;
        }
        let made = self.made.lock().clone();
        let removing = stream::iter(made).map(remove).buffer_unordered(AT_ONCE);
        removing.try_collect().await
    }

    /// What to look for where removing failed.
    pub(crate) fn left(&self) -> String {
        match self.dir() {
            Some(dir) => format!("remove {} yourself", dir.display()),
            None => format!(
                "what is left begins with {}: remove it yourself",
                self.prefix
            ),
        }
    }

    /// The directory, where there is one.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(TempDir::path)
    }
}

fn removed() -> Error {
    Error::new(ErrorKind::Closed, "the scratch is removed")
}

/// The path, or what of it exists.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|ancestor| ancestor.is_dir());
    match found {
        Some(dir) if dir != Path::new("") => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
