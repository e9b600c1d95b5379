//! `envoy.filters.http.compressor`, for responses.
//!
//! A chain may have several, one for each encoding. They know of each other: the first that has to decide takes the client's words and all
//! compressors of the stream, and the others do as it found.

mod config;
pub mod gzip;
pub mod negotiate;

use std::sync::Arc;

use ::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, VARY};
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;
use smallvec::SmallVec;

pub use self::config::{Compiled, NOT_BUILT, Stats};
use self::gzip::Gzip;
use self::negotiate::{Decision, Offer, choose};
use crate::filter::{HttpFilter, Step};
use crate::head::ResponseHead;
use crate::matcher::StringMatcher;
use crate::stream::HttpStream;

/// `x-envoy-compression-status`
const STATUS: HeaderName = HeaderName::from_static("x-envoy-compression-status");

/// The filter.
#[derive(Debug)]
pub struct Compressor {
    rules: Arc<Rules>,
}

/// What responses are compressed, and how.
pub struct Rules {
    encoding: &'static str,
    library: Gzip,
    /// `enabled`: without it the filter counts, and compresses nothing.
    enabled: bool,
    min_length: u64,
    types: Types,
    etag: EtagRule,
    remove_accept_encoding: bool,
    uncompressible: Vec<u32>,
    status_header: bool,
    choose_first: bool,
    stats: Stats,
}

/// What becomes of a response with an `etag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EtagRule {
    /// A strong one is removed: the compressed bytes are others.
    Remove,
    /// It is made a weak one.
    Weaken,
    /// The response is not compressed.
    Spare,
}

/// The media types that are compressed.
#[derive(Debug)]
enum Types {
    /// Any of these, in lower case.
    Names(Vec<String>),
    /// Any that one of these matches.
    Matchers(Vec<StringMatcher>),
}

/// The compressors of a stream's chain.
#[derive(Debug, Default)]
pub struct Compressors {
    all: SmallVec<[Known; 2]>,
    decision: Option<Decision>,
}

#[derive(Debug)]
struct Known {
    rules: Arc<Rules>,
    /// `accept-encoding` as this filter saw it.
    accept: Option<Bytes>,
}

/// Why a response is left as it is, as `x-envoy-compression-status` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// Nothing is said about it.
    Silently,
    ContentLengthTooSmall,
    ContentTypeNotAllowed,
    EtagNotAllowed,
    StatusCodeNotAllowed,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("encoding", &self.encoding).field("types", &self.types).finish_non_exhaustive()
    }
}

impl Types {
    /// Whether a media type is compressed; a response without one is.
    fn allow(&self, media_type: &[u8]) -> bool {
        match self {
            Types::Names(names) => names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(media_type)),
            Types::Matchers(matchers) => matchers.iter().any(|m| m.matches(media_type)),
        }
    }
}

/// All values of a header as the one value that they stand for.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Bytes> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let mut all = Bytes::copy_from_slice(first.as_bytes());
    for value in values {
        all = [&all, value.as_bytes()].join(&b","[..]).into();
    }
    Some(all)
}

/// `content-type` without its parameters.
fn media_type(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    value.split(|b| *b == b';').next().map(<[u8]>::trim_ascii)
}

/// Whether a header's list has this item.
fn lists(headers: &HeaderMap, name: &HeaderName, item: &[u8], same: fn(&[u8], &[u8]) -> bool) -> bool {
    let values = headers.get_all(name).iter();
    values.flat_map(|v| v.as_bytes().split(|b| *b == b',')).any(|i| same(i.trim_ascii(), item))
}

impl Rules {
    fn long_enough(&self, headers: &HeaderMap) -> bool {
        let Some(length) = headers.get(CONTENT_LENGTH) else { return true };
        let length = length.to_str().ok().and_then(|l| l.parse::<u64>().ok());
        let enough = length.is_some_and(|l| l >= self.min_length);
        if !enough {
            self.stats.content_length_too_small.add(1);
        }
        enough
    }

    fn type_allowed(&self, headers: &HeaderMap) -> bool {
        media_type(headers).is_none_or(|t| self.types.allow(t))
    }

    fn etag_allowed(&self, headers: &HeaderMap) -> bool {
        self.etag != EtagRule::Spare || !headers.contains_key(ETAG)
    }

