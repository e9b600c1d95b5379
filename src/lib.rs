//! Waypost: an Envoy-compatible L7 waypoint proxy.
//!
//! Data goes one way: bytes → listener → http → filters → route → cluster → bytes, and observe is told at the end.

pub mod admin;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod discovery;
pub mod http;
pub mod lifecycle;
pub mod listener;
pub mod memory;
pub mod net;
pub mod observe;
pub mod overload;
pub mod route;
pub mod server;
pub mod tcp_proxy;
pub mod tls;
pub mod tools;
pub mod worker;
