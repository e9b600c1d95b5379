//! `mappers.filter`: an access-log filter, asked without a log.

use std::cell::Cell;
use std::sync::Arc;

use waypost_filters::access_log::{AccessLog, Sink};
use waypost_filters::format::FormatContext;
use waypost_xds::any;
use waypost_xds::envoy::config::accesslog::v3::{self as proto, AccessLogFilter};
use waypost_xds::envoy::extensions::access_loggers::file::v3::FileAccessLog;

use crate::config::ConfigError;

/// A compiled `AccessLogFilter`: an access log whose sink only notes that there was a line, so that filters mean the same in both places.
#[derive(Debug)]
pub struct Filter {
    log: AccessLog,
}

thread_local! {
    static LINE: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug)]
struct Noted;

impl Sink for Noted {
    fn line(&self, _write: &mut dyn FnMut(&mut Vec<u8>)) {
        LINE.set(true);
    }
}

impl Filter {
    /// Compiles a filter; `path` is that of the message which holds it as `filter`.
    pub(super) fn compile(filter: AccessLogFilter, path: &str) -> Result<Filter, ConfigError> {
        let file = FileAccessLog { path: "/dev/null".into(), ..FileAccessLog::default() };
        let log = proto::AccessLog {
            name: "envoy.access_loggers.file".into(),
            filter: Some(filter),
            config_type: Some(proto::access_log::ConfigType::TypedConfig(any::pack(&file))),
        };
        let log = AccessLog::compile(log, path, &mut |_| Ok(Arc::new(Noted)));
        Ok(Filter { log: log.map_err(|e| ConfigError::new(e.path, e.reason))? })
    }

    /// Whether the filter takes a stream.
    pub fn matches(&self, context: &FormatContext<'_>) -> bool {
        LINE.set(false);
        self.log.record(context);
        LINE.get()
    }
}
