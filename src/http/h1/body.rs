//! Message bodies: bytes → data and trailers.

use ::http::HeaderMap;
use bytes::{Bytes, BytesMut};

use super::error::H1Error;

/// How a body is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// No body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Whatever comes until the peer closes: responses without framing, and tunnels.
    UntilClose,
}

/// What a call to [`BodyDecoder::decode`] found.
#[derive(Debug)]
pub enum Decoded {
    /// Some bytes of the body; call again.
    Data(Bytes),
    /// The body ended with these trailers.
    Trailers(HeaderMap),
    /// The body ended.
    End,
    /// More bytes are needed.
    NeedMore,
}

/// What the end of the connection means for the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eof {
    /// The body was complete, or ends with the connection.
    Clean,
    /// The body was cut short.
    Truncated,
}

/// Takes a body off a buffer.
#[derive(Debug)]
pub struct BodyDecoder {
    _kind: BodyKind,
}

impl BodyDecoder {
    /// A decoder whose trailers may have 60 KiB and 100 lines.
    pub fn new(kind: BodyKind) -> Self {
        Self { _kind: kind }
    }

    /// The same with the limits of headers.
    #[must_use]
    pub fn with_limits(self, _max_trailers_bytes: usize, _max_trailers_count: usize) -> Self {
        self
    }

    /// The next piece of the body.
    pub fn decode(&mut self, _buf: &mut BytesMut) -> Result<Decoded, H1Error> {
        Ok(Decoded::NeedMore)
    }

    /// Whether all of the body was seen.
    pub fn is_done(&self) -> bool {
        false
    }

    /// What it means if the peer ends the connection now.
    pub fn on_eof(&self) -> Eof {
        Eof::Truncated
    }
}
