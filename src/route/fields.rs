//! Small fields that several messages have.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use waypost_xds::google::protobuf;

use crate::config::ConfigError;

/// A `google.protobuf.Duration`, which must not be negative.
pub(super) fn duration(
    value: Option<protobuf::Duration>,
    path: &str,
    field: &str,
) -> Result<Option<Duration>, ConfigError> {
    let Some(protobuf::Duration { seconds, nanos }) = value else { return Ok(None) };
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(s), Ok(n)) if n < 1_000_000_000 => Ok(Some(Duration::new(s, n))),
        _ => Err(ConfigError::new(format!("{path}.{field}"), "a duration must not be negative")),
    }
}

pub(super) fn header_name(name: &str, path: &str, field: &str) -> Result<HeaderName, ConfigError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| ConfigError::new(format!("{path}.{field}"), "not a header name"))
}

pub(super) fn header_value(value: &str, path: &str, field: &str) -> Result<HeaderValue, ConfigError> {
    HeaderValue::from_str(value).map_err(|_| ConfigError::new(format!("{path}.{field}"), "not a header value"))
}
