//! The rows of system B in `docs/systems.md`, each test named after its row, on a real Redis that
//! belongs to the test. What is waited for has a limit; what runs in other processes is asked again
//! until it is so.

#[cfg(test)]
#[path = "it/bus.rs"]
mod bus;

#[cfg(test)]
#[path = "it/campaign.rs"]
mod campaign;

#[cfg(test)]
#[path = "it/coverage.rs"]
mod coverage;

#[cfg(test)]
#[path = "it/dead_letters.rs"]
mod dead_letters;

#[cfg(test)]
#[path = "it/handlers.rs"]
mod handlers;

#[cfg(test)]
#[path = "it/readme.rs"]
mod readme;

#[cfg(test)]
#[path = "it/stage.rs"]
mod stage;

#[cfg(test)]
#[path = "it/switch.rs"]
mod switch;

#[cfg(test)]
#[path = "it/wire.rs"]
mod wire;
