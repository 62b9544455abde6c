//! The `fanfare` command: parses the command line, runs one command, and turns its failure into one
//! line on standard error and an exit code. What a command does stands in `commands/`.

mod args;
mod client;
mod commands;
mod failure;
mod journal;
mod output;
mod scratch;
mod settings;
mod signals;
mod sse;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(args)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.has_message() {
                output::note(&format!("error: {failure}"));
            }
            failure.code()
        }
    }
}
