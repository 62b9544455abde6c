//! The raw clients: the least code that does the same work with the same durability. Nothing of
//! Fanfare is used here but the event itself.

pub(crate) mod amqp;
pub(crate) mod channel;
pub(crate) mod file;
pub(crate) mod group;
pub(crate) mod nats;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod sqlite;
