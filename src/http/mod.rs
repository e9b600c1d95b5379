//! HTTP: codecs, the connection manager and its rules.

pub mod config;
pub mod filters;
pub mod h1;
pub mod rules;
