//! HTTP/1.1, without I/O: heads and bodies in and out of buffers.
//!
//! The connection loops read into a `BytesMut`, call [`parse_request`] or [`parse_response`], then a [`BodyDecoder`], and
//! write what the `encode_*` functions put into their own buffer. Header values are slices of the read buffer.

mod body;
mod encode;
mod error;
mod framing;
mod head;
mod hop;
mod name;
mod request;
mod response;
mod target;
#[cfg(test)]
mod tests;

pub use body::{BodyDecoder, BodyKind, Decoded, Eof};
pub use encode::{
    CHUNK_END, Casing, Connection, encode_chunk_header, encode_continue, encode_informational, encode_last_chunk,
    encode_request, encode_response, encode_trailers, reason_phrase,
};
pub use error::H1Error;
pub use framing::Framing;
pub use head::{ScanState, SpelledNames};
pub use request::{ParsedRequest, RequestLimits, Underscores, parse_request};
pub use response::{ParsedResponse, ResponseLimits, parse_response};
pub use target::is_authority;
