//! What almost every application imports: `use fanfare::prelude::*;`.

pub use fanfare_bus::{
    Attempt, Bus, Data, DomainEvent, Metadata, Outcome, Raw, Router, State, Subscription,
};
pub use fanfare_core::event::Event;
pub use fanfare_core::retry::RetryPolicy;
pub use fanfare_core::subscription::Start;
pub use fanfare_core::{Error, ErrorKind};
/// `#[derive(Event)]`; shares its name with the event itself.
pub use fanfare_macros::Event;
