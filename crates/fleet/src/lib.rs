//! What the backends whose state is on a server have in common. One member's side of a subscription
//! that several processes share: reading ahead, claiming, handing out, settling; what the engine does
//! at once is behind [`Engine`], and new deliveries come from the log or from a [`Source`] of the
//! engine's own. And publishing in shared flushes, to a [`Sink`]. Backends of one process have the
//! cursor crate instead.

mod ahead;
mod consumer;
mod engine;
mod frame;
mod onward;
mod publish;
mod seat;
mod settle;
mod slot;
mod source;
mod subscription;

pub use consumer::FleetConsumer;
pub use engine::{Answer, Ask, Engine, Granted, How, Page, Run, neighbours};
pub use frame::{decode, encode, encode_all};
pub use publish::{Flushing, Publisher, Sink};
pub use seat::Seat;
pub use slot::Slot;
pub use source::{Claimed, Source, Turn};
pub use subscription::{Interest, Stored, corrupt, read_spec, texts, unknown, write_spec};
