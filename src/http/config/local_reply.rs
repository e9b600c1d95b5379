//! `local_reply_config`

use http::{HeaderValue, StatusCode};
use waypost_filters::format::SubstitutionFormat;
use waypost_filters::format::header_ops::{HeaderOps, Side};
use waypost_xds::envoy::config::core::v3::{DataSource, SubstitutionFormatString, data_source::Specifier};
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig as Proto, ResponseMapper as MapperProto,
};
use waypost_xds::google::protobuf as pb;

use super::convert::{at, header};
use super::mapper_filter::Filter;
use crate::config::{ConfigError, refuse};

/// How local replies are rewritten.
#[derive(Debug, Default)]
pub struct LocalReplyConfig {
    /// `mappers`: the first that matches counts.
    pub mappers: Vec<Mapper>,
    /// `body_format`; without one bodies stay as they are.
    pub body_format: Option<BodyFormat>,
}

/// One of `mappers`.
#[derive(Debug)]
pub struct Mapper {
    /// `filter`
    pub filter: Filter,
    /// `status_code`
    pub status: Option<StatusCode>,
    /// `body`
    pub body: Option<Vec<u8>>,
    /// `body_format_override`
    pub body_format: Option<BodyFormat>,
    /// `headers_to_add`
    pub headers: HeaderOps,
}

/// A format of bodies.
#[derive(Debug)]
pub struct BodyFormat {
    /// The format.
    pub format: SubstitutionFormat,
    /// Its `content-type`.
    pub content_type: HeaderValue,
}

impl LocalReplyConfig {
    pub(super) fn compile(proto: Option<Proto>, path: &str) -> Result<LocalReplyConfig, ConfigError> {
        let Proto { mappers, body_format } = proto.unwrap_or_default();
        let mappers = mappers.into_iter().enumerate().map(|(i, m)| Mapper::compile(m, &format!("{path}.mappers[{i}]")));
        Ok(LocalReplyConfig {
            mappers: mappers.collect::<Result<_, _>>()?,
            body_format: BodyFormat::compile(body_format, &at(path, "body_format"))?,
        })
    }
}

impl Mapper {
    fn compile(proto: MapperProto, path: &str) -> Result<Mapper, ConfigError> {
        let MapperProto { filter, status_code, body, body_format_override, headers_to_add } = proto;
        let Some(filter) = filter else { return Err(ConfigError::new(at(path, "filter"), "value is required")) };
        let status = match status_code {
            None => None,
            Some(pb::UInt32Value { value }) => {
                let status = u16::try_from(value).ok().filter(|v| (200..600).contains(v));
                let status = status.and_then(|v| StatusCode::from_u16(v).ok());
                let error = || ConfigError::new(at(path, "status_code"), "value must be within 200 and 599");
                Some(status.ok_or_else(error)?)
            }
        };
        let headers = HeaderOps::compile(headers_to_add, Vec::new(), Side::LocalReply, path);
        Ok(Mapper {
            filter: Filter::compile(filter, path)?,
            status,
            body: body.map(|b| data_source(b, &at(path, "body"))).transpose()?,
            body_format: BodyFormat::compile(body_format_override, &at(path, "body_format_override"))?,
            headers: headers.map_err(|e| ConfigError::new(e.path, e.reason))?,
        })
    }
}

impl BodyFormat {
    fn compile(proto: Option<SubstitutionFormatString>, path: &str) -> Result<Option<BodyFormat>, ConfigError> {
        let Some(proto) = proto else { return Ok(None) };
        let format = SubstitutionFormat::compile(proto, path).map_err(|e| ConfigError::new(e.path, e.reason))?;
        let content_type = header(&format.content_type, path, "content_type")?;
        let content_type = content_type.unwrap_or(HeaderValue::from_static("text/plain"));
        Ok(Some(BodyFormat { format, content_type }))
    }
}

/// The bytes of a `DataSource`, read now.
fn data_source(source: DataSource, path: &str) -> Result<Vec<u8>, ConfigError> {
    let DataSource { watched_directory, specifier } = source;
    refuse(&watched_directory, path, "watched_directory")?;
    match specifier {
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::Filename(name)) => std::fs::read(&name)
            .map_err(|e| ConfigError::new(at(path, "filename"), format!("cannot read '{name}': {e}"))),
        Some(Specifier::EnvironmentVariable(name)) => std::env::var(&name)
            .map(String::into_bytes)
            .map_err(|_| ConfigError::new(at(path, "environment_variable"), format!("'{name}' is not set"))),
        None => Err(ConfigError::new(at(path, "specifier"), "value is required")),
    }
}
