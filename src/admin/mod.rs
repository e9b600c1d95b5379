//! The admin interface: its own thread, Envoy's endpoints and formats.

mod clusters;
mod config_dump;
pub mod config_store;
mod control;
mod help;
mod json;
mod launch;
mod listeners;
mod logging;
mod page;
mod prometheus;
mod query;
mod server;
mod server_info;
pub mod state;
mod stats;
pub mod stats_config;
mod tags;
#[cfg(test)]
mod tests;

pub use self::config_store::{ConfigStore, DumpedScopes, Failed, Kind, Resource};
pub use self::launch::{keep_static, launch};
pub use self::server::{AdminConfig, start};
pub use self::state::{AdminState, RuntimeLayer};
pub use self::stats_config::{StatsConfig, tagged_name};
