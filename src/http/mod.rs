//! HTTP: codecs, the connection manager and its rules.

pub mod chain_slot;
pub mod config;
pub mod downstream;
pub mod exchange;
pub mod failure;
pub mod filters;
pub mod forward;
pub mod h1;
mod h2_request;
pub mod manager;
pub mod open;
pub mod registry;
pub mod retry;
pub mod rules;
pub mod spare;
pub mod stream;
pub mod tunnel;
pub mod upstream;
pub mod watch;
pub mod wire;
