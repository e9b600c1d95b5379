//! Header names. Those that nearly every request has but `http` does not know are kept ready, so that they cost no allocation.

use ::http::HeaderName;

/// Longest name in [`WELL_KNOWN`].
const LONGEST: usize = 32;

macro_rules! names {
    ($($name:literal),* $(,)?) => { [$(HeaderName::from_static($name)),*] };
}

/// Sorted, for the binary search.
pub(super) static WELL_KNOWN: [HeaderName; 49] = names![
    "baggage",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-message",
    "grpc-status",
    "grpc-timeout",
    "keep-alive",
    "priority",
    "proxy-connection",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-user",
    "traceparent",
    "tracestate",
    "x-amzn-trace-id",
    "x-api-key",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-client-trace-id",
    "x-cloud-trace-context",
    "x-datadog-parent-id",
    "x-datadog-trace-id",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-original-dst-host",
    "x-envoy-original-path",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-upstream-service-time",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-powered-by",
    "x-real-ip",
    "x-request-id",
    "x-request-start",
    "x-requested-with",
];

/// The name in lower case; none if it is not a token (RFC 9110 §5.6.2).
pub(super) fn header_name(raw: &[u8]) -> Option<HeaderName> {
    if raw.first().is_some_and(|first| b"xXgGtTbBsSkKpP".contains(first)) {
        let mut lower = [0_u8; LONGEST];
        if let Some(lower) = lower.get_mut(..raw.len()) {
            lower.copy_from_slice(raw);
            lower.make_ascii_lowercase();
            if let Ok(at) = WELL_KNOWN.binary_search_by(|name| name.as_str().as_bytes().cmp(lower)) {
                return WELL_KNOWN.get(at).cloned();
            }
        }
    }
    HeaderName::from_bytes(raw).ok()
}

/// RFC 9110 §5.6.2 `tchar`.
pub(super) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}
