//! Domain events that never get lost: the crate that applications depend on.
//!
//! [`connect`] opens a bus on a backend chosen by URL. Everything else is re-exported from the
//! crates below: the words and the contract from [`core`], the runtime from [`bus`]. Nothing is
//! implemented here but configuration and the list of backends.

pub mod address;
pub mod config;

pub use fanfare_bus as bus;
pub use fanfare_core as core;