    fn status_allowed(&self, status: StatusCode) -> bool {
        !self.uncompressible.contains(&u32::from(status.as_u16()))
    }

    /// Whether the response is no tunnel, and its origin does not forbid it.
    fn may_change(&self, stream: &HttpStream, response: &ResponseHead) -> bool {
        let asked = stream.request.upgrade.is_some() || stream.request.is_connect();
        let tunnel = response.status == StatusCode::SWITCHING_PROTOCOLS || (asked && response.status.is_success());
        !tunnel && !lists(&response.headers, &CACHE_CONTROL, b"no-transform", <[u8]>::eq_ignore_ascii_case)
    }

    /// Whether the client's words make this the compressor that works.
    fn chosen(self: &Arc<Rules>, compressors: Option<&mut Compressors>, headers: &HeaderMap) -> bool {
        let Some((compressors, accept)) = compressors.and_then(|c| c.accept(self)) else {
            self.stats.no_accept_header.add(1);
            return false;
        };
        let decision = compressors.decide(&accept, headers);
        let chosen = decision.encoding() == Some(self.encoding);
        match decision {
            Decision::Encoding(_) if chosen => self.stats.header_compressor_used.add(1),
            Decision::Encoding(_) => self.stats.header_compressor_overshadowed.add(1),
            Decision::Identity => self.stats.header_identity.add(1),
            Decision::Wildcard(_) => self.stats.header_wildcard.add(1),
            Decision::NotValid => self.stats.header_not_valid.add(1),
        }
        chosen
    }

    /// Decides on a response that is told about in `vary`, and not in a header of its own.
    fn decide(self: &Arc<Rules>, stream: &mut HttpStream, response: &mut ResponseHead) -> bool {
        let headers = &response.headers;
        let eligible = self.enabled && self.long_enough(headers);
        let changeable = eligible && self.may_change(stream, response) && self.type_allowed(headers);
        let etag_allowed = self.etag_allowed(headers);
        if changeable && !etag_allowed {
            self.stats.not_compressed_etag.add(1);
        }
        let compressible =
            changeable && etag_allowed && is_plain(stream, headers) && self.status_allowed(response.status);
        // What the client accepts is counted for all that is long enough.
        let chosen = !stream.body.none && eligible && self.chosen(stream.body.compressors.as_deref_mut(), headers);
        if compressible {
            // It depends on the client even where this one gets it as it is.
            add_vary(&mut response.headers);
        }
        chosen && compressible
    }

    /// The same with `status_header_enabled`, which has an order of its own.
    fn decide_and_say(self: &Arc<Rules>, stream: &mut HttpStream, response: &mut ResponseHead) -> bool {
        let verdict = self.judge(stream, response);
        if verdict.is_ok() {
            add_vary(&mut response.headers);
        }
        if stream.body.none {
            return false;
        }
        let said = match verdict {
            Ok(()) => {
                return self.chosen(stream.body.compressors.as_deref_mut(), &response.headers);
            }
            Err(Refused::Silently) => return false,
            Err(Refused::ContentLengthTooSmall) => {
                // Envoy looks at it once for `vary` and once for this header, and counts both.
                self.stats.content_length_too_small.add(1);
                "ContentLengthTooSmall"
            }
            Err(Refused::ContentTypeNotAllowed) => "ContentTypeNotAllowed",
            Err(Refused::EtagNotAllowed) => {
                self.stats.not_compressed_etag.add(1);
                "EtagNotAllowed"
            }
            Err(Refused::StatusCodeNotAllowed) => "StatusCodeNotAllowed",
        };
        say(&mut response.headers, format!("{};{said}", self.encoding));
        false
    }

    fn judge(&self, stream: &HttpStream, response: &ResponseHead) -> Result<(), Refused> {
        let headers = &response.headers;
        if !self.enabled || !self.may_change(stream, response) || !is_plain(stream, headers) {
            return Err(Refused::Silently);
        }
        if !self.long_enough(headers) {
            return Err(Refused::ContentLengthTooSmall);
        }
        if !self.type_allowed(headers) {
            return Err(Refused::ContentTypeNotAllowed);
        }
        if !self.etag_allowed(headers) {
            return Err(Refused::EtagNotAllowed);
        }
        if self.status_allowed(response.status) { Ok(()) } else { Err(Refused::StatusCodeNotAllowed) }
    }

