//! One subscription's place in a log, for backends that live in a single process.
//!
//! ```text
//!  position   1 ........ base ................ frontier ............ head
//!             not ours    |  settled, but for   |   nobody has        |
//!                         |  leases and         |   claimed yet       |
//!                         |  exceptions         |                     |
//! ```
//!
//! Claiming moves the **frontier** and makes a [`lease`]; settling shrinks the lease. Only what is
//! still unsettled costs memory, and only what is unsettled when a commit passes costs a row: see
//! [`changes`]. Where no log keeps the events, a [`queue`] holds them beside it. The machine is pure: no
//! I/O, no clock, no tasks; the caller brings time and events.

mod cursor;
mod exception;
mod interest;
mod lane;
mod lease;
mod ledger;
mod settle;

pub mod changes;
pub mod image;
pub mod queue;

#[cfg(test)]
mod tests;

pub use cursor::{Cursor, Granted, MemberId, Options, Plan};
pub use exception::{Exception, Standing};
pub use interest::Interest;
pub use ledger::{BLOCK, Tally, block_of, block_range};
