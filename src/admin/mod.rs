//! The admin interface: its own thread, Envoy's endpoints and formats.

pub mod config_store;
pub mod json;
mod page;
mod query;
mod server;
pub mod state;
pub mod stats_config;

mod clusters;
mod config_dump;
mod control;
mod help;
mod listeners;
mod logging;
mod prometheus;
mod server_info;
mod stats;
mod tags;

#[cfg(test)]
mod tests;

pub use self::config_store::{ConfigStore, Kind, Resource};
pub use self::server::{AdminConfig, start};
pub use self::state::AdminState;
pub use self::stats_config::StatsConfig;
