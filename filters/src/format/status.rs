//! `GRPC_STATUS`, `RESPONSE_FLAGS` and `UNIQUE_ID`.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::FormatContext;
use super::operator::{append, number};
use crate::flags::Flag;

/// How a gRPC status is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcShape {
    Camel,
    Snake,
    Number,
}

/// Camel and snake form by code, as gRPC and absl name them.
const GRPC: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

impl GrpcShape {
    /// Requests that are not gRPC have no status.
    pub fn text(self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        if !cx.request.is_some_and(|r| r.is_grpc()) {
            return false;
        }
        let code = grpc_status(cx);
        let name = usize::try_from(code).ok().and_then(|c| GRPC.get(c));
        match (self, name) {
            (GrpcShape::Camel, Some((camel, _))) => append(out, camel.as_bytes()),
            (GrpcShape::Snake, Some((_, snake))) => append(out, snake.as_bytes()),
            (GrpcShape::Number, _) | (_, None) => number(out, code),
        }
    }
}

/// The gRPC status: of the trailers, of the headers, or what the HTTP status amounts to; -1 for one that is no number.
pub(crate) fn grpc_status(cx: &FormatContext<'_>) -> i64 {
    let headers = cx.response.map(|r| &r.headers);
    if let Some(value) = [cx.trailers, headers].into_iter().flatten().find_map(|h| h.get("grpc-status")) {
        return value.to_str().ok().and_then(|v| v.parse::<u32>().ok()).map_or(-1, i64::from);
    }
    match cx.info.response_code {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Flags joined by commas; `-` where there is none, also in JSON and where empty values are left out.
pub(super) fn write_flags(cx: &FormatContext<'_>, out: &mut Vec<u8>, name: fn(Flag) -> &'static str) -> bool {
    if cx.info.flags.is_empty() {
        return append(out, b"-");
    }
    for (i, flag) in cx.info.flags.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name(flag).as_bytes());
    }
    true
}

/// A new UUID of version 4. It need not be a secret, so the standard library's randomness will do.
pub(super) fn write_unique_id(_: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let random = || RandomState::new().build_hasher().finish();
    let bits = (u128::from(random()) << 64) | u128::from(random());
    // Version 4 and the variant of RFC 9562 in their places.
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    for i in 0..32_u32 {
        if matches!(i, 8 | 12 | 16 | 20) {
            out.push(b'-');
        }
        let digit = (bits >> (124 - 4 * i)) & 15;
        out.push(usize::try_from(digit).ok().and_then(|d| HEX.get(d)).copied().unwrap_or(b'0'));
    }
    true
}

/// A text without whitespace, as in `%RESPONSE_CODE_DETAILS%`.
pub(super) fn write_underscored(text: Option<&str>, out: &mut Vec<u8>) -> bool {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return false };
    out.extend(text.bytes().map(|b| if b.is_ascii_whitespace() || b == 0x0b { b'_' } else { b }));
    true
}
