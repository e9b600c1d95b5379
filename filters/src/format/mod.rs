//! Substitution formatters: text with `%OPERATORS%`, compiled once into a little program.
//!
//! An operator writes straight into the line that is being built; nothing is allocated beside it.

mod certificate;
mod compile;
pub mod header_ops;
mod headers;
mod json;
mod operator;
mod parse;
mod place;
mod plain;
mod status;
mod substitution;
mod time;
pub(crate) mod value;

#[cfg(test)]
mod tests;

pub use compile::Extensions;
pub(crate) use headers::{byte_size, request_size, response_size};
pub use json::{JsonFormat, JsonOptions};
pub(crate) use operator::duration as duration_of;
pub(crate) use status::grpc_status;
pub use substitution::{Shape, SubstitutionError, SubstitutionFormat};

use crate::head::{RequestHead, ResponseHead};
use crate::stream::{HttpStream, StreamInfo};
use ::http::HeaderMap;
use operator::Operator;

/// A format text that cannot be compiled, in Envoy's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub String);

/// What a format is evaluated on. Borrows only; make one where it is needed.
#[derive(Clone, Copy, Debug)]
pub struct FormatContext<'a> {
    /// The stream.
    pub info: &'a StreamInfo,
    /// The request's head; none for TCP.
    pub request: Option<&'a RequestHead>,
    /// The response's head, once there is one.
    pub response: Option<&'a ResponseHead>,
    /// The response's trailers, once there are any.
    pub trailers: Option<&'a HeaderMap>,
    /// `%LOCAL_REPLY_BODY%`.
    pub local_reply_body: &'a str,
    /// `%ACCESS_LOG_TYPE%`.
    pub access_log_type: AccessLogType,
}

/// `envoy.data.accesslog.v3.AccessLogType`: at which event a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessLogType {
    /// `NotSet`: no log at all, or one that has no type.
    #[default]
    NotSet = 0,
    /// `TcpUpstreamConnected`
    TcpUpstreamConnected = 1,
    /// `TcpPeriodic`
    TcpPeriodic = 2,
    /// `TcpConnectionEnd`
    TcpConnectionEnd = 3,
    /// `DownstreamStart`
    DownstreamStart = 4,
    /// `DownstreamPeriodic`
    DownstreamPeriodic = 5,
    /// `DownstreamEnd`
    DownstreamEnd = 6,
    /// `UpstreamPoolReady`
    UpstreamPoolReady = 7,
    /// `UpstreamPeriodic`
    UpstreamPeriodic = 8,
    /// `UpstreamEnd`
    UpstreamEnd = 9,
    /// `DownstreamTunnelSuccessfullyEstablished`
    DownstreamTunnelSuccessfullyEstablished = 10,
    /// `TcpConnectionStart`
    TcpConnectionStart = 14,
}

/// A compiled format.
#[derive(Clone, Debug)]
pub struct Format {
    pieces: Box<[Piece]>,
}

/// One step of a format's program.
#[derive(Clone, Debug)]
enum Piece {
    Literal(Box<[u8]>),
    Operator(Operator),
}

impl<'a> FormatContext<'a> {
    /// A context without HTTP heads: a TCP connection, or network filters.
    pub fn of_info(info: &'a StreamInfo) -> FormatContext<'a> {
        FormatContext {
            info,
            request: None,
            response: None,
            trailers: None,
            local_reply_body: "",
            access_log_type: AccessLogType::NotSet,
        }
    }

    /// The context of an HTTP stream as it is now.
    pub fn of_stream(stream: &'a HttpStream) -> FormatContext<'a> {
        FormatContext {
            request: Some(&stream.request),
            response: stream.response.as_ref(),
            trailers: stream.response_trailers.as_ref(),
            ..FormatContext::of_info(&stream.info)
        }
    }
}

impl AccessLogType {
    /// As `%ACCESS_LOG_TYPE%` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            AccessLogType::NotSet => "NotSet",
            AccessLogType::TcpUpstreamConnected => "TcpUpstreamConnected",
            AccessLogType::TcpPeriodic => "TcpPeriodic",
            AccessLogType::TcpConnectionEnd => "TcpConnectionEnd",
            AccessLogType::DownstreamStart => "DownstreamStart",
            AccessLogType::DownstreamPeriodic => "DownstreamPeriodic",
            AccessLogType::DownstreamEnd => "DownstreamEnd",
            AccessLogType::UpstreamPoolReady => "UpstreamPoolReady",
            AccessLogType::UpstreamPeriodic => "UpstreamPeriodic",
            AccessLogType::UpstreamEnd => "UpstreamEnd",
            AccessLogType::DownstreamTunnelSuccessfullyEstablished => "DownstreamTunnelSuccessfullyEstablished",
            AccessLogType::TcpConnectionStart => "TcpConnectionStart",
        }
    }
}

impl Format {
    /// Compiles a format.
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        Format::parse_with(text, Extensions::default())
    }

    /// Compiles a format with extensions.
    pub fn parse_with(text: &str, extensions: Extensions) -> Result<Format, FormatError> {
        parse::pieces(text, extensions).map(|pieces| Format { pieces: pieces.into() })
    }

    /// Appends the text, with `-` for what is missing.
    pub fn write(&self, out: &mut Vec<u8>, cx: &FormatContext<'_>) {
        self.write_with(out, cx, b"-");
    }

    /// Appends the text, with nothing for what is missing (`omit_empty_values`): headers, filter state.
    pub fn write_or_empty(&self, out: &mut Vec<u8>, cx: &FormatContext<'_>) {
        self.write_with(out, cx, b"");
    }

    fn write_with(&self, out: &mut Vec<u8>, cx: &FormatContext<'_>, missing: &[u8]) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Operator(operator) => {
                    if !operator.text(cx, out) {
                        out.extend_from_slice(missing);
                    }
                }
            }
        }
    }

    /// The text with nothing for what is missing; none if it came out empty (what `skip_if_empty` skips).
    pub fn evaluate(&self, cx: &FormatContext<'_>) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.write_or_empty(&mut out, cx);
        (!out.is_empty()).then_some(out)
    }

    /// Whether the text never changes.
    pub fn is_constant(&self) -> bool {
        self.constant().is_some()
    }

    /// The text, if it never changes.
    pub(crate) fn constant(&self) -> Option<&[u8]> {
        match &*self.pieces {
            [] => Some(b""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }
}
