//! Where configuration finds what it calls a header: pseudo headers and a few others are kept apart from the headers.

use ::http::HeaderName;

use crate::head::RequestHead;

/// A header by its name, or what Envoy takes for one.
#[derive(Clone, Debug)]
pub enum HeaderPlace {
    /// Among the headers.
    Header(HeaderName),
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`, and `host`: Envoy looks that up as `:authority`, on HTTP/1 too.
    Authority,
    /// `:path`
    Path,
    /// `upgrade`, which the head keeps apart: an extended CONNECT becomes an upgrade request before anybody looks at it.
    Upgrade,
    /// `:status`, which requests do not have.
    Status,
    /// A pseudo header that no message has.
    Nowhere,
}

impl HeaderPlace {
    /// The place of a name, in any case of letters; none if it is no header's name.
    pub fn of(name: &str) -> Option<HeaderPlace> {
        Some(match name.to_ascii_lowercase().as_str() {
            ":method" => HeaderPlace::Method,
            ":scheme" => HeaderPlace::Scheme,
            ":authority" | "host" => HeaderPlace::Authority,
            ":path" => HeaderPlace::Path,
            ":status" => HeaderPlace::Status,
            "upgrade" => HeaderPlace::Upgrade,
            n if n.starts_with(':') => HeaderPlace::Nowhere,
            n => HeaderPlace::Header(HeaderName::from_bytes(n.as_bytes()).ok()?),
        })
    }

    /// What a request has there; of a header with several values, the first.
    pub fn value<'a>(&self, head: &'a RequestHead) -> Option<&'a [u8]> {
        let value = match self {
            HeaderPlace::Header(name) => head.headers.get(name),
            HeaderPlace::Authority => head.authority.as_ref(),
            HeaderPlace::Path => head.path.as_ref(),
            HeaderPlace::Upgrade => head.upgrade.as_ref(),
            HeaderPlace::Method => return Some(head.method.as_str().as_bytes()),
            HeaderPlace::Scheme => return Some(head.scheme.as_str().as_bytes()),
            HeaderPlace::Status | HeaderPlace::Nowhere => None,
        };
        value.map(|v| v.as_bytes())
    }

    /// Its name, as Envoy writes it.
    pub fn as_str(&self) -> &str {
        match self {
            HeaderPlace::Header(name) => name.as_str(),
            HeaderPlace::Method => ":method",
            HeaderPlace::Scheme => ":scheme",
            HeaderPlace::Authority => ":authority",
            HeaderPlace::Path => ":path",
            HeaderPlace::Upgrade => "upgrade",
            HeaderPlace::Status => ":status",
            HeaderPlace::Nowhere => "a pseudo header that no message has",
        }
    }
}
