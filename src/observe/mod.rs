//! What is told at the end: stats, access logs, process logs.

pub mod access_log;
pub mod log;
pub mod stats;
