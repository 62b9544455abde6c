//! One file per command noun; each has its options and what it does.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod conformance;
pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod forward;
pub(crate) mod import;
pub(crate) mod publish;
pub(crate) mod serve;
pub(crate) mod subscriptions;
pub(crate) mod tail;

use crate::args::{Args, Command};
use crate::failure::Result;

/// Runs the command that was asked for.
pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { common, command } = args;
    match command {
        Command::Serve(command) => command.run(&common).await,
        Command::Demo(command) => command.run(&common).await,
        Command::Publish(command) => command.run(&common).await,
        Command::Import(command) => command.run(&common).await,
        Command::Tail(command) => command.run(&common).await,
        Command::Events(command) => command.run(&common).await,
        Command::Subscriptions(command) => command.run(&common).await,
        Command::DeadLetters(command) => command.run(&common).await,
        Command::Forward(command) => command.run(&common).await,
        Command::Audit(command) => command.run(&common).await,
        Command::Doctor(command) => command.run(&common).await,
        Command::Backup(command) => command.run(&common).await,
        Command::Conformance(command) => command.run(&common).await,
        Command::Bench(command) => command.run(&common).await,
    }
}
