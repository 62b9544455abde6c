//! Which journal a process keeps beside a backend without history, and where. What a journal does is
//! the bus's.

use std::path::Path;
use std::sync::Arc;

use fanfare::address::{Address, DEFAULT_STREAM};
use fanfare::bus::Journal;
use fanfare::bus::journal::JOURNAL;
use fanfare::config::Secret;
use fanfare::core::ErrorKind;
use fanfare::core::backend::Backend;
use fanfare::core::capability::HistoryKind;
use fanfare::registry;
use tempfile::TempDir;

use crate::failure::{Failure, Result};
use crate::settings::Settings;

/// What switches it off.
const NONE: &str = "none";
/// Its directory, in the data directory.
const DIR: &str = "journal";
/// The most bytes of a stream's name.
const STREAM_BYTES: usize = 64;

/// The backend as a server serves it, and where its journal is, if it has one, as it may be shown.
pub(crate) async fn beside(
    backend: Arc<dyn Backend>,
    settings: &Settings,
) -> Result<(Arc<dyn Backend>, Option<String>)> {
    let address = match chosen(&*backend, settings) {
        Ok(Some(address)) => address,
        Ok(None) => return Ok((backend, None)),
        Err(failure) => {
            backend.close().await?;
            return Err(failure);
        }
    };
    let shown = address.to_string();
    let log = match registry::open(address).await {
        Ok(log) => log,
        Err(error) => {
            backend.close().await?;
            let text = format!("journal {shown}: {error} (--journal names another place, or none)");
            return Err(Failure::failed(text));
        }
    };
    Ok((Journal::open(backend, log).await?, Some(shown)))
}

fn chosen(backend: &dyn Backend, settings: &Settings) -> Result<Option<Address>> {
    let needed = backend.capabilities().history == HistoryKind::None;
    match settings.journal.as_ref().map(Secret::reveal) {
        Some(NONE) => Ok(None),
        Some(_) if !needed => Err(Failure::usage(
            "this backend keeps its events itself: a journal is for one that keeps none",
        )),
        Some(url) => Ok(Some(Address::parse(url)?)),
        None if !needed => Ok(None),
        None => {
            let backend = Address::parse(&settings.backend_url())?;
            Ok(Some(within(&settings.data_dir, backend)?))
        }
    }
}

/// A database of our own, with a stream for each of the backend's.
fn within(data_dir: &Path, mut backend: Address) -> Result<Address> {
    let dir = data_dir.join(DIR).display().to_string();
    let stream = backend
        .take("stream")
        .unwrap_or_else(|| DEFAULT_STREAM.into());
    // Others name their streams with characters that ours do not have.
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let stream: String = stream
        .chars()
        .map(|c| if known(c) { c } else { '-' })
        .take(STREAM_BYTES)
        .collect();
    let address = Address::parse("sqlite:.")?.with_path(dir);
    Ok(address.with_parameter("stream", stream))
}

/// A journal that is gone with the directory in the answer, where the backend needs one.
pub(crate) async fn passing(
    backend: Arc<dyn Backend>,
) -> Result<(Arc<dyn Backend>, Option<TempDir>)> {
    if backend.capabilities().history != HistoryKind::None {
        return Ok((backend, None));
    }
    let dir = tempfile::Builder::new()
        .prefix("fanfare-journal-")
        .tempdir()?;
    let log = Address::parse("sqlite:.")?.with_path(dir.path().display().to_string());
    let log = registry::open(log).await?;
    Ok((Journal::open(backend, log).await?, Some(dir)))
}

/// Has the stream at `url` forget a passing journal, so that nothing is collected for it any more.
pub(crate) async fn forget(url: &str) -> Result<()> {
    let backend = fanfare::backend(url).await?;
    let deleted = backend.admin().delete(&JOURNAL.parse()?, true).await;
    backend.close().await?;
    match deleted {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_has_a_journal_of_its_own() {
        for (backend, journal) in [
            ("redis://h", "sqlite:data/journal?stream=fanfare"),
            ("redis://h?stream=a_b", "sqlite:data/journal?stream=a_b"),
            (
                "redis://h?stream=user:1",
                "sqlite:data/journal?stream=user-1",
            ),
        ] {
            let address = Address::parse(backend).unwrap();
            let within = within(Path::new("data"), address).unwrap();
            assert_eq!(within.to_string(), journal);
        }
    }
}
