//! `x-request-id` (`UuidRequestIdConfig`): version 4 UUIDs whose version digit tells whether the request is traced.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::config::{RequestId, Sampling};

/// `x-request-id`
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
const X_ENVOY_FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

/// Where the trace reason is packed: the version digit of the UUID.
const REASON: usize = 14;
const UUID_LEN: usize = 36;

/// Why a request is traced, or is not; the digit that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TraceReason {
    /// Not traced.
    NotTraceable = b'4',
    /// `random_sampling`
    Sampling = b'9',
    /// `x-envoy-force-trace`
    ServiceForced = b'a',
    /// `x-client-trace-id` and `client_sampling`
    ClientForced = b'b',
}

/// Sees to it that the request has an id: makes one where there is none, and for requests from the edge in any case, unless their ids are
/// preserved; those lose their trace reason, so that clients cannot have themselves traced.
pub fn set(headers: &mut HeaderMap, options: &RequestId, edge: bool) {
    if !options.generate {
        return;
    }
    let exists = headers.get(X_REQUEST_ID).is_some_and(|v| !v.is_empty());
    if exists && !edge {
        return;
    }
    if exists && options.preserve_external {
        set_reason(headers, options, TraceReason::NotTraceable);
        return;
    }
    headers.insert(X_REQUEST_ID, generate());
}

/// Decides whether the request is traced, and marks its id.
pub fn sample(headers: &mut HeaderMap, options: &RequestId, sampling: &Sampling) -> TraceReason {
    let number = if options.sample_by_id { number(headers) } else { Some(random()) };
    let Some(number) = number else { return TraceReason::NotTraceable };
    let within = |limit: u16| number % 10_000 < u64::from(limit);
    let before = reason(headers, options);
    let mut after = before;
    if before == TraceReason::NotTraceable {
        // Whether the client is heard is chance, not a matter of the id.
        if headers.contains_key(X_CLIENT_TRACE_ID) && random() % 10_000 < u64::from(sampling.client) {
            after = TraceReason::ClientForced;
        } else if headers.contains_key(X_ENVOY_FORCE_TRACE) {
            after = TraceReason::ServiceForced;
        } else if within(sampling.random) {
            after = TraceReason::Sampling;
        }
    }
    if after != TraceReason::NotTraceable && !within(sampling.overall) {
        after = TraceReason::NotTraceable;
    }
    if after != before {
        set_reason(headers, options, after);
    }
    after
}

/// The number in the first eight digits of an id.
fn number(headers: &HeaderMap) -> Option<u64> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?.get(..8)?;
    u64::from_str_radix(id, 16).ok()
}

fn reason(headers: &HeaderMap, options: &RequestId) -> TraceReason {
    let id = headers.get(X_REQUEST_ID).map_or(&[][..], HeaderValue::as_bytes);
    match id.get(REASON) {
        Some(b'9') if options.pack_trace_reason && id.len() == UUID_LEN => TraceReason::Sampling,
        Some(b'a') if options.pack_trace_reason && id.len() == UUID_LEN => TraceReason::ServiceForced,
        Some(b'b') if options.pack_trace_reason && id.len() == UUID_LEN => TraceReason::ClientForced,
        _ => TraceReason::NotTraceable,
    }
}

fn set_reason(headers: &mut HeaderMap, options: &RequestId, reason: TraceReason) {
    if !options.pack_trace_reason {
        return;
    }
    let Some(value) = headers.get_mut(X_REQUEST_ID) else { return };
    let Ok(mut id) = <[u8; UUID_LEN]>::try_from(value.as_bytes()) else { return };
    if let Some(digit) = id.get_mut(REASON) {
        *digit = reason as u8;
    }
    if let Ok(marked) = HeaderValue::from_bytes(&id) {
        *value = marked;
    }
}

