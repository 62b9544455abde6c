//! `fanfare conformance`: the published suite against the user's own backend, and what is measured
//! beside it. What is checked is the suite's; here is what a backend of somebody's may be put through.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use fanfare::address::Address;
use fanfare::core::backend::Backend;
use fanfare::core::event::Event;
use fanfare::core::{Error, ErrorKind};
use fanfare::registry;
use fanfare_conformance::broker::Proxy;
use fanfare_conformance::{Breakable, Measured, Options, Report, Target};
use futures::future::BoxFuture;
use serde::Serialize;

use crate::args::Common;
use crate::failure::{Failure, Result};
use crate::output::{Output, clean, note};
use crate::scratch::Scratch;
use crate::signals::Stop;

/// A case that waits for an answer through a broken line waits less than an application would.
const IMPATIENT: [(&str, &str); 2] = [("response_timeout", "3s"), ("publish_timeout", "1500ms")];
/// What the suite leaves to a client that is not Fanfare.
const PAST_US: &str = "it takes a client of the server's own, which this program does not have; \
                       `cargo test` in the backend's directory does it on a server that it starts";

/// Run the conformance suite against a backend.
#[derive(Debug, clap::Args)]
pub(crate) struct Conformance {
    /// The backend: sqlite:DIR, memory:, or a server such as redis://HOST. Everything is made
    /// under a name of its own and removed at the end, also after Ctrl-C. Connections are broken by a
    /// proxy of this program's; the server is never stopped.
    #[arg(value_name = "URL")]
    backend: String,
    /// Only cases whose topic::name contains this; may be repeated. Nothing is measured then.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Repeat the random choices of an earlier run.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Cases at a time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    concurrency: u8,
    /// Also write the report as JSON to this file.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// All that a run found.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    report: Report,
    #[serde(flatten)]
    measured: Option<Measured>,
    untried: [Untried; 2],
}

/// What no run against a server of somebody's tries.
#[derive(Debug, Clone, Copy, Serialize)]
struct Untried {
    what: &'static str,
    why: &'static str,
}

const NEVER: [Untried; 2] = [
    Untried {
        what: "killing or stopping the server, cutting its power",
        why: "it is yours; `cargo xtask chaos` does it to servers of its own",
    },
    Untried {
        what: "filling its disk or its memory",
        why: "others may be using it; a bound of the stream's own is tried where there is one",
    },
];

impl Conformance {
    /// Runs the suite; fails when a promise was broken.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let mut stop = Stop::listen()?;
        let address = Address::parse(&self.backend)?;
        let target = Arc::new(Chosen::new(address)?);
        let scratch = &target.scratch;
        // A backend that cannot be opened is one answer, not one for every case.
        let first = format!("{}_first", scratch.prefix());
        if let Err(error) = target.open(&first).await {
            // It may have been made by half; where it was not, this fails for the same reason.
            let _ = scratch.remove().await;
            return Err(error.into());
        }
        target.over(&first).await;
        note(&format!(
            "everything is made under {} and removed at the end",
            scratch.prefix()
        ));
        let found = tokio::select! {
            found = self.find(target.clone()) => found,
            () = stop.wait() => Err(Failure::failed("interrupted")),
        };
        let removed = tokio::select! {
            removed = scratch.remove() => removed,
            () = stop.wait() => Err(Failure::failed("interrupted again")),
        };
        let removed = removed.map_err(|failure| failure.with_context(&scratch.left()));
        let told = found.and_then(|found| self.tell(common.output(), &found));
        match (told, removed) {
            (told, Ok(())) => told,
            (Ok(()), Err(failure)) => Err(failure),
            (Err(told), Err(failure)) => Err(failure.with_context(&told.to_string())),
        }
    }

    async fn find(&self, target: Arc<Chosen>) -> Result<Found> {
        let options = Options {
            only: self.only.clone(),
            seed: self.seed,
            concurrency: self.concurrency.into(),
            prefix: target.scratch.prefix().to_owned(),
            ..Options::default()
        };
        let report = fanfare_conformance::run(target.clone(), options.clone()).await;
        let measured = if self.only.is_empty() {
            Some(fanfare_conformance::measure(&*target, &options).await?)
        } else {
            None
        };
        Ok(Found {
            report,
            measured,
            untried: NEVER,
        })
    }

    fn tell(&self, out: Output, found: &Found) -> Result<()> {
        if let Some(path) = &self.output {
            let json = serde_json::to_vec_pretty(found)
                .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
            std::fs::write(path, json).map_err(|error| {
                Failure::failed(format!("cannot write {}: {error}", path.display()))
            })?;
            note(&format!("report written to {}", path.display()));
        }
        if out.json() {
            out.object(found)?;
        } else {
            let mut text = found.report.to_string();
            if let Some(measured) = &found.measured {
                text = format!("{text}\n{}", figures(measured));
            }
            for Untried { what, why } in &found.untried {
                text = format!("{text}\nnot tried: {what} ({why})");
            }
            for line in text.lines() {
                out.line(&clean(line))?;
            }
        }
        let Report { passed, failed, .. } = found.report;
        match (passed + failed, failed) {
            (0, _) => Err(Failure::usage("no case matches --only")),
            (_, 0) => Ok(()),
            _ => Err(Failure::silent()),
        }
    }
}

