//! What request heads, response heads and trailers share: finding the end, and the header lines.

use ::http::{HeaderName, HeaderValue};
use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::error::H1Error;
use super::name::header_name;

/// How far a head has been looked through, so that input that comes byte by byte costs linear time.
#[derive(Clone, Debug, Default)]
pub struct ScanState {
    /// Everything before this was searched for line ends.
    pos: usize,
    /// Where the line that is not complete yet begins.
    line_start: usize,
    /// How many lines were complete.
    lines: usize,
}

impl ScanState {
    /// Where the head ends, and of how many lines it is; `None` if more bytes are needed.
    pub(super) fn find_end(&mut self, buf: &[u8], max_bytes: usize) -> Result<Option<(usize, usize)>, H1Error> {
        while let Some(at) = buf.get(self.pos..).and_then(|rest| memchr(b'\n', rest)) {
            let line_feed = self.pos.saturating_add(at);
            let line = buf.get(self.line_start..line_feed).unwrap_or_default();
            self.pos = line_feed.saturating_add(1);
            self.line_start = self.pos;
            self.lines = self.lines.saturating_add(1);
            if self.pos > max_bytes {
                return Err(H1Error::HEADERS_TOO_LARGE);
            }
            if line.is_empty() || line == b"\r" {
                let found = (self.pos, self.lines);
                *self = Self::default();
                return Ok(Some(found));
            }
        }
        self.pos = buf.len();
        if self.pos > max_bytes { Err(H1Error::HEADERS_TOO_LARGE) } else { Ok(None) }
    }
}

/// Takes the blank lines off that a peer may send before a request (RFC 9112 §2.2). `false` if more bytes are needed to say.
pub(super) fn skip_blank_lines(buf: &mut BytesMut) -> bool {
    let mut blank: usize = 0;
    loop {
        match (buf.get(blank), buf.get(blank.saturating_add(1))) {
            (Some(b'\n'), _) => blank = blank.saturating_add(1),
            (Some(b'\r'), Some(b'\n')) => blank = blank.saturating_add(2),
            (None, _) | (Some(b'\r'), None) => {
                buf.advance(blank);
                return false;
            }
            _ => {
                buf.advance(blank);
                return true;
            }
        }
    }
}

/// How the names of a message were spelled, for `preserve_case`.
#[derive(Clone, Debug, Default)]
pub struct SpelledNames {
    names: Vec<Bytes>,
}

impl SpelledNames {
    pub(super) fn push(&mut self, name: Bytes) {
        self.names.push(name);
    }

    /// The spelling of a name that is given in lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.names.iter().find(|spelled| spelled.eq_ignore_ascii_case(name.as_bytes())).map(|spelled| &spelled[..])
    }
}

/// The lines of a head, without their ends.
pub(super) struct Lines<'a> {
    head: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    pub(super) fn new(head: &'a Bytes) -> Self {
        Self { head, rest: head }
    }

    /// A part of the head that owns itself.
    pub(super) fn share(&self, part: &[u8]) -> Bytes {
        self.head.slice_ref(part)
    }

    /// The next line as it is, without its LF or CRLF; none after the last.
    pub(super) fn next_line(&mut self) -> Option<&'a [u8]> {
        let at = memchr(b'\n', self.rest)?;
        let (line, rest) = self.rest.split_at_checked(at)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// The next header as it was spelled, with its value; `None` at the empty line.
    pub(super) fn next_header(&mut self) -> Result<Option<(&'a [u8], HeaderValue)>, H1Error> {
        let line = match self.next_line() {
            None | Some(b"") => return Ok(None),
            Some(line) => line,
        };
        let colon = memchr(b':', line).ok_or_else(|| refuse(line))?;
        let (name, value) = line.split_at_checked(colon).ok_or(H1Error::CODEC)?;
        let value = value.get(1..).unwrap_or_default();
        let value = if self.continues() {
            self.unfold(value)
        } else {
            self.head.slice_ref(value.trim_ascii_start_ows().trim_ascii_end_ows())
        };
        // Bare CR is a control character here; Envoy deletes it, which lets two parsers disagree.
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| H1Error::INVALID_CHARACTERS)?;
        Ok(Some((name, value)))
    }

    /// Whether the next line belongs to this one (obs-fold of RFC 9112 §5.2).
    fn continues(&self) -> bool {
        matches!(self.rest.first(), Some(b' ' | b'\t'))
    }

    /// As Envoy: the line ends go, the white space of the folds stays.
    fn unfold(&mut self, first: &[u8]) -> Bytes {
        let mut joined = first.to_vec();
        while self.continues() {
            match self.next_line() {
                Some(line) => joined.extend_from_slice(line),
                None => break,
            }
        }
        let joined = Bytes::from(joined);
        joined.slice_ref(joined.trim_ascii_start_ows().trim_ascii_end_ows())
    }
}