/// A new id.
fn generate() -> HeaderValue {
    // Where each byte's two digits stand.
    const AT: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    let (high, low) = (random(), random());
    // RFC 9562: version 4 in the 7th byte, variant 10 in the 9th.
    let bits = (u128::from(high & !0xf000 | 0x4000) << 64) | u128::from(low & (u64::MAX >> 2) | 1 << 63);
    let mut text = [b'-'; UUID_LEN];
    for (byte, at) in bits.to_be_bytes().into_iter().zip(AT) {
        if let Some([first, second]) = text.get_mut(at..at + 2) {
            (*first, *second) = (digit(byte >> 4), digit(byte & 15));
        }
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("00000000-0000-4000-8000-000000000000"))
}

/// A random number: xoroshiro128+ (Blackman and Vigna), seeded by the operating system for each thread. Ids need to be different, not secret.
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<(u64, u64)> = Cell::new((RandomState::new().hash_one(1), RandomState::new().hash_one(2) | 1));
    }
    STATE.with(|state| {
        let (a, b) = state.get();
        let mixed = a ^ b;
        state.set((a.rotate_left(24) ^ mixed ^ (mixed << 16), mixed.rotate_left(37)));
        a.wrapping_add(b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: RequestId = RequestId {
        generate: true,
        preserve_external: false,
        always_in_response: false,
        pack_trace_reason: true,
        sample_by_id: true,
    };

    fn id(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !text.is_empty() {
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(text).unwrap());
        }
        headers
    }

    fn text(headers: &HeaderMap) -> &str {
        headers.get(X_REQUEST_ID).map_or("", |v| v.to_str().unwrap())
    }

    #[test]
    fn ids_are_kept_made_replaced_or_cleaned() {
        let preserve = RequestId { preserve_external: true, ..ON };
        let off = RequestId { generate: false, ..ON };
        let uuid = "01234567-89ab-9def-8123-456789abcdef";
        for (options, edge, before, after) in [
            (ON, false, "abc", Some("abc")),
            (ON, true, "abc", None),
            (ON, false, "", None),
            (preserve, true, "my-id", Some("my-id")),
            (preserve, true, uuid, Some("01234567-89ab-4def-8123-456789abcdef")),
            (preserve, false, uuid, Some(uuid)),
            (off, true, "abc", Some("abc")),
            (off, true, "", Some("")),
        ] {
            let mut headers = id(before);
            set(&mut headers, &options, edge);
            match after {
                Some(after) => assert_eq!(text(&headers), after),
                None => {
                    let id = text(&headers).as_bytes();
                    assert!(id.len() == 36 && id[14] == b'4' && b"89ab".contains(&id[19]) && id[23] == b'-', "{id:?}");
                }
            }
        }
    }

    #[test]
    fn two_ids_differ() {
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| generate().as_bytes().to_vec()).collect();
        assert_eq!(ids.len(), 10_000);
    }

    #[test]
    fn sampling_marks_uuids_only() {
        let all = Sampling { client: 10_000, random: 10_000, overall: 10_000 };
        let none = Sampling { random: 0, ..all };
        let uuid = "01234567-89ab-4def-8123-456789abcdef";
        let with = |digit: &str| format!("01234567-89ab-{digit}def-8123-456789abcdef");
        for (sampling, name, before, after) in [
            (all, "", uuid, with("9")),
            (all, "", "01234567-89ab-4d", "01234567-89ab-4d".into()),
            (all, "", "zz", "zz".into()),
            (none, "", uuid, uuid.into()),
            (none, "", &with("9"), with("9")),
            (none, "x-client-trace-id", uuid, with("b")),
            (none, "x-envoy-force-trace", uuid, with("a")),
            (Sampling { overall: 0, ..all }, "", uuid, uuid.into()),
            (Sampling { overall: 0, ..all }, "", &with("9"), uuid.into()),
        ] {
            let mut headers = id(before);
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                headers.insert(name, HeaderValue::from_static("1"));
            }
            sample(&mut headers, &ON, &sampling);
            assert_eq!(text(&headers), after, "{sampling:?} {name} {before}");
        }
    }
}
