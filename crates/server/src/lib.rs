//! The Fanfare HTTP server: the API under `/v1`, the live tail, health, metrics and a status page,
//! over any backend. It holds no events of its own and decides nothing about retries: it puts the
//! bus on the wire.
//!
//! [`Server::bind`] takes the port, [`Server::run`] serves until told to stop and then drains.

mod app;
mod config;
mod connection;
mod http;
mod member;
mod server;

pub use config::{Limits, ServerConfig};
pub use http::openapi::document as openapi;
pub use http::problem::Code as ProblemCode;
pub use server::Server;
