//! `fanfare serve`: the server over one backend, until a signal drains it.

use fanfare::Bus;
use fanfare::core::capability::Known;
use fanfare_server::Server;
use serde_json::json;

use crate::args::Common;
use crate::failure::{Failure, Result};
use crate::journal;
use crate::output::{Output, Tone, note};
use crate::settings::{Overrides, Settings};
use crate::signals::Stop;

/// The source of events that are published without one.
const SOURCE: &str = "/fanfare";

/// Run the server.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    overrides: Overrides,
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8787].
    #[arg(long, env = "FANFARE_LISTEN", value_name = "ADDR")]
    listen: Option<String>,
    /// A host name to answer to beside the loopback ones; may be repeated.
    #[arg(
        long = "allowed-host",
        env = "FANFARE_ALLOWED_HOSTS",
        value_delimiter = ',',
        value_name = "HOST"
    )]
    allowed_hosts: Vec<String>,
    /// Where to keep the events of a backend that keeps none: sqlite:DIR, postgres://HOST/DATABASE, or
    /// none [default: a database in the data directory].
    #[arg(
        long,
        env = "FANFARE_JOURNAL",
        hide_env_values = true,
        value_name = "URL"
    )]
    journal: Option<String>,
    /// Allow an address that other machines reach, although nothing is authenticated.
    #[arg(long, env = "FANFARE_INSECURE")]
    insecure: bool,
}

impl Serve {
    /// Serves until SIGTERM or SIGINT, then drains; a second signal ends it at once.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let out = common.output();
        let settings = self.settings()?;
        settings.log.start()?;
        let mut stop = Stop::listen()?;
        let (bus, journal) = open(&settings).await?;
        let server = match Server::bind(settings.server.clone(), bus.clone()).await {
            Ok(server) => server,
            Err(error) => {
                bus.shutdown(settings.grace).await?;
                return Err(error.into());
            }
        };
        announce(out, &settings, journal.as_deref(), &bus, &server)?;
        let drained = async {
            server.run(stop.wait()).await?;
            bus.shutdown(settings.grace).await
        };
        let mut again = Stop::listen()?;
        let twice = async {
            again.wait().await;
            again.wait().await;
        };
        tokio::select! {
            report = drained => report?,
            () = twice => return Err(Failure::failed("stopped at once, without draining")),
        };
        note("stopped");
        Ok(())
    }

    fn settings(&self) -> Result<Settings> {
        let mut settings = Settings::load(&self.overrides)?;
        if let Some(listen) = &self.listen {
            settings.server.listen.clone_from(listen);
        }
        if !self.allowed_hosts.is_empty() {
            settings
                .server
                .allowed_hosts
                .clone_from(&self.allowed_hosts);
        }
        if let Some(journal) = &self.journal {
            settings.journal = Some(journal.clone().into());
        }
        settings.server.insecure |= self.insecure;
        Ok(settings)
    }
}

/// A bus on the configured backend, and where its journal is, if it needs one.
async fn open(settings: &Settings) -> Result<(Bus, Option<String>)> {
    let backend = fanfare::backend(&settings.backend_url()).await?;
    let (backend, journal) = journal::beside(backend, settings).await?;
    let bus = Bus::builder(backend)
        .source(SOURCE)
        .limits(settings.bus.clone())
        .build()?;
    Ok((bus, journal))
}

fn announce(
    out: Output,
    settings: &Settings,
    journal: Option<&str>,
    bus: &Bus,
    server: &Server,
) -> Result<()> {
    let capabilities = bus.backend().capabilities();
    let backend = settings.backend_shown()?;
    let url = format!("http://{}", server.local_addr());
    if out.json() {
        return out.object(&json!({
            "listening": url,
            "backend": backend,
            "journal": journal,
            "durable": capabilities.durable,
            "power_safe": capabilities.power_safe,
        }));
    }
    let keeps = match (capabilities.durable, capabilities.power_safe) {
        _ if capabilities.at_most_once => match journal {
            Some(_) => "at most once, and kept in the journal from then on",
            None => "at most once: lost to whoever does not listen",
        },
        (false, _) => "kept in memory: gone with this process",
        (true, Known::Yes) => "acknowledged events survive a power cut",
        (true, Known::No) => "acknowledged events survive a crash, not a power cut",
        (true, Known::Unknown) => "acknowledged events survive a crash; power cuts are not known",
    };
    out.line(&out.paint(Tone::Strong, concat!("fanfare ", env!("CARGO_PKG_VERSION"))))?;
    out.line(&format!(
        "backend      {} ({keeps})",
        out.paint(Tone::Plain, &backend)
    ))?;
    if let Some(journal) = journal {
        out.line(&format!("journal      {}", out.paint(Tone::Plain, journal)))?;
    }
    out.line(&format!("API          {url}/v1"))?;
    out.line(&format!("dashboard    {url}/"))?;
    out.line(&format!("listening on {url}"))
}
