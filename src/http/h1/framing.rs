//! How a message that is sent says where its body ends: the choices of Envoy.

use ::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use waypost_filters::head::Protocol;

/// How the body that follows is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body and nothing said about one; a `content-length` among the headers is skipped.
    None,
    /// Whatever the headers say: `content-length`, or nothing.
    Headers,
    /// `content-length` is written from this number; one among the headers is skipped.
    Length(u64),
    /// `transfer-encoding: chunked` is written; `content-length` among the headers is skipped.
    Chunked,
}

impl Framing {
    /// For a request; `end` if no body and no trailers follow the head.
    pub fn of_request(method: &Method, upgrade: bool, headers: &HeaderMap, end: bool) -> Self {
        if *method == Method::CONNECT {
            Self::None
        } else if upgrade || headers.contains_key(header::CONTENT_LENGTH) {
            Self::Headers
        } else if !end {
            Self::Chunked
        } else if matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::TRACE) {
            Self::None
        } else {
            // RFC 9110 §8.6: methods that expect a body say that there is none.
            Self::Length(0)
        }
    }

    /// For a response to a request of `method`; `end` if no body and no trailers follow the head.
    ///
    /// For an HTTP/1.0 client without a length it is `Headers`: the body ends with the connection, which the caller closes.
    pub fn of_response(
        status: StatusCode,
        method: &Method,
        protocol: Protocol,
        headers: &HeaderMap,
        end: bool,
    ) -> Self {
        let tunnel = *method == Method::CONNECT && status.is_success();
        if tunnel || status.is_informational() || status == StatusCode::NO_CONTENT {
            Self::None
        } else if headers.contains_key(header::CONTENT_LENGTH) || status == StatusCode::NOT_MODIFIED {
            Self::Headers
        } else if *method == Method::HEAD {
            // What a GET would have got, as nobody knows its length.
            if protocol == Protocol::Http10 { Self::Headers } else { Self::Chunked }
        } else if end {
            Self::Length(0)
        } else if protocol == Protocol::Http10 {
            Self::Headers
        } else {
            Self::Chunked
        }
    }

    /// Whether a header is not written because this says it better.
    pub(super) fn replaces(self, name: &HeaderName) -> bool {
        self != Self::Headers && *name == header::CONTENT_LENGTH
    }
}
