//! `fanfare forward`: carries the events of one backend to another until a signal stops it. How it
//! does that is the bus's.

use std::time::Duration;

use fanfare::Bus;
use fanfare::address::Address;
use fanfare::core::ErrorKind;
use fanfare::core::clock::Clock;
use fanfare::core::subscription::Start;
use fanfare::core::timestamp::duration;
use serde_json::json;

use crate::args::Common;
use crate::failure::{Failure, Result};
use crate::output::{Tone, note};
use crate::settings::Log;
use crate::signals::Stop;

/// How long a stopping process waits for events on their way.
const GRACE: Duration = Duration::from_secs(15);
/// How long to wait before connecting again, doubling up to the longest.
const RECONNECT_FIRST: Duration = Duration::from_millis(250);
const RECONNECT_LONGEST: Duration = Duration::from_secs(10);

/// Carry the events of one backend to another.
#[derive(Debug, clap::Args)]
pub(crate) struct Forward {
    /// The backend to read from, such as postgres://HOST/DATABASE or sqlite:DIR.
    #[arg(value_name = "FROM", env = "FANFARE_FROM", hide_env_values = true)]
    from: String,
    /// The backend to publish on, such as redis://HOST:PORT.
    #[arg(value_name = "TO", env = "FANFARE_TO", hide_env_values = true)]
    to: String,
    /// The subscription that remembers how far it came; processes with the same name share it.
    #[arg(long, value_name = "NAME", default_value = "forward")]
    name: String,
    /// Only events whose type matches; may be repeated.
    #[arg(long = "pattern", value_name = "PATTERN", default_value = "**")]
    patterns: Vec<String>,
    /// Where it begins when the subscription is new.
    #[arg(long, value_enum, value_name = "WHERE", default_value = "earliest")]
    start: Where,
    /// The most events on their way at once; those of one key always follow each other.
    #[arg(long, value_name = "N", default_value_t = 256)]
    concurrency: usize,
    /// How long the events of a process that died wait for another.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    lease: String,
    /// What to log: a level, or directives such as info,fanfare_bus=debug.
    #[arg(long, env = "FANFARE_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// Both sides, the target first, however long it takes to reach them.
async fn connect_both(from: &str, to: &str) -> Result<(Bus, Bus)> {
    let to = connect(to).await?;
    match connect(from).await {
        Ok(from) => Ok((from, to)),
        Err(error) => {
            to.shutdown(GRACE).await?;
            Err(error)
        }
    }
}

/// Waits for a backend that cannot be reached; any other failure ends the command.
async fn connect(url: &str) -> Result<Bus> {
    let clock = Clock::system();
    let mut pause = RECONNECT_FIRST;
    loop {
        match fanfare::connect(url).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                note(&format!("{error}; trying again"));
            }
            connected => return Ok(connected?),
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_LONGEST);
    }
}

/// Where a new forwarding begins.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Where {
    Earliest,
    Latest,
}

impl Forward {
    /// Forwards until SIGTERM or SIGINT.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let out = common.output();
        Log::with(self.log.as_deref()).start()?;
        let mut stop = Stop::listen()?;
        let shown = [&self.from, &self.to].map(|url| Address::parse(url).map(|a| a.to_string()));
        let [from_shown, to_shown] = shown;
        let (from_shown, to_shown) = (from_shown?, to_shown?);
        if from_shown == to_shown {
            return Err(Failure::usage("both URLs name the same stream"));
        }
        let (from, to) = tokio::select! {
            connected = connect_both(&self.from, &self.to) => connected?,
            () = stop.wait() => return Ok(()),
        };
        let forwarding = self.start(&from, &to).await;
        if forwarding.is_ok() {
            let name = &self.name;
            if out.json() {
                out.object(&json!({ "forwarding": name, "from": from_shown, "to": to_shown }))?;
            } else {
                let line = format!("forwarding {from_shown} to {to_shown} as `{name}`");
                out.line(&out.paint(Tone::Plain, &line))?;
            }
            stop.wait().await;
        }
        // The source first: what it still carries needs the target.
        let ended = from.shutdown(GRACE).await;
        to.shutdown(GRACE).await?;
        forwarding?;
        ended?;
        let name = self.name.parse()?;
        let counters = from.telemetry().forwarding(&name);
        note(&format!(
            "stopped; {} forwarded, {} of them known there already, {} refused",
            counters.forwarded.get(),
            counters.duplicates.get(),
            counters.refused.get(),
        ));
        Ok(())
    }

    async fn start(&self, from: &Bus, to: &Bus) -> Result<()> {
        let start = match self.start {
            Where::Earliest => Start::Earliest,
            Where::Latest => Start::Latest,
        };
        from.forward(&self.name, self.patterns.clone(), to)
            .start(start)
            .concurrency(self.concurrency)
            .lease(duration::parse(&self.lease)?)
            .await?;
        Ok(())
    }
}
