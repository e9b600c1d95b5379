//! Listeners.

pub mod chain_match;
