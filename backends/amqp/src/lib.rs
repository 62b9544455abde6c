//! The RabbitMQ backend: a topic exchange for the stream, a quorum queue for each subscription. The
//! broker keeps, moves and gives back; who runs what, and until when, is decided by the members of one
//! process among themselves. Not a way to speak AMQP.
//!
//! Under the stream `S`, everything is durable:
//! ```text
//! exchange S            topic; what nobody wants goes to S.unrouted
//! queue S.unrouted      what had no subscription yet, for the first that starts with the earliest
//! queue S.s.<name>      one subscription, bound with its patterns
//! queue S.q.<name>      those of it that are to run alone, because a process died with them
//! queue S.d.<name>.<ms> retries of one delay, which go back to S.s.<name> by themselves
//! queue S.dead.<name>   dead letters of it
//! queue S.book, S.state one message each: the subscriptions, the shared values
//! queue S.lock          exists while somebody changes one of these
//! queue S.e.., S.echo.. of one connection, and gone with it: a broadcast, an echo
//! ```

mod admin;
mod advice;
mod backend;
mod browse;
mod config;
mod connect;
mod consume;
mod dead_letters;
mod desk;
mod ear;
mod error;
mod hub;
mod order;
mod publish;
mod register;
mod remove;
mod restore;
mod settle;
mod sift;
mod state;
mod subscription;
mod suspects;
mod topology;
mod way;
mod wire;

pub use backend::AmqpBackend;
pub use config::AmqpConfig;
