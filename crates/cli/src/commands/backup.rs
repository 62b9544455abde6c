//! `fanfare backup`: a copy of a stream as of one moment, while a server may use it. Restoring is
//! serving the copy.

use std::path::PathBuf;

use fanfare::address::Address;
use serde_json::json;

use crate::args::Common;
use crate::failure::{Failure, Result};
use crate::output::Tone;
use crate::settings::{Overrides, Settings};

/// Copy a database while it is in use.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// The directory to copy to; made when it is not there.
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

impl Backup {
    /// Copies, and says how to open the copy.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let out = common.output();
        let settings = Settings::load(&self.overrides)?;
        let address = Address::parse(&settings.backend_url())?;
        let (from, target) = (address.to_string(), self.target.clone());
        // Copying is disk work without end: it must not hold up a thread of the runtime.
        let bytes =
            tokio::task::spawn_blocking(move || fanfare::registry::back_up(address, &target))
                .await
                .map_err(|error| Failure::failed(error.to_string()))??;
        let target = self.target.display().to_string();
        if out.json() {
            return out.object(&json!({ "from": from, "target": target, "bytes": bytes }));
        }
        out.line(&out.paint(
            Tone::Plain,
            &format!("{from} copied: {bytes} bytes, checked; open it with --data-dir {target}"),
        ))
    }
}
