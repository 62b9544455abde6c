//! Tower layers for handlers. Retries, dead letters, panics and time limits are not here: they
//! belong to every subscription, in a fixed order, and live in `retry` and `dispatch`.

mod throttle;

pub use throttle::{Throttle, Throttled};
