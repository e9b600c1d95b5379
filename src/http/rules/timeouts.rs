//! How long a request may take: the route's timeouts, the client's wishes, and what the upstream is told of them
//! (`FilterUtility::finalTimeout`, `ActiveStream::refreshDurationTimeout`).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::number;

const X_ENVOY_EXPECTED_RQ_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What a route says of time. 0 is "for ever", as in Envoy; `None` is "says nothing".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// `timeout`, 15 s where the route has none.
    pub timeout: Duration,
    /// `idle_timeout`
    pub idle: Option<Duration>,
    /// `retry_policy.per_try_timeout`
    pub per_try: Duration,
    /// `retry_policy.per_try_idle_timeout`
    pub per_try_idle: Duration,
    /// `max_grpc_timeout` (deprecated); not looked at where there is a `max_stream_duration` message.
    pub max_grpc_timeout: Option<Duration>,
    /// `grpc_timeout_offset` (deprecated)
    pub grpc_timeout_offset: Option<Duration>,
    /// Whether there is a `max_stream_duration` message, in which case `timeout` is not looked at unless a header asks.
    pub uses_stream_duration: bool,
    /// `max_stream_duration.max_stream_duration`
    pub max_stream_duration: Option<Duration>,
    /// `max_stream_duration.grpc_timeout_header_max`
    pub grpc_timeout_header_max: Option<Duration>,
    /// `max_stream_duration.grpc_timeout_header_offset`
    pub grpc_timeout_header_offset: Option<Duration>,
    /// `hedge_policy.hedge_on_per_try_timeout`
    pub hedge_on_per_try_timeout: bool,
}

/// The timeouts of one request; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTimeouts {
    /// From the end of the request to the end of the response, over all tries.
    pub global: Option<Duration>,
    /// One try.
    pub per_try: Option<Duration>,
    /// One try without a byte.
    pub per_try_idle: Option<Duration>,
    /// The stream without a byte.
    pub idle: Option<Duration>,
    /// The stream, from its first byte to its last.
    pub max_stream_duration: Option<Duration>,
}

/// What else the timeouts depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// Whether this is a gRPC request.
    pub grpc: bool,
    /// `respect_expected_rq_timeout` of the router.
    pub respect_expected: bool,
    /// `suppress_envoy_headers` of the router.
    pub suppress_headers: bool,
    /// `stream_idle_timeout` of the connection manager.
    pub stream_idle: Option<Duration>,
    /// `max_stream_duration` of the connection manager.
    pub max_stream_duration: Option<Duration>,
}

/// Computes the timeouts of a request, takes the client's wishes out of its headers, and writes what the upstream may expect. Wishes are
/// only there if the client is internal: [`super::request::mutate_request`] has taken away all others.
pub fn request_timeouts(headers: &mut HeaderMap, route: &RouteTimeouts, with: Circumstances) -> RequestTimeouts {
    // Before the grpc-timeout that this reads is rewritten.
    let max_stream_duration = stream_duration(headers, route, with);
    let mut global = if route.uses_stream_duration { Duration::ZERO } else { route_timeout(headers, route, with.grpc) };
    // Few clients wish for anything: one look over the names costs less than three searches.
    let wishes = headers.keys().any(|name| name.as_str().starts_with("x-envoy-"));
    let expected = if wishes && with.respect_expected { headers.get(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS) } else { None };
    if let Some(expected) = expected {
        global = millis(expected).unwrap_or(global);
    } else if wishes && let Some(wish) = headers.remove(X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS) {
        global = millis(&wish).unwrap_or(global);
    }
    let mut per_try = route.per_try;
    if wishes && let Some(wish) = headers.remove(X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS) {
        per_try = millis(&wish).unwrap_or(per_try);
    }
    if per_try >= global && !global.is_zero() {
        per_try = Duration::ZERO;
    }
    let some = |d: Duration| Some(d).filter(|d| !d.is_zero());
    let timeouts = RequestTimeouts {
        global: some(global),
        per_try: some(per_try),
        per_try_idle: some(route.per_try_idle),
        idle: route.idle.map_or(with.stream_idle, some),
        max_stream_duration,
    };
    expect(headers, &timeouts, Duration::ZERO, route, with);
    timeouts
}

/// Writes `x-envoy-expected-rq-timeout-ms`: before the first try with nothing elapsed, before others with the time since the first.
pub fn expect(
    headers: &mut HeaderMap,
    timeouts: &RequestTimeouts,
    elapsed: Duration,
    route: &RouteTimeouts,
    with: Circumstances,
) {
    // A hedged request goes on after its first try has timed out, and has all the time there is.
    let per_try = timeouts.per_try.filter(|_| !route.hedge_on_per_try_timeout);
    let Some(mut expected) = per_try.or(timeouts.global) else { return };
    if let Some(global) = timeouts.global {
        // Out of time: 0 would say "for ever", and our own timer is about to fire.
        const SOON: Duration = Duration::from_millis(1);
        expected = if elapsed >= global { SOON } else { expected.min(global - elapsed) };
    }
    let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
    if !with.suppress_headers {
        headers.insert(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, number(millis));
    }
    if with.grpc && !route.uses_stream_duration && route.max_grpc_timeout.is_some() {
        headers.insert(GRPC_TIMEOUT, grpc_timeout_value(millis));
    }
}

fn route_timeout(headers: &HeaderMap, route: &RouteTimeouts, grpc: bool) -> Duration {
    let Some(max) = route.max_grpc_timeout.filter(|_| grpc) else { return route.timeout };
    let mut timeout = grpc_timeout(headers).unwrap_or_default();
    if let Some(offset) = route.grpc_timeout_offset.filter(|o| *o < timeout) {
        timeout -= offset;
    }
    if !max.is_zero() && (timeout.is_zero() || timeout > max) { max } else { timeout }
}

fn stream_duration(headers: &HeaderMap, route: &RouteTimeouts, with: Circumstances) -> Option<Duration> {
    let some = |d: Duration| Some(d).filter(|d| !d.is_zero());
    let limited = route.grpc_timeout_header_max.and_then(|max| Some((grpc_timeout(headers)?, max)));
    let Some((mut timeout, max)) = limited else {
        return route.max_stream_duration.map_or(with.max_stream_duration, some);
    };
    if timeout > max && !max.is_zero() {
        timeout = max;
    }
    // A timeout of 0 is one here: the caller gives up at once.
    Some(timeout.saturating_sub(route.grpc_timeout_header_offset.unwrap_or_default()))
}

fn millis(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_millis)
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP2), in whole milliseconds, rounded up.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(GRPC_TIMEOUT)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_millis(value.div_ceil(1_000)),
        b'n' => Duration::from_millis(value.div_ceil(1_000_000)),
        _ => return None,
    })
}

/// Milliseconds in the smallest unit that holds them in eight digits.
fn grpc_timeout_value(millis: u64) -> HeaderValue {
    const MOST: u64 = 99_999_999;
    let units = [(1, 'm'), (1_000, 'S'), (60_000, 'M'), (3_600_000, 'H')];
    let text = units.iter().map(|(size, unit)| (millis / size, unit)).find(|(n, _)| *n <= MOST);
    let text = text.map_or_else(|| format!("{MOST}H"), |(n, unit)| format!("{n}{unit}"));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("99999999H"))
}
