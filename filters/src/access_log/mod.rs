//! Access logs (`envoy.config.accesslog.v3`): a filter, a format and a sink, compiled once.

mod filter;
mod matching;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;

use ::prost::Message;

use crate::format::{Format, FormatContext, Shape, SubstitutionFormat};
use filter::Filter;
use waypost_xds::envoy::config::accesslog::v3 as proto;
use waypost_xds::envoy::config::core::v3::SubstitutionFormatString;
use waypost_xds::envoy::config::core::v3::substitution_format_string::Format as ProtoFormat;
use waypost_xds::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use waypost_xds::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};

/// The format of a log without one (`FileAccessLog`'s default).
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
     \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

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
    filter: Option<AccessLogFilter>,
    format: SubstitutionFormat,
    sink: Arc<dyn Sink>,
}

/// A compiled `AccessLogFilter` on its own, as the mappers of local replies have it.
#[derive(Clone, Debug)]
pub struct AccessLogFilter(Option<Filter>);

impl AccessLogFilter {
    /// Compiles a filter; `path` is that of the message itself.
    pub fn compile(filter: proto::AccessLogFilter, path: &str) -> Result<AccessLogFilter, AccessLogError> {
        Filter::compile(filter, path).map(AccessLogFilter)
    }

    /// Whether it takes a stream. One that says nothing takes all.
    pub fn passes(&self, cx: &FormatContext<'_>) -> bool {
        self.0.as_ref().is_none_or(|f| f.passes(cx))
    }
}

impl AccessLog {
    /// Compiles an access log; `path` is that of the message.
    pub fn compile(log: proto::AccessLog, path: &str, opener: &mut Opener<'_>) -> Result<AccessLog, AccessLogError> {
        let proto::AccessLog { name, filter, config_type } = log;
        let config_path = format!("{path}.typed_config");
        let Some(proto::access_log::ConfigType::TypedConfig(any)) = config_type else {
            return Err(error(path, format!("Didn't find a registered implementation for '{name}' with type URL: ''")));
        };
        let decoded = |e: ::prost::DecodeError| error(&config_path, e.to_string());
        let (file, format) = match any.type_url.rsplit('/').next().unwrap_or_default() {
            "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
                let FileAccessLog { path, access_log_format } =
                    FileAccessLog::decode(any.value.as_slice()).map_err(decoded)?;
                if path.is_empty() {
                    let reason = "value length must be at least 1 characters";
                    return Err(error(&format!("{config_path}.path"), reason));
                }
                (path, file_format(access_log_format))
            }
            "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
                let StdoutAccessLog { access_log_format } =
                    StdoutAccessLog::decode(any.value.as_slice()).map_err(decoded)?;
                let format =
                    access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(f)| ("log_format", f));
                ("/dev/stdout".to_owned(), format)
            }
            "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
                let StderrAccessLog { access_log_format } =
                    StderrAccessLog::decode(any.value.as_slice()).map_err(decoded)?;
                let format =
                    access_log_format.map(|stderr_access_log::AccessLogFormat::LogFormat(f)| ("log_format", f));
                ("/dev/stderr".to_owned(), format)
            }
            other => {
                let reason = format!("access logger '{name}' of type '{other}' is not supported yet");
                return Err(error(&config_path, reason));
            }
        };
        let format = match format {
            Some((field, format)) => {
                let path = format!("{config_path}.{field}");
                SubstitutionFormat::compile(format, &path)
                    // A deprecated field holds the format itself, and has none of the fields that the error names.
                    .map_err(|e| error(if field == "log_format" { &e.path } else { &path }, e.reason))?
            }
            None => default_format(&config_path)?,
        };
        let filter = filter.map(|f| AccessLogFilter::compile(f, &format!("{path}.filter"))).transpose()?;
        // The file last, so that a log which cannot be used makes none.
        let sink = opener(&file).map_err(|reason| error(&config_path, reason))?;
        Ok(AccessLog { filter, format, sink })
    }

    /// Writes a line, unless the filter says no.
    pub fn record(&self, cx: &FormatContext<'_>) {
        if self.filter.as_ref().is_none_or(|f| f.passes(cx)) {
            self.sink.line(&mut |out| self.format.write(out, cx));
        }
    }
}

/// The format of a file log with the name of its field, the deprecated ones among them; an empty `format` is none.
#[allow(deprecated, reason = "the deprecated fields are still supported")]
fn file_format(format: Option<file_access_log::AccessLogFormat>) -> Option<(&'static str, SubstitutionFormatString)> {
    use file_access_log::AccessLogFormat;
    let of = |format| SubstitutionFormatString { format: Some(format), ..SubstitutionFormatString::default() };
    Some(match format? {
        AccessLogFormat::Format(text) if text.is_empty() => return None,
        AccessLogFormat::Format(text) => ("format", of(ProtoFormat::TextFormat(text))),
        AccessLogFormat::JsonFormat(json) => ("json_format", of(ProtoFormat::JsonFormat(json))),
        AccessLogFormat::TypedJsonFormat(json) => ("typed_json_format", of(ProtoFormat::JsonFormat(json))),
        AccessLogFormat::LogFormat(format) => ("log_format", format),
    })
}

fn default_format(path: &str) -> Result<SubstitutionFormat, AccessLogError> {
    let text = Format::parse(DEFAULT_FORMAT).map_err(|e| error(path, e.0))?;
    Ok(SubstitutionFormat { shape: Shape::Text(text), omit_empty_values: false, content_type: "text/plain".to_owned() })
}

fn error(path: &str, reason: impl Into<String>) -> AccessLogError {
    AccessLogError { path: path.to_owned(), reason: reason.into() }
}
