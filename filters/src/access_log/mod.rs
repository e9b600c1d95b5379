//! Access logs (`envoy.config.accesslog.v3`): a filter, a format and a sink, compiled once.

use std::fmt::Debug;
use std::sync::Arc;

use crate::format::FormatContext;
use waypost_xds::envoy::config::accesslog::v3 as proto;

/// An access log that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct AccessLogError {
    /// The field.
    pub path: String,
    /// What is wrong, or that it is not supported.
    pub reason: String,
}

/// Where lines go. Must not block.
pub trait Sink: Send + Sync + Debug {
    /// Has `write` append one whole line to the buffer of this thread.
    fn line(&self, write: &mut dyn FnMut(&mut Vec<u8>));
}

/// Opens the sink of a path (`/dev/stdout` and `/dev/stderr` for the stream loggers).
pub type Opener<'a> = dyn FnMut(&str) -> Result<Arc<dyn Sink>, String> + 'a;

/// One compiled access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    sink: Arc<dyn Sink>,
}

impl AccessLog {
    /// Compiles an access log; `path` is that of the message.
    pub fn compile(_log: proto::AccessLog, path: &str, opener: &mut Opener<'_>) -> Result<AccessLog, AccessLogError> {
        let sink = opener("").map_err(|reason| AccessLogError { path: path.to_owned(), reason })?;
        Ok(AccessLog { sink })
    }

    /// Writes a line, unless the filter says no.
    pub fn record(&self, _cx: &FormatContext<'_>) {
        self.sink.line(&mut |_| {});
    }
}
