//! `DirectResponseAction`.

use bytes::Bytes;
use http::StatusCode;
use waypost_xds::envoy::config::core::v3::{DataSource, data_source::Specifier};
use waypost_xds::envoy::config::route::v3::DirectResponseAction;

use crate::config::{ConfigError, refuse};

/// An answer that is made here.
#[derive(Debug)]
pub struct DirectResponse {
    /// `status`
    pub status: StatusCode,
    /// `body`; sent as `text/plain` unless a header rule says otherwise, and not at all if empty.
    pub body: Bytes,
}

impl DirectResponse {
    /// Compiles a `DirectResponseAction`; `limit` is `max_direct_response_body_size_bytes`.
    pub(super) fn compile(config: DirectResponseAction, limit: u32, path: &str) -> Result<DirectResponse, ConfigError> {
        let DirectResponseAction { status, body, body_format } = config;
        refuse(&body_format, path, "body_format")?;
        let code = u16::try_from(status).ok().filter(|s| (200..600).contains(s));
        let status = code.and_then(|s| StatusCode::from_u16(s).ok());
        let Some(status) = status else {
            return Err(ConfigError::new(format!("{path}.status"), "value must be inside range [200, 600)"));
        };
        let body = body.map(|b| read(b, &format!("{path}.body"))).transpose()?.unwrap_or_default();
        if body.len() > limit as usize {
            let reason = format!("response body size is {} bytes; maximum is {limit}", body.len());
            return Err(ConfigError::new(format!("{path}.body"), reason));
        }
        Ok(DirectResponse { status, body })
    }
}

/// The bytes of a `DataSource`.
fn read(source: DataSource, path: &str) -> Result<Bytes, ConfigError> {
    let DataSource { watched_directory, specifier } = source;
    refuse(&watched_directory, path, "watched_directory")?;
    match specifier {
        Some(Specifier::InlineBytes(b)) => Ok(b.into()),
        Some(Specifier::InlineString(s)) => Ok(s.into()),
        Some(Specifier::Filename(file)) => match std::fs::read(&file) {
            Ok(bytes) => Ok(bytes.into()),
            Err(e) => Err(ConfigError::new(format!("{path}.filename"), format!("{file}: {e}"))),
        },
        Some(Specifier::EnvironmentVariable(name)) => match std::env::var_os(&name) {
            Some(value) => Ok(value.into_encoded_bytes().into()),
            None => {
                let reason = format!("Environment variable doesn't exist: {name}");
                Err(ConfigError::new(format!("{path}.environment_variable"), reason))
            }
        },
        None => Err(ConfigError::new(format!("{path}.specifier"), "value is required")),
    }
}
