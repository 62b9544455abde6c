//! `fanfare doctor`: looks at configuration, server and backend as a person would who was called for
//! help, and says what each finding means. Changes nothing.

use fanfare::address::Address;
use fanfare::core::ErrorKind;
use fanfare::core::advice::{Advice, Weight};
use fanfare::core::backend::Backend;
use fanfare::core::capability::{Capabilities, Known};
use fanfare::registry;
use serde::Serialize;
use serde_json::Value;

use crate::args::Common;
use crate::commands::audit::Report;
use crate::failure::{Failure, Result};
use crate::output::{Output, Tone};
use crate::settings::{Overrides, Settings};

/// What is told in the place of an audit.
const NO_AUDIT: &str = "this backend keeps nothing that an audit could be made of";

/// Check configuration, server and backend.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    overrides: Overrides,
    /// Also read everything that the backend keeps: every page, index and event.
    #[arg(long)]
    thorough: bool,
}

/// How a finding is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Note,
    Bad,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    todo: String,
}

/// Tells findings as they are made.
#[derive(Debug)]
struct Findings {
    out: Output,
    bad: usize,
}

impl Findings {
    fn tell(&mut self, state: State, check: &'static str, detail: impl Into<String>) -> Result<()> {
        self.tell_all(&Finding {
            check,
            state,
            detail: detail.into(),
            todo: String::new(),
        })
    }

    /// What lies below, where that could be asked.
    fn advise(&mut self, asked: fanfare::core::Result<Vec<Advice>>) -> Result<()> {
        let all = match asked {
            Ok(all) => all,
            Err(error) => return self.tell(State::Note, "settings", format!("not read: {error}")),
        };
        all.into_iter().try_for_each(|advice| {
            self.tell_all(&Finding {
                check: advice.check,
                state: match advice.weight {
                    Weight::Good => State::Ok,
                    Weight::Note => State::Note,
                    Weight::Bad => State::Bad,
                },
                detail: advice.found,
                todo: advice.todo,
            })
        })
    }

    fn tell_all(&mut self, finding: &Finding) -> Result<()> {
        self.bad += usize::from(finding.state == State::Bad);
        if self.out.json() {
            return self.out.object(finding);
        }
        let (word, tone) = match finding.state {
            State::Ok => ("ok  ", Tone::Good),
            State::Note => ("note", Tone::Strong),
            State::Bad => ("BAD ", Tone::Bad),
        };
        let word = self.out.paint(tone, word);
        let detail = self.out.paint(Tone::Plain, &finding.detail);
        let check = finding.check;
        self.out.line(&format!("{word}  {check:<10}  {detail}"))?;
        if finding.todo.is_empty() {
            return Ok(());
        }
        let todo = self.out.paint(Tone::Plain, &finding.todo);
        self.out.line(&format!("{:<18}-> {todo}", ""))
    }
}

impl Doctor {
    /// Looks at everything; fails when something is bad.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let mut findings = Findings {
            out: common.output(),
            bad: 0,
        };
        let version = concat!("fanfare ", env!("CARGO_PKG_VERSION"));
        findings.tell(State::Ok, "version", version)?;
        let served = look_at_server(common, &mut findings).await?;
        match Settings::load(&self.overrides) {
            Ok(settings) => {
                let what = match &self.overrides.config {
                    Some(path) => format!("{} is good", path.display()),
                    None => "no file given: defaults and environment".to_owned(),
                };
                findings.tell(State::Ok, "config", what)?;
                look_at_backend(&settings, served, self.thorough, &mut findings).await?;
            }
            Err(failure) => findings.tell(State::Bad, "config", failure.to_string())?,
        }
        match findings.bad {
            0 => Ok(()),
            _ => Err(Failure::silent()),
        }
    }
}

/// Whether a server answered.
async fn look_at_server(common: &Common, findings: &mut Findings) -> Result<bool> {
    let client = common.client()?;
    let server = client.server().to_owned();
    let stats = client.get::<Value>(&["v1", "stats"], &[]).await;
    let audits = match &stats {
        Ok(stats) => stats.pointer("/capabilities/audit") != Some(&Value::Bool(false)),
        Err(_) => true,
    };
    match stats {
        Ok(_) => {
            findings.tell(State::Ok, "server", format!("{server} answers"))?;
        }
        Err(failure) if failure.is_unreachable() => {
            let text = format!("nothing answers at {server}; start it with: fanfare serve");
            findings.tell(State::Note, "server", text)?;
            return Ok(false);
        }
        Err(failure) => {
            let text = format!("{server} answers, but: {failure}");
            findings.tell(State::Bad, "server", text)?;
        }
    }
    match client.get::<Value>(&["readyz"], &[]).await {
        Ok(_) => findings.tell(State::Ok, "ready", "the server takes and delivers events")?,
        Err(failure) => findings.tell(State::Bad, "ready", failure.to_string())?,
    }
    if !audits {
        findings.tell(State::Note, "audit", NO_AUDIT)?;
        return Ok(true);
    }
    match client.get::<Report>(&["v1", "audit"], &[]).await {
        Ok(report) => tell_audit(&report, findings)?,
        Err(failure) => findings.tell(State::Bad, "audit", failure.to_string())?,
    }
    Ok(true)
}

