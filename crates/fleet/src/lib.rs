//! What the backends whose state is on a server have in common. One member's side of a subscription
//! that several processes share: reading ahead, claiming, handing out, settling; what the engine does
//! at once is behind [`Engine`], and new deliveries come from the log or from a [`Source`] of the
//! engine's own. Publishing in shared flushes, to a [`Sink`]. And dead letters, in a
//! [`DeadLetterStore`]. Backends of one process have the
//! cursor crate instead.

mod ahead;
mod consumer;
mod dead_letters;
mod engine;
mod frame;
mod onward;
mod publish;
mod seat;
mod settle;
mod slot;
mod source;
mod subscription;
mod wakes;

pub use consumer::FleetConsumer;
pub use dead_letters::{DeadLetterStore, Edit, Letters, Redriven, Replaced, read_data};
pub use engine::{Answer, Ask, Engine, Granted, How, Page, Run, neighbours};
pub use frame::{decode, encode, encode_all};
pub use publish::{Flushing, Publisher, Sink};
pub use seat::Seat;
pub use slot::Slot;
pub use source::{Claimed, Source, Turn};
pub use subscription::{Interest, Stored, corrupt, read_spec, texts, unknown, write_spec};
pub use wakes::Wakes;
