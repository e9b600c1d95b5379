//! Responses made here: headers, gRPC, `local_reply_config` (`Http::Utility::sendLocalReply`).

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use waypost_filters::filter::LocalReply;
use waypost_filters::format::FormatContext;
use waypost_filters::format::header_ops::HeaderOpsChain;
use waypost_filters::head::ResponseHead;
use waypost_filters::stream::HttpStream;

use crate::http::config::HttpConnectionManager;
use crate::http::config::local_reply::{BodyFormat, Mapper};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Makes a local reply the response of its stream, and returns the body to send with it: an empty one ends the stream with its head. A
/// head without `content-length` has no body, and the codec says so.
///
/// `route` are the response headers of the route, which local replies get too. The filters' `on_response` and
/// [`super::response::mutate_response`] come after this.
pub fn apply(
    reply: LocalReply,
    stream: &mut HttpStream,
    hcm: &HttpConnectionManager,
    route: Option<&HeaderOpsChain>,
) -> Bytes {
    let LocalReply { status, body, headers, details, flag, grpc_status, close: _ } = reply;
    stream.info.details = Some(details);
    if let Some(flag) = flag {
        stream.info.flags.set(flag);
    }
    // Filters and formats of the mappers read the code of the reply.
    stream.info.response_code = status.as_u16();
    stream.response = Some(ResponseHead { status, ..ResponseHead::default() });
    if let Some(route) = route {
        route.apply_response(stream);
    }
    if let Some(response) = &mut stream.response {
        for name in headers.keys() {
            // Whether there is one value or several: the reply's take the place of those that stand.
            response.headers.remove(name);
        }
        for (name, value) in &headers {
            response.headers.append(name, value.clone());
        }
    }
    let mut body = body.into_owned().into_bytes();
    let format = rewrite(stream, hcm, &mut body);
    let (head_request, grpc) = (stream.request.method == Method::HEAD, stream.request.is_grpc());
    let Some(response) = &mut stream.response else { return Bytes::new() };
    let content_type = format.map(|f| &f.content_type);
    if grpc {
        let status = grpc_status.unwrap_or_else(|| grpc_status_of(response.status));
        if content_type.is_some_and(|t| t == "application/json") && body.last() == Some(&b'\n') {
            body.pop();
        }
        to_grpc(response, status, if head_request { b"" } else { &body });
        stream.info.response_code = StatusCode::OK.as_u16();
        return Bytes::new();
    }
    if body.is_empty() {
        response.headers.remove(header::CONTENT_LENGTH);
        response.headers.remove(header::CONTENT_TYPE);
        return Bytes::new();
    }
    response.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    match content_type {
        Some(kind) => drop(response.headers.insert(header::CONTENT_TYPE, kind.clone())),
        None if response.headers.contains_key(header::CONTENT_TYPE) => {}
        None => drop(response.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))),
    }
    if head_request { Bytes::new() } else { Bytes::from(body) }
}

/// Applies the first mapper that matches, and the format of bodies; the format, if there was one.
fn rewrite<'h>(stream: &mut HttpStream, hcm: &'h HttpConnectionManager, body: &mut Vec<u8>) -> Option<&'h BodyFormat> {
    let config = &hcm.local_reply;
    let mapper = config.mappers.iter().find(|m| m.filter.matches(&FormatContext::of_stream(stream)));
    if let Some(Mapper { filter: _, status, body: new_body, body_format: _, headers }) = mapper {
        if let Some(new_body) = new_body {
            new_body.clone_into(body);
        }
        // Envoy evaluates these while the old code still stands.
        headers.apply_response(stream);
        if let (Some(status), Some(response)) = (status, &mut stream.response) {
            response.status = *status;
            stream.info.response_code = status.as_u16();
        }
    }
    let format = mapper.and_then(|m| m.body_format.as_ref()).or(config.body_format.as_ref())?;
    let old = String::from_utf8_lossy(body).into_owned();
    body.clear();
    let context = FormatContext { local_reply_body: &old, ..FormatContext::of_stream(stream) };
    format.format.write(body, &context);
    Some(format)
}

/// A response of trailers only: gRPC clients look for `grpc-status`, not for the code.
fn to_grpc(response: &mut ResponseHead, status: u32, message: &[u8]) {
    response.status = StatusCode::OK;
    response.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if response.headers.get(GRPC_STATUS).is_none_or(HeaderValue::is_empty) {
        response.headers.insert(GRPC_STATUS, HeaderValue::from(status));
    }
    if let Some(message) = Some(percent_encode(message)).filter(|m| !m.is_empty())
        && let Ok(message) = HeaderValue::try_from(message)
    {
        response.headers.insert(GRPC_MESSAGE, message);
    }
    response.headers.remove(header::CONTENT_LENGTH);
}

/// The gRPC status of an HTTP status (`Grpc::Utility::httpToGrpcStatus`).
pub fn grpc_status_of(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// gRPC's percent-encoding of messages; Envoy also encodes `~`.
fn percent_encode(message: &[u8]) -> String {
    let mut out = String::with_capacity(message.len());
    for &b in message {
        if (b' '..b'~').contains(&b) && b != b'%' {
            out.push(char::from(b));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}
