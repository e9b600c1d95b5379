//! Access-log files: one writer for each path.

use std::sync::Arc;
use std::time::Duration;

use waypost_filters::access_log::Sink;

/// The access-log files of the process; one writer for each path.
#[derive(Debug, Default)]
pub struct AccessLogFiles {}

impl AccessLogFiles {
    /// Files that are flushed at least this often (`--file-flush-interval-msec`).
    pub fn new(_flush_interval: Duration) -> AccessLogFiles {
        AccessLogFiles {}
    }

    /// The sink of a path; the file is created if need be. An error says why it cannot be opened.
    pub fn open(&self, path: &str) -> Result<Arc<dyn Sink>, String> {
        Err(format!("unable to open file '{path}'"))
    }

    /// Hands over what this thread has buffered and what has waited long enough; for the worker's timer.
    pub fn flush_thread(&self) {}

    /// Opens all files again under their paths (`POST /reopen_logs`, SIGUSR1).
    pub fn reopen(&self) {}

    /// Writes everything that has been handed over, and returns when it is written; for shutdown and tests.
    pub fn flush(&self) {}

    /// How many lines were dropped as a writer did not keep up.
    pub fn dropped(&self) -> u64 {
        0
    }
}
