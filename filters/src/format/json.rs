//! `json_format`: a struct whose leaves are formats.

use super::{FormatContext, FormatError};
use waypost_xds::google::protobuf::Struct;

/// How a struct format is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonOptions {
    /// `json_format_options.sort_properties`; without it the order is that of the message's map.
    pub sort_properties: bool,
    /// `omit_empty_values`: members that are missing are left out.
    pub omit_empty_values: bool,
    /// Whether the extension `envoy.formatter.req_without_query` is configured.
    pub req_without_query: bool,
}

/// A compiled `json_format`.
#[derive(Clone, Debug)]
pub struct JsonFormat {}

impl JsonFormat {
    /// Compiles a struct.
    pub fn parse(_format: &Struct, _options: JsonOptions) -> Result<JsonFormat, FormatError> {
        Ok(JsonFormat {})
    }

    /// Appends the JSON and a newline.
    pub fn write(&self, _out: &mut Vec<u8>, _cx: &FormatContext<'_>) {}
}
