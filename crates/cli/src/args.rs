//! The command line as a whole: the commands, and the options that all of them take. Each command's
//! own options stand in its file.

use clap::{Parser, Subcommand};

use crate::client::Client;
use crate::commands::{
    audit, backup, bench, conformance, dead_letters, demo, doctor, events, forward, import,
    publish, serve, subscriptions, tail,
};
use crate::failure::Result;
use crate::output::Output;

/// Where a server listens unless told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8787";

/// Domain events that never get lost.
#[derive(Debug, Parser)]
#[command(
    name = "fanfare",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 ok, 1 failed or broken, 2 usage, 3 server unreachable."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_display_order = 1000)]
pub(crate) struct Common {
    /// The server to talk to.
    #[arg(long, global = true, env = "FANFARE_SERVER", default_value = DEFAULT_SERVER, value_name = "URL")]
    server: String,
    /// Print JSON for programs; lists are one object a line.
    #[arg(long, global = true)]
    json: bool,
}

impl Common {
    /// The chosen server.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(&self.server)
    }

    /// The chosen output.
    pub(crate) fn output(&self) -> Output {
        Output::new(self.json)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server; without options on ./fanfare-data and 127.0.0.1:8787.
    Serve(serve::Serve),
    /// Run a server with a made-up shop whose handlers fail, and watch what becomes of its events.
    Demo(demo::Demo),
    /// Publish one event.
    Publish(publish::Publish),
    /// Publish a file of events, one JSON object a line.
    Import(import::Import),
    /// Follow events as they are published.
    Tail(tail::Tail),
    /// List past events, or show one with its deliveries.
    #[command(subcommand, alias = "event")]
    Events(events::Events),
    /// Create, list and operate subscriptions.
    #[command(subcommand, alias = "subscription")]
    Subscriptions(subscriptions::Subscriptions),
    /// List, show, mend, redrive and discard deliveries that were given up.
    #[command(subcommand, alias = "dead-letter")]
    DeadLetters(dead_letters::DeadLetters),
    /// Carry the events of one backend to another, in order per key, until stopped.
    Forward(forward::Forward),
    /// Prove that no subscription lost an event; exit 1 when one did.
    Audit(audit::Audit),
    /// Check configuration, server and backend, and explain what is found.
    Doctor(doctor::Doctor),
    /// Copy a database while it is in use.
    Backup(backup::Backup),
    /// Run the published conformance suite against a backend of yours.
    Conformance(conformance::Conformance),
    /// Measure a backend of yours: throughput, latency, and what its disk can do.
    Bench(bench::Bench),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
