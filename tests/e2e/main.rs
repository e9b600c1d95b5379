//! Waypost as a process, between clients and backends that a test holds in its hands. Every test has a proxy, ports and a folder of its own, so
//! all run at once; none sleeps, each waits for what it wants to see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests"
)]

mod rig;

mod access_log;
mod admin;
mod config;
mod discovery;
mod drain;
mod extensions;
mod guards;
mod host_sets;
mod limits;
mod listener_updates;
mod listeners;
mod original_dst;
mod pools;
mod routes;
mod secrets;
mod sidecars;
mod silence;
mod streams;
mod tunnels;
mod upgrades;
