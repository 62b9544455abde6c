//! Removing whole streams: both JetStream streams of each.

use fanfare_core::error::{ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::backend::NatsBackend;
use crate::config::NatsConfig;
use crate::connect::Wire;
use crate::names::Names;

/// One page of the list.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    streams: Option<Vec<String>>,
}

impl NatsBackend {
    /// Removes every stream whose name begins with `prefix`, with all that belongs to it; where the form
    /// is that of another service, its streams of such names. Nobody may have one open: it would be made
    /// again.
    pub async fn remove(config: NatsConfig, prefix: &str) -> Result<()> {
        let wire = Wire::open(config).await?;
        match wire.check_jetstream().await {
            // It keeps nothing.
            Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(()),
            checked => checked?,
        }
        let names = if wire.config.form.is_foreign() {
            Names::beside(prefix)
        } else {
            Names::new(prefix)
        };
        for name in all(&wire).await? {
            if name.starts_with(&names.log()) || name.starts_with(&names.state()) {
                let call = format!("STREAM.DELETE.{name}");
                wire.call::<Value>(&call, &json!({})).await?;
            }
        }
        Ok(())
    }
}

/// The names of all streams of the account.
async fn all(wire: &Wire) -> Result<Vec<String>> {
    let mut names = Vec::new();
    loop {
        let body = json!({ "offset": names.len() });
        let page: Listed = wire.call("STREAM.NAMES", &body).await?;
        let some = page.streams.unwrap_or_default();
        let ended = some.is_empty();
        names.extend(some);
        if ended || names.len() >= page.total {
            return Ok(names);
        }
    }
}
