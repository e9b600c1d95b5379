//! `config.core.v3.SubstitutionFormatString`: text or JSON, with its extensions.

use ::prost::Message;

use super::{Extensions, Format, FormatContext, FormatError, JsonFormat, JsonOptions};
use waypost_xds::envoy::config::core::v3 as proto;
use waypost_xds::envoy::config::core::v3::data_source::Specifier;
use waypost_xds::envoy::config::core::v3::substitution_format_string::Format as Kind;
use waypost_xds::envoy::extensions::formatter::cel::v3::Cel;

/// A `SubstitutionFormatString` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct SubstitutionError {
    /// The field.
    pub path: String,
    /// Why, in Envoy's words.
    pub reason: String,
}

/// A compiled `SubstitutionFormatString`: access logs, local replies, `set_filter_state`.
#[derive(Clone, Debug)]
pub struct SubstitutionFormat {
    /// Text or JSON.
    pub shape: Shape,
    /// Whether what is missing is left out (`omit_empty_values`) rather than written as `-` or `null`.
    pub omit_empty_values: bool,
    /// `content_type`, or the one that goes with the shape.
    pub content_type: String,
}

/// What a `SubstitutionFormatString` makes.
#[derive(Clone, Debug)]
pub enum Shape {
    /// `text_format`, `text_format_source`
    Text(Format),
    /// `json_format`
    Json(JsonFormat),
}

impl SubstitutionFormat {
    /// Compiles the message; `path` is where it stands.
    pub fn compile(
        format: proto::SubstitutionFormatString,
        path: &str,
    ) -> Result<SubstitutionFormat, SubstitutionError> {
        let proto::SubstitutionFormatString {
            omit_empty_values,
            content_type,
            formatters,
            // Keys are sorted with and without `sort_properties`, as in Envoy, so there is nothing in it to obey.
            json_format_options: _,
            format,
        } = format;
        let mut extensions = Extensions::default();
        for (i, proto::TypedExtensionConfig { name, typed_config }) in formatters.into_iter().enumerate() {
            let any = typed_config.unwrap_or_default();
            match any.type_url.rsplit('/').next().unwrap_or_default() {
                "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery" => {
                    extensions.req_without_query = true
                }
                // The operator is always there; what it may do is said here.
                "envoy.extensions.formatter.cel.v3.Cel" => {
                    let Cel { cel_config } = Cel::decode(any.value.as_slice()).map_err(|e| SubstitutionError {
                        path: format!("{path}.formatters[{i}].typed_config"),
                        reason: e.to_string(),
                    })?;
                    extensions.cel = cel_config.map(Into::into).unwrap_or_default();
                }
                // This has become an operator that is always there.
                "envoy.extensions.formatter.metadata.v3.Metadata" => {}
                other => {
                    let reason = format!("formatter '{name}' of type '{other}' is not supported yet");
                    return Err(SubstitutionError { path: format!("{path}.formatters[{i}]"), reason });
                }
            }
        }
        let parse = |text: &str, field: &str| {
            Format::parse_with(text, extensions).map(Shape::Text).map_err(|e| at(e, path, field))
        };
        #[allow(deprecated, reason = "the deprecated field is still supported")]
        let shape = match format {
            None => return Err(SubstitutionError { path: format!("{path}.format"), reason: "is required".to_owned() }),
            Some(Kind::TextFormat(text)) => parse(&text, "text_format")?,
            Some(Kind::TextFormatSource(source)) => {
                let text = text_of(source, &format!("{path}.text_format_source"))?;
                parse(&text, "text_format_source")?
            }
            Some(Kind::JsonFormat(format)) => JsonFormat::parse(&format, JsonOptions { omit_empty_values, extensions })
                .map(Shape::Json)
                .map_err(|e| at(e, path, "json_format"))?,
        };
        let content_type = match (&shape, content_type.is_empty()) {
            (_, false) => content_type,
            (Shape::Text(_), true) => "text/plain".to_owned(),
            (Shape::Json(_), true) => "application/json".to_owned(),
        };
        Ok(SubstitutionFormat { shape, omit_empty_values, content_type })
    }

    /// Appends the text or the JSON.
    pub fn write(&self, out: &mut Vec<u8>, cx: &FormatContext<'_>) {
        match &self.shape {
            Shape::Text(f) if self.omit_empty_values => f.write_or_empty(out, cx),
            Shape::Text(f) => f.write(out, cx),
            Shape::Json(f) => f.write(out, cx),
        }
    }
}

fn at(error: FormatError, path: &str, field: &str) -> SubstitutionError {
    SubstitutionError { path: format!("{path}.{field}"), reason: error.0 }
}

/// The text of a data source, read once.
fn text_of(source: proto::DataSource, path: &str) -> Result<String, SubstitutionError> {
    let proto::DataSource { watched_directory, specifier } = source;
    let fail = |reason: String| SubstitutionError { path: path.to_owned(), reason };
    if watched_directory.is_some() {
        return Err(fail("watched_directory is not supported yet".to_owned()));
    }
    match specifier {
        None => Err(fail("specifier is required".to_owned())),
        Some(Specifier::InlineString(text)) => Ok(text),
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).map_err(|e| fail(e.to_string())),
        Some(Specifier::Filename(file)) => {
            std::fs::read_to_string(&file).map_err(|e| fail(format!("unable to read file '{file}': {e}")))
        }
        Some(Specifier::EnvironmentVariable(name)) => {
            std::env::var(&name).map_err(|_| fail(format!("environment variable doesn't exist: {name}")))
        }
    }
}

#[cfg(test)]
#[path = "substitution_tests.rs"]
mod tests;
