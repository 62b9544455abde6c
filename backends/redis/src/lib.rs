//! The Redis backend: Streams for events, Lua scripts for everything that must happen at once.
//!
//! Events of one flush are one stream entry, a frame. Each subscription has a claim frontier and
//! leases over ranges, kept beside the stream under `{stream}:ff:`, so that the cost is per batch.
//! Every process reads the stream once, whatever the number of its subscriptions. Redis's own
//! consumer groups are not used: they know neither patterns nor parts of a frame. On streams that other
//! services write, one event is one entry in their [`Form`], and a subscription can be a group of
//! Redis ([`Groups`]) that those services are in too.
//!
//! Whoever asks for it gets Pub/Sub instead ([`RedisPubSub`]), which loses what nobody hears.

mod admin;
mod advice;
mod backend;
mod books;
mod config;
mod connect;
mod consume;
mod dead_letters;
mod error;
mod form;
mod frame;
mod history;
mod log;
mod loss;
mod place;
mod publish;
mod pubsub;
mod remove;
mod retention;
mod scripts;
mod state;
mod subscription;

pub use backend::RedisBackend;
pub use config::{Groups, RedisConfig};
pub use form::{EntryForm, Form};
pub use pubsub::{PubSubConfig, RedisPubSub};
