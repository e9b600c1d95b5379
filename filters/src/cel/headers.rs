//! Headers by name: all lines of one joined by commas, pseudo headers among them.

use std::borrow::Cow;

use crate::format::FormatContext;
use ::http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// Whose headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Request,
    Response,
    Trailers,
}

/// A header's name, looked at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeaderKey {
    /// No header has such a name.
    None,
    Method,
    Scheme,
    Path,
    Authority,
    Protocol,
    Status,
    Name(HeaderName),
}

impl HeaderKey {
    /// A name in any case.
    pub fn parse(name: &str) -> HeaderKey {
        match name.to_ascii_lowercase().as_str() {
            ":method" => HeaderKey::Method,
            ":scheme" => HeaderKey::Scheme,
            ":path" => HeaderKey::Path,
            // Envoy keeps the one as the other.
            ":authority" | "host" => HeaderKey::Authority,
            ":protocol" => HeaderKey::Protocol,
            ":status" => HeaderKey::Status,
            name => HeaderName::from_bytes(name.as_bytes()).map_or(HeaderKey::None, HeaderKey::Name),
        }
    }

    /// The value.
    pub fn find<'a>(&self, part: Part, cx: &FormatContext<'a>) -> Option<Cow<'a, [u8]>> {
        let plain = |value: Option<&'a HeaderValue>| value.map(|v| Cow::Borrowed(v.as_bytes()));
        match (part, self) {
            (Part::Request, HeaderKey::Method) => Some(Cow::Borrowed(cx.request?.method.as_str().as_bytes())),
            (Part::Request, HeaderKey::Scheme) => Some(Cow::Borrowed(cx.request?.scheme.as_str().as_bytes())),
            (Part::Request, HeaderKey::Path) => plain(cx.request?.path.as_ref()),
            (Part::Request, HeaderKey::Authority) => plain(cx.request?.authority.as_ref()),
            (Part::Request, HeaderKey::Protocol) => plain(cx.request?.upgrade.as_ref()),
            (Part::Response, HeaderKey::Status) => Some(Cow::Borrowed(cx.response?.status.as_str().as_bytes())),
            (part, HeaderKey::Name(name)) => joined(part.map(cx)?, name),
            _ => None,
        }
    }
}

fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let mut text = Cow::Borrowed(values.next()?.as_bytes());
    for more in values {
        let text = text.to_mut();
        text.push(b',');
        text.extend_from_slice(more.as_bytes());
    }
    Some(text)
}

impl Part {
    fn map<'a>(self, cx: &FormatContext<'a>) -> Option<&'a HeaderMap> {
        match self {
            Part::Request => cx.request.map(|r| &r.headers),
            Part::Response => cx.response.map(|r| &r.headers),
            Part::Trailers => cx.trailers,
        }
    }

    /// Every name there is, sorted.
    pub fn names<'a>(self, cx: &FormatContext<'a>) -> SmallVec<[&'a str; 32]> {
        let mut names: SmallVec<[&str; 32]> = SmallVec::new();
        if let (Part::Request, Some(request)) = (self, cx.request) {
            names.extend([":method", ":scheme"]);
            names.extend(request.path.as_ref().map(|_| ":path"));
            names.extend(request.authority.as_ref().map(|_| ":authority"));
        }
        if self == Part::Response && cx.response.is_some() {
            names.push(":status");
        }
        if let Some(headers) = self.map(cx) {
            names.extend(headers.keys().map(HeaderName::as_str));
        }
        names.sort_unstable();
        names
    }
}
