//! `config.core.v3.SubstitutionFormatString`: text or JSON, with its extensions.

use super::{Format, FormatContext, JsonFormat};
use waypost_xds::envoy::config::core::v3 as proto;

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
        _format: proto::SubstitutionFormatString,
        path: &str,
    ) -> Result<SubstitutionFormat, SubstitutionError> {
        Err(SubstitutionError { path: path.to_owned(), reason: String::new() })
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
