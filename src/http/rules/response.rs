//! What is done to a response's head before it is sent (`ConnectionManagerUtility::mutateResponseHeaders` and what comes before it).

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use time::OffsetDateTime;
use waypost_filters::stream::HttpStream;

use super::request_id::X_REQUEST_ID;
use super::{append, number};
use crate::http::config::{HttpConnectionManager, ServerMode};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_ENVOY_FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Makes the head of `stream.response` what the client is to see. The last thing before it is encoded, for local replies too.
pub fn mutate_response(hcm: &HttpConnectionManager, stream: &mut HttpStream, now: SystemTime) {
    let Some(response) = &mut stream.response else { return };
    let upgraded = response.status == StatusCode::SWITCHING_PROTOCOLS && stream.request.upgrade.is_some();
    let headers = &mut response.headers;
    remove_hop_by_hop(headers, upgraded);
    if !headers.contains_key(header::DATE) {
        headers.insert(header::DATE, date(now));
    }
    let server = match hcm.server.mode {
        ServerMode::Overwrite => true,
        ServerMode::AppendIfAbsent => !headers.contains_key(header::SERVER),
        ServerMode::PassThrough => false,
    };
    if server {
        headers.insert(header::SERVER, hcm.server.name.clone());
    }
    let request = &stream.request.headers;
    if (hcm.request_id.always_in_response || request.keys().any(|name| *name == X_ENVOY_FORCE_TRACE))
        && let Some(id) = request.get(X_REQUEST_ID)
    {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    if let Some(via) = &hcm.via {
        append(headers, header::VIA, ", ", via);
    }
}

/// Says how long the upstream took, from the end of the request to the head of the response; not with `suppress_envoy_headers`.
pub fn set_upstream_service_time(headers: &mut HeaderMap, took: Duration) {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, number(millis));
}

/// Headers about the connection go no further; those that `connection` names do, as in Envoy.
fn remove_hop_by_hop(headers: &mut HeaderMap, upgraded: bool) {
    let about_the_connection = |name: &HeaderName| {
        matches!(name.as_str(), "connection" | "upgrade" | "keep-alive" | "proxy-connection" | "transfer-encoding")
    };
    if !headers.keys().any(about_the_connection) {
        return;
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if !upgraded {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
}

/// The date of RFC 9110 5.6.7, made once a second for each thread.
pub fn date(now: SystemTime) -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((u64::MAX, HeaderValue::from_static(""))) };
    }
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    LAST.with_borrow_mut(|(last, value)| {
        if *last != second {
            *value = format_date(second);
            *last = second;
        }
        value.clone()
    })
}

fn format_date(second: u64) -> HeaderValue {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = i64::try_from(second).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    let text = date.and_then(|d| d.format(format).ok()).unwrap_or_default();
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}
