//! Access-log files.

/// The access-log files of the process; one writer for each path.
#[derive(Debug, Default)]
pub struct AccessLogFiles {}
