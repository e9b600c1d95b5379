//! What the connection manager does to heads. Pure: no sockets, no waiting.

pub mod forwarded;
pub mod local_reply;
pub mod path;
pub mod request;
pub mod request_id;
pub mod response;
#[cfg(test)]
mod tests;
pub mod timeouts;
pub mod xfcc;

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A number as a header's value: small ones and the one that was last asked for, such as a route's timeout, without allocating.
fn number(n: u64) -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static("0"))) };
    }
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match usize::try_from(n).ok().and_then(|n| DIGITS.get(n)) {
        Some(digit) => HeaderValue::from_static(digit),
        None => LAST.with_borrow_mut(|(last, value)| {
            if *last != n {
                (*last, *value) = (n, HeaderValue::from(n));
            }
            value.clone()
        }),
    }
}

/// Appends to the value of a header; several lines of it become one, as Envoy joins them when it reads them.
fn append(headers: &mut HeaderMap, name: HeaderName, separator: &str, value: &HeaderValue) {
    let mut all = headers.get_all(&name).iter();
    let Some(first) = all.next() else {
        headers.insert(name, value.clone());
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for more in all {
        joined.push(b',');
        joined.extend_from_slice(more.as_bytes());
    }
    if !joined.is_empty() {
        joined.extend_from_slice(separator.as_bytes());
    }
    joined.extend_from_slice(value.as_bytes());
    // Values joined by commas are a value.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, joined);
    }
}

/// Makes one line of several.
fn join(headers: &mut HeaderMap, name: &HeaderName) {
    let mut all = headers.get_all(name).iter();
    let (Some(first), Some(second)) = (all.next(), all.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for more in std::iter::once(second).chain(all) {
        joined.push(b',');
        joined.extend_from_slice(more.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(name.clone(), joined);
    }
}