/// A header name of a line in lower case, or the error that the line deserves.
pub(super) fn parse_name(raw: &[u8]) -> Result<HeaderName, H1Error> {
    header_name(raw).ok_or_else(|| refuse(raw))
}

/// Envoy looks for control characters in all of a head before it looks at anything else.
pub(super) fn refuse(text: &[u8]) -> H1Error {
    if text.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        H1Error::INVALID_CHARACTERS
    } else {
        H1Error::CODEC
    }
}

/// Optional white space (RFC 9110 §5.6.3) is SP and HTAB only; the methods of the standard library take off more.
pub(super) trait TrimOws {
    /// Without leading SP and HTAB.
    fn trim_ascii_start_ows(&self) -> &[u8];
    /// Without trailing SP and HTAB.
    fn trim_ascii_end_ows(&self) -> &[u8];
}

impl TrimOws for [u8] {
    fn trim_ascii_start_ows(&self) -> &[u8] {
        let mut text = self;
        while let [b' ' | b'\t', rest @ ..] = text {
            text = rest;
        }
        text
    }

    fn trim_ascii_end_ows(&self) -> &[u8] {
        let mut text = self;
        while let [rest @ .., b' ' | b'\t'] = text {
            text = rest;
        }
        text
    }
}

/// The members of a comma-separated list, without white space; empty ones are left out.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(|token| token.trim_ascii_start_ows().trim_ascii_end_ows())
        .filter(|t| !t.is_empty())
}

/// `Content-Length`: digits only, once; `None` inside if there is none.
pub(super) fn content_length<'a>(mut values: impl Iterator<Item = &'a HeaderValue>) -> Result<Option<u64>, H1Error> {
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() || value.is_empty() {
        return Err(H1Error::CODEC);
    }
    let mut length: u64 = 0;
    for byte in value.as_bytes() {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10).ok_or(H1Error::CODEC)?;
        length = length.checked_mul(10).and_then(|l| l.checked_add(u64::from(digit))).ok_or(H1Error::CODEC)?;
    }
    Ok(Some(length))
}

/// What the hop-by-hop headers of a message say, gathered while its lines are read.
#[derive(Debug, Default)]
pub(super) struct Hop {
    /// The values of `Connection`, joined with commas.
    pub(super) connection: Option<HeaderValue>,
    /// `Proxy-Connection` has the token `close`.
    pub(super) proxy_close: bool,
    /// The values of `Transfer-Encoding`: how many, and whether the last was `chunked`.
    pub(super) transfer_encodings: usize,
    /// Whether a `Transfer-Encoding` was `chunked`.
    pub(super) chunked: bool,
    /// The values of `Upgrade`, joined with commas.
    pub(super) upgrade: Option<HeaderValue>,
}

impl Hop {
    /// Keeps a header that is for this hop only; gives any other back.
    pub(super) fn take(&mut self, name: &HeaderName, value: HeaderValue) -> Option<HeaderValue> {
        use ::http::header::{CONNECTION, TRANSFER_ENCODING, UPGRADE};
        if *name == CONNECTION {
            self.connection = Some(joined(self.connection.take(), value));
        } else if *name == TRANSFER_ENCODING {
            self.transfer_encodings = self.transfer_encodings.saturating_add(1);
            self.chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
        } else if *name == UPGRADE {
            self.upgrade = Some(joined(self.upgrade.take(), value));
        } else if name.as_str() == "keep-alive" {
            // Said for this hop and not used: the timeouts are configured.
        } else if name.as_str() == "proxy-connection" {
            self.proxy_close |= tokens(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"close"));
        } else {
            return Some(value);
        }
        None
    }

    /// Whether `Connection` has a token.
    pub(super) fn has(&self, token: &[u8]) -> bool {
        self.connection.as_ref().is_some_and(|v| tokens(v.as_bytes()).any(|t| t.eq_ignore_ascii_case(token)))
    }

    /// Whether the sender keeps the connection open after this message.
    pub(super) fn keep_alive(&self, is_http_11: bool) -> bool {
        !self.has(b"close") && !self.proxy_close && (is_http_11 || self.has(b"keep-alive"))
    }
}

/// Repeated headers are one list (RFC 9110 §5.3).
fn joined(first: Option<HeaderValue>, second: HeaderValue) -> HeaderValue {
    let Some(first) = first else { return second };
    let mut both = first.as_bytes().to_vec();
    both.push(b',');
    both.extend_from_slice(second.as_bytes());
    // Both were valid, and a comma is.
    HeaderValue::from_maybe_shared(Bytes::from(both)).unwrap_or(second)
}
