//! What filters make of a response's body.

use std::fmt;

use bytes::Bytes;

use crate::http::compressor::Compressors;

/// Makes another body of a response's body, piece by piece. Each piece comes out before the next one goes in, so that what a slow client does
/// not read is not made either.
pub trait BodyEncoder: Send {
    /// What goes out for a piece. `end` says that it is the last one; it may be empty.
    fn encode(&mut self, data: Bytes, end: bool) -> Bytes;
}

/// The body of a stream's response, as filters see it.
#[derive(Default)]
pub struct Body {
    /// Whether the response is its head and nothing else.
    pub none: bool,
    /// What the body goes through. A filter that finds one here leaves it: a body has one encoding.
    pub encoder: Option<Box<dyn BodyEncoder>>,
    /// The compressors of the stream's chain, which agree on who works.
    pub compressors: Option<Box<Compressors>>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Body { none, encoder, compressors } = self;
        f.debug_struct("Body")
            .field("none", none)
            .field("encoder", &encoder.is_some())
            .field("compressors", &compressors.is_some())
            .finish()
    }
}
