//! From protobuf's scalars to ours.

use std::time::Duration;

use http::HeaderValue;
use waypost_xds::envoy::r#type::v3::Percent;
use waypost_xds::google::protobuf as pb;

use crate::config::ConfigError;

/// The path of a field.
pub(super) fn at(path: &str, field: &str) -> String {
    format!("{path}.{field}")
}

/// A duration; the default where there is none, and an error where it is negative.
pub(super) fn duration(value: Option<pb::Duration>, path: &str, field: &str) -> Result<Option<Duration>, ConfigError> {
    let Some(pb::Duration { seconds, nanos }) = value else { return Ok(None) };
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(s), Ok(n)) if n < 1_000_000_000 => Ok(Some(Duration::new(s, n))),
        _ => Err(ConfigError::new(at(path, field), "value must be a duration that is not negative")),
    }
}

/// A timeout: 0 disables it.
pub(super) fn timeout(
    value: Option<pb::Duration>,
    default: Option<Duration>,
    path: &str,
    field: &str,
) -> Result<Option<Duration>, ConfigError> {
    Ok(match duration(value, path, field)? {
        Some(d) => Some(d).filter(|d| !d.is_zero()),
        None => default,
    })
}

/// A percentage as a part of 10000.
pub(super) fn percent(value: Option<Percent>, default: u16, path: &str, field: &str) -> Result<u16, ConfigError> {
    let Some(Percent { value }) = value else { return Ok(default) };
    if !(0.0..=100.0).contains(&value) {
        return Err(ConfigError::new(at(path, field), "value must be within 0 and 100"));
    }
    Ok((value * 100.0) as u16)
}

/// A number with a default and bounds (both inclusive).
pub(super) fn uint(
    value: Option<pb::UInt32Value>,
    default: u32,
    bounds: std::ops::RangeInclusive<u32>,
    path: &str,
    field: &str,
) -> Result<u32, ConfigError> {
    let Some(pb::UInt32Value { value }) = value else { return Ok(default) };
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(ConfigError::new(at(path, field), format!("value must be within {} and {}", bounds.start(), bounds.end())))
}

/// A truth value with a default.
pub(super) fn boolean(value: Option<pb::BoolValue>, default: bool) -> bool {
    value.map_or(default, |pb::BoolValue { value }| value)
}

/// A header value; none where the text is empty.
pub(super) fn header(text: &str, path: &str, field: &str) -> Result<Option<HeaderValue>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_bytes(text.as_bytes())
        .map(Some)
        .map_err(|_| ConfigError::new(at(path, field), "value is not a valid header value"))
}
