//! `fanfare conformance`: the published suite against the user's own backend. What it checks is the
//! suite's.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use fanfare::address::Address;
use fanfare::core::backend::Backend;
use fanfare::registry;
use fanfare_conformance::{Options, Target};

use crate::args::Common;
use crate::failure::{Failure, Result};
use crate::output::note;
use crate::scratch::Scratch;

/// Run the conformance suite against a backend.
#[derive(Debug, clap::Args)]
pub(crate) struct Conformance {
    /// The backend: sqlite:DIR, memory:, redis://HOST or postgres://HOST/DATABASE. Files are removed
    /// at the end; streams on a server stay there.
    #[arg(value_name = "URL")]
    backend: String,
    /// Only cases whose topic::name contains this; may be repeated.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Repeat the random choices of an earlier run.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Also write the report as JSON to this file.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The user's backend as the suite sees it.
#[derive(Debug)]
struct Chosen {
    name: String,
    scratch: Scratch,
}

#[async_trait]
impl Target for Chosen {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn open(&self, stream: &str) -> fanfare::core::Result<Arc<dyn Backend>> {
        registry::open(self.scratch.stream(stream)).await
    }

    async fn open_bounded(
        &self,
        stream: &str,
        bytes: u64,
    ) -> Option<fanfare::core::Result<Arc<dyn Backend>>> {
        let address = self.scratch.stream(stream);
        let bounded = address.with_parameter("max_bytes", bytes.to_string());
        Some(registry::open(bounded).await)
    }
}

impl Conformance {
    /// Runs the suite; fails when a promise was broken.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let out = common.output();
        let address = Address::parse(&self.backend)?;
        let target = Arc::new(Chosen {
            name: address.to_string(),
            scratch: Scratch::beside(address)?,
        });
        // A backend that cannot be opened is one answer, not one for every case.
        target.open("conformance").await?.close().await?;
        let options = Options {
            only: self.only,
            seed: self.seed,
            ..Options::default()
        };
        let report = fanfare_conformance::run(target, options).await;
        if let Some(path) = &self.output {
            let json = serde_json::to_vec_pretty(&report)
                .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
            std::fs::write(path, json).map_err(|error| {
                Failure::failed(format!("cannot write {}: {error}", path.display()))
            })?;
            note(&format!("report written to {}", path.display()));
        }
        if out.json() {
            out.object(&report)?;
        } else {
            for line in report.to_string().lines() {
                out.line(&crate::output::clean(line))?;
            }
        }
        if report.passed + report.failed == 0 {
            return Err(Failure::usage("no case matches --only"));
        }
        match report.failed {
            0 => Ok(()),
            _ => Err(Failure::silent()),
        }
    }
}