async fn look_at_backend(
    settings: &Settings,
    served: bool,
    thorough: bool,
    findings: &mut Findings,
) -> Result<()> {
    let address = match Address::parse(&settings.backend_url()) {
        Ok(address) => address,
        Err(error) => return findings.tell(State::Bad, "backend", error.to_string()),
    };
    let shown = address.to_string();
    // Opening would make it, and a doctor changes nothing.
    match registry::missing(address.clone()).await {
        Ok(None) => {}
        Ok(Some(what)) => {
            let text = format!("{shown}: {what}; the next `fanfare serve` changes that");
            findings.tell(State::Note, "backend", text)?;
            return findings.advise(registry::advice(address).await);
        }
        Err(error) => return findings.tell(State::Bad, "backend", format!("{shown}: {error}")),
    }
    match registry::open(address.clone()).await {
        Ok(backend) => {
            findings.tell(State::Ok, "backend", format!("{shown} opens and verifies"))?;
            let looked = look_into(&*backend, findings).await;
            backend.close().await?;
            looked?;
            if thorough {
                read_everything(address, findings).await?;
            }
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Locked && served => {
            let text = format!("{shown} is in use, probably by the server above");
            findings.tell(State::Ok, "backend", text)
        }
        Err(error) if error.kind() == ErrorKind::Locked => {
            findings.tell(State::Note, "backend", format!("{shown}: {error}"))
        }
        Err(error) => findings.tell(State::Bad, "backend", format!("{shown}: {error}")),
    }
}

async fn look_into(backend: &dyn Backend, findings: &mut Findings) -> Result<()> {
    let (state, text) = durability(&backend.capabilities());
    findings.tell(state, "durability", text)?;
    findings.advise(backend.admin().advice().await)?;
    let health = backend.admin().health().await;
    let state = if health.ok { State::Ok } else { State::Bad };
    findings.tell(state, "health", health.detail)?;
    let stream = backend.admin().stats().await?;
    let text = format!("{} events in {} bytes", stream.events, stream.bytes);
    findings.tell(State::Ok, "stream", text)?;
    if !backend.capabilities().audit {
        return findings.tell(State::Note, "audit", NO_AUDIT);
    }
    tell_audit(&Report::from(backend.admin().audit(None).await?), findings)
}

async fn read_everything(address: Address, findings: &mut Findings) -> Result<()> {
    match registry::verify(address).await {
        Ok(problems) if problems.is_empty() => findings.tell(
            State::Ok,
            "contents",
            "everything was read, nothing is damaged",
        ),
        Ok(problems) => problems
            .into_iter()
            .try_for_each(|problem| findings.tell(State::Bad, "contents", problem)),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            findings.tell(State::Note, "contents", format!("not read: {error}"))
        }
        Err(error) => findings.tell(State::Bad, "contents", error.to_string()),
    }
}

fn durability(capabilities: &Capabilities) -> (State, &'static str) {
    if capabilities.at_most_once {
        return (
            State::Note,
            "at most once: this mode loses events, to whoever does not listen when they are published; \
             take `mode` out of the URL to keep them",
        );
    }
    match (capabilities.durable, capabilities.power_safe) {
        (false, _) => (
            State::Note,
            "events live in memory and are gone with the process; use sqlite:DIR to keep them",
        ),
        (true, Known::Yes) => (
            State::Ok,
            "acknowledged events survive kill -9 and a power cut, as far as the disk keeps its word",
        ),
        (true, Known::No) => (
            State::Bad,
            "acknowledged events survive kill -9 but not a power cut, as configured now",
        ),
        (true, Known::Unknown) => (
            State::Note,
            "acknowledged events survive kill -9; what a power cut does cannot be told from here",
        ),
    }
}

fn tell_audit(report: &Report, findings: &mut Findings) -> Result<()> {
    if report.holds() {
        findings.tell(
            State::Ok,
            "audit",
            "conservation holds for every subscription",
        )
    } else {
        let text = "conservation is broken; `fanfare audit` names the events";
        findings.tell(State::Bad, "audit", text)
    }
}