    /// Makes the head that of a compressed response.
    fn mark(&self, headers: &mut HeaderMap) {
        if let Some(etag) = headers.get(ETAG).filter(|e| !is_weak(e.as_bytes())) {
            match HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat()) {
                Ok(weak) if self.etag == EtagRule::Weaken => drop(headers.insert(ETAG, weak)),
                _ => drop(headers.remove(ETAG)),
            }
        }
        let length = headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(self.encoding));
        if self.status_header {
            let length = length.as_ref().and_then(|l| l.to_str().ok()).unwrap_or_default();
            say(headers, format!("{};Compressed;OriginalLength={length}", self.encoding));
        }
    }
}

impl Compressors {
    /// What the client said to this compressor.
    fn accept(&mut self, rules: &Arc<Rules>) -> Option<(&mut Compressors, Bytes)> {
        let accept = self.all.iter().find(|k| Arc::ptr_eq(&k.rules, rules))?.accept.clone()?;
        Some((self, accept))
    }

    fn decide(&mut self, accept: &[u8], headers: &HeaderMap) -> Decision {
        *self.decision.get_or_insert_with(|| {
            // Who does not compress this type is no choice: another one may.
            let media_type = media_type(headers).filter(|t| !t.is_empty());
            let fit = self.all.iter().filter(|k| media_type.is_none_or(|t| k.rules.types.allow(t)));
            let offers = fit.map(|k| Offer { encoding: k.rules.encoding, choose_first: k.rules.choose_first });
            choose(accept, offers.collect())
        })
    }
}

/// Whether the body has no encoding yet.
fn is_plain(stream: &HttpStream, headers: &HeaderMap) -> bool {
    !headers.contains_key(CONTENT_ENCODING) && stream.body.encoder.is_none()
}

fn say(headers: &mut HeaderMap, text: String) {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
        headers.append(STATUS, value);
    }
}

/// `W/` in front of its quotes.
fn is_weak(etag: &[u8]) -> bool {
    matches!(etag, [b'W' | b'w', b'/', ..])
}

/// Says that the response depends on `accept-encoding`.
fn add_vary(headers: &mut HeaderMap) {
    const ACCEPT: &str = "Accept-Encoding";
    if lists(headers, &VARY, ACCEPT.as_bytes(), |a, b| a == b) {
        return;
    }
    let value = match joined(headers, &VARY) {
        Some(said) => HeaderValue::from_bytes(&[&said, ACCEPT.as_bytes()].join(&b", "[..])).ok(),
        None => Some(HeaderValue::from_static(ACCEPT)),
    };
    if let Some(value) = value {
        headers.insert(VARY, value);
    }
}

impl HttpFilter for Compressor {
    fn on_request(&self, stream: &mut HttpStream) -> Step {
        let Compressor { rules } = self;
        let headers = &mut stream.request.headers;
        let known = Known { rules: rules.clone(), accept: joined(headers, &ACCEPT_ENCODING) };
        stream.body.compressors.get_or_insert_default().all.push(known);
        if rules.enabled && rules.remove_accept_encoding {
            headers.remove(ACCEPT_ENCODING);
        }
        rules.stats.request_not_compressed.add(1);
        Step::Continue
    }

    fn on_response(&self, stream: &mut HttpStream) {
        let Compressor { rules } = self;
        let Some(mut response) = stream.response.take() else { return };
        let compress = if rules.status_header {
            rules.decide_and_say(stream, &mut response)
        } else {
            rules.decide(stream, &mut response)
        };
        if compress {
            rules.mark(&mut response.headers);
            rules.stats.compressed.add(1);
            let stats = &rules.stats;
            let (read, made) = (stats.total_uncompressed_bytes.clone(), stats.total_compressed_bytes.clone());
            stream.body.encoder = Some(Box::new(rules.library.encoder(read, made)));
        } else {
            rules.stats.not_compressed.add(1);
        }
        stream.response = Some(response);
    }
}

#[cfg(test)]
mod tests;
