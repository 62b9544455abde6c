//! The published conformance suite: every promise of `docs/spec/backend-contract.md` that can be
//! checked from outside, as one function per case, and a saboteur for each promise that the suite
//! must catch.
//!
//! A backend joins with one line in `tests/conformance.rs`: `fanfare_conformance::suite!(target)`.
//! Processes that die and power that fails are not simulated here; `cargo xtask chaos` does that.

pub mod broker;
mod case;
mod cases;
mod line;
mod measure;
pub mod offer;
mod promise;
mod random;
mod report;
mod run;
pub mod saboteur;
mod stage;
mod table;
mod target;

pub use case::{Case, Need};
pub use cases::all as cases;
pub use line::{Breakable, Line};
pub use measure::{Measured, Percentiles, measure};
pub use promise::{PROMISES, Promise};
pub use report::{CaseReport, Outcome, Report};
pub use run::{Options, check, run};
pub use table::contract_table;
pub use target::Target;

/// Expands to one test that runs every case against the [`Target`] and prints a table per promise.
#[macro_export]
macro_rules! suite {
    ($target:expr) => {
        #[test]
        fn conformance() {
            $crate::check(::std::sync::Arc::new($target));
        }
    };
}