fn figures(measured: &Measured) -> String {
    let idle = measured.idle_latency_ms;
    let recovery = match (measured.recovery_ms, &measured.recovery_not_tried) {
        (Some(took), _) => format!(
            "after a cut line: handled again within {:.0} ms in half of {} cuts, {:.0} ms in all",
            took.p50, took.count, took.max
        ),
        (None, why) => format!(
            "after a cut line: not tried ({})",
            why.as_deref().unwrap_or("nobody knows why")
        ),
    };
    format!(
        "a lone event, from publish to handler: {:.2} ms in the middle, {:.2} ms at most for 99 of 100\n\
         {recovery}\n\
         deliveries of what had been handled already: {}",
        idle.p50, idle.p99, measured.duplicates
    )
}

/// The user's backend as the suite sees it.
#[derive(Debug)]
struct Chosen {
    name: String,
    scratch: Scratch,
    /// Where a proxy leads.
    server: fanfare::core::Result<Option<(String, u16)>>,
    /// Events are entries of somebody else's form, kept by nobody, or by a broker that bounds nothing.
    unbounded: bool,
}

impl Chosen {
    fn new(address: Address) -> Result<Self> {
        if address
            .get("wire")
            .is_some_and(|form| form != "cloudevents")
        {
            let text = "the suite publishes events of every kind, and of the wire forms only \
                        `wire=cloudevents` has room for them all";
            return Err(Failure::usage(text));
        }
        Ok(Self {
            name: address.to_string(),
            server: registry::server_of(&address),
            unbounded: address.get("wire").is_some()
                || address.get("mode").is_some()
                || address.scheme() == "amqp",
            scratch: Scratch::beside(address)?,
        })
    }

    /// Through a proxy of its own, and impatient.
    async fn far(&self, stream: &str, host: &str, port: u16) -> fanfare::core::Result<Breakable> {
        let mut found = tokio::net::lookup_host((host, port)).await.map_err(apart)?;
        let server = found
            .next()
            .ok_or_else(|| apart(std::io::ErrorKind::NotFound.into()))?;
        let proxy = Proxy::start(server).await.map_err(apart)?;
        let mut address = self.scratch.stream(stream).with_host(proxy.address());
        for (name, value) in IMPATIENT {
            address = address.with_parameter(name, value);
        }
        Ok(Breakable {
            backend: self.scratch.open(stream, address).await?,
            line: Arc::new(proxy),
        })
    }

    /// None where there is no server whose client could do it.
    fn past_us(&self) -> Option<fanfare::core::Result<()>> {
        let reachable = !matches!(self.server, Ok(None));
        reachable.then(|| Err(Error::new(ErrorKind::Unsupported, PAST_US)))
    }
}

fn apart(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "no proxy before the server").because(error)
}

#[async_trait]
impl Target for Chosen {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn open(&self, stream: &str) -> fanfare::core::Result<Arc<dyn Backend>> {
        self.scratch.open(stream, self.scratch.stream(stream)).await
    }

    async fn over(&self, stream: &str) {
        self.scratch.close(stream).await;
    }

    async fn open_bounded(
        &self,
        stream: &str,
        bytes: u64,
    ) -> Option<fanfare::core::Result<Arc<dyn Backend>>> {
        if self.unbounded {
            return None;
        }
        let address = self.scratch.stream(stream);
        let bounded = address.with_parameter("max_bytes", bytes.to_string());
        Some(self.scratch.open(stream, bounded).await)
    }

    async fn transact(
        &self,
        _stream: &str,
        _events: &[Event],
        _end: BoxFuture<'static, bool>,
    ) -> Option<fanfare::core::Result<()>> {
        let is_database = self.name.starts_with("postgres");
        self.past_us().filter(|_| is_database)
    }

    async fn write_past(&self, _stream: &str, _bytes: &[u8]) -> Option<fanfare::core::Result<()>> {
        let is_database = self.name.starts_with("postgres");
        self.past_us().filter(|_| !is_database)
    }

    async fn lose(&self, _stream: &str) -> Option<fanfare::core::Result<()>> {
        self.past_us()
    }

    async fn open_breakable(&self, stream: &str) -> Option<fanfare::core::Result<Breakable>> {
        match &self.server {
            Ok(None) => None,
            Ok(Some((host, port))) => Some(self.far(stream, host, *port).await),
            Err(error) => Some(Err(error.duplicate())),
        }
    }
}
