//! `fanfare demo`: a server and a made-up shop in one process. Its handlers fail on purpose, so that
//! a newcomer sees retries, dead letters and a redrive within a minute. The shop is [`shop`]'s, the
//! person who mends it [`operator`]'s, what is told about it [`story`]'s.

mod operator;
mod shop;
mod story;

use std::path::PathBuf;
use std::time::Duration;

use fanfare::Bus;
use fanfare::core::ErrorKind;
use fanfare_server::{Server, ServerConfig};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::args::Common;
use crate::commands::audit::Report;
use crate::failure::{Failure, Result};
use crate::journal;
use crate::output::{Output, Tone, note};
use crate::signals::Stop;
use operator::Operator;
use shop::{Customers, Shop};
use story::Story;

/// Where the demo listens unless told otherwise; when that is taken, on a free port.
const DEFAULT_LISTEN: &str = "127.0.0.1:8787";
/// How long the end waits for running handlers.
const GRACE: Duration = Duration::from_secs(10);
/// The source of events that name none.
const SOURCE: &str = "/demo";

/// Run a made-up shop.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Stop by itself after so many seconds; default at Ctrl-C.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Orders placed in a second.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rate: u16,
    /// The backend; default a database that is removed at the end.
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    backend: Option<String>,
    /// Keep the database in this directory.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:8787, or a free port].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

impl Demo {
    /// Runs until it is stopped, then proves that nothing was lost.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let out = common.output();
        let (url, scratch) = self.backend_url()?;
        let (backend, kept) = journal::passing(fanfare::backend(&url).await?).await?;
        let bus = Bus::builder(backend.clone())
            .source(SOURCE)
            .closes_backend(false)
            .build()?;
        let server = self.bind(&bus).await?;
        let story = Story::new(out, bus.clock().clone());
        self.introduce(out, &server, scratch.as_ref())?;

        let mut signals = Stop::listen()?;
        let (close, closed) = oneshot::channel::<()>();
        let serving = server.run(async {
            // Closed by hand or by being dropped.
            let _ = closed.await;
        });
        let acting = async {
            let played = self.play(&bus, &story, &mut signals).await;
            drop(close);
            played
        };
        let (serving_ended, played) = tokio::join!(serving, acting);
        bus.shutdown(GRACE).await?;
        let audited = backend.admin().audit(None).await;
        backend.close().await?;
        if kept.is_some() {
            journal::forget(&url).await?;
        }
        serving_ended?;
        played?;
        conclude(out, &Report::from(audited?))
    }

    fn backend_url(&self) -> Result<(String, Option<TempDir>)> {
        if let Some(url) = &self.backend {
            return Ok((url.clone(), None));
        }
        if let Some(dir) = &self.data_dir {
            return Ok((format!("sqlite:{}", dir.display()), None));
        }
        let dir = tempfile::Builder::new().prefix("fanfare-demo-").tempdir()?;
        Ok((format!("sqlite:{}", dir.path().display()), Some(dir)))
    }

    async fn bind(&self, bus: &Bus) -> Result<Server> {
        let config = |listen: &str| ServerConfig {
            listen: listen.to_owned(),
            ..ServerConfig::default()
        };
        let wanted = self.listen.as_deref().unwrap_or(DEFAULT_LISTEN);
        match Server::bind(config(wanted), bus.clone()).await {
            Err(error) if error.kind() == ErrorKind::Locked && self.listen.is_none() => {
                Ok(Server::bind(config("127.0.0.1:0"), bus.clone()).await?)
            }
            bound => Ok(bound?),
        }
    }

    fn introduce(&self, out: Output, server: &Server, scratch: Option<&TempDir>) -> Result<()> {
        let url = format!("http://{}", server.local_addr());
        if out.json() {
            return out.object(&serde_json::json!({ "listening": url }));
        }
        out.line(&out.paint(
            Tone::Strong,
            "A shop takes orders. Its handlers fail on purpose:",
        ))?;
        out.line("  billing    refuses every seventh order while the card terminal is broken")?;
        out.line("  mailer     fails each event once")?;
        out.line("  warehouse  takes the events of each order strictly one after another")?;
        out.line("")?;
        out.line(&format!("dashboard    {url}/"))?;
        out.line(&format!("API          {url}/v1"))?;
        out.line(&format!(
            "try          fanfare tail 'shop.**'{}",
            server_option(&url)
        ))?;
        match (scratch, &self.data_dir) {
            (Some(dir), _) => out.line(&format!(
                "data         {} (removed at the end)",
                out.paint(Tone::Plain, &dir.path().display().to_string())
            ))?,
            (None, Some(dir)) => out.line(&format!(
                "data         {}",
                out.paint(Tone::Plain, &dir.display().to_string())
            ))?,
            (None, None) => {}
        }
        out.line(match self.seconds {
            None => "stop         Ctrl-C",
            Some(_) => "stop         by itself, or Ctrl-C",
        })?;
        out.line("")
    }

    /// Opens the shop, lets customers and the operator act, and closes it.
    async fn play(&self, bus: &Bus, story: &Story, signals: &mut Stop) -> Result<()> {
        let shop = Shop::open(bus, story).await?;
        let mut customers = Customers::new(bus, story, self.rate);
        let mut operator = Operator::new(bus, story, &shop);
        let over = async {
            match self.seconds {
                Some(seconds) => bus.clock().sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = customers.order() => ended,
            ended = operator.watch() => ended,
            () = over => Ok(()),
            () = signals.wait() => Ok(()),
        };
        story.tell("demo", Tone::Strong, "the shop closes: no more orders")?;
        tokio::select! {
            settled = operator.wait_until_settled() => settled?,
            () = signals.wait() => note("not waiting for what is under way"),
        }
        story.tell(
            "demo",
            Tone::Strong,
            &format!("{} orders shipped, each in order", shop.shipped()),
        )?;
        ended
    }
}

/// What to add to a command, where the server is not where commands look first.
fn server_option(url: &str) -> String {
    if url.ends_with(DEFAULT_LISTEN) {
        String::new()
    } else {
        format!(" --server {url}")
    }
}

fn conclude(out: Output, report: &Report) -> Result<()> {
    if out.json() {
        out.object(report)?;
    } else {
        out.line("")?;
        report.show(out)?;
    }
    if report.holds() {
        Ok(())
    } else {
        Err(Failure::silent())
    }
}
