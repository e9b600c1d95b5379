//! Message bodies: bytes → data and trailers.

use ::http::{HeaderMap, HeaderName};
use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::error::H1Error;
use super::head::{Lines, ScanState, parse_name};

/// Longest line of a chunk size with its extensions. Nobody uses extensions; they only serve to hide things.
const MAX_CHUNK_LINE: usize = 4096;

/// Most digits of a chunk size: those of a `u64`. More would only be leading zeros.
const MAX_CHUNK_DIGITS: usize = 16;

/// How a body is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// No body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Whatever comes until the peer closes: responses without framing, and tunnels.
    UntilClose,
}

/// What a call to [`BodyDecoder::decode`] found.
#[derive(Debug)]
pub enum Decoded {
    /// Some bytes of the body; call again.
    Data(Bytes),
    /// The body ended with these trailers.
    Trailers(HeaderMap),
    /// The body ended.
    End,
    /// More bytes are needed.
    NeedMore,
}

/// What the end of the connection means for the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eof {
    /// The body was complete, or ends with the connection.
    Clean,
    /// The body was cut short.
    Truncated,
}

/// Takes a body off a buffer.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    max_trailers_bytes: usize,
    max_trailers_count: usize,
}

#[derive(Debug)]
enum State {
    /// So many bytes are to come.
    Length(u64),
    UntilClose,
    /// A line with a chunk size; so many bytes of it were searched for its end.
    ChunkSize(usize),
    /// So many bytes of the chunk are to come.
    ChunkData(u64),
    /// CRLF after the data of a chunk.
    ChunkEnd,
    Trailers(ScanState),
    Done,
}

impl BodyDecoder {
    /// A decoder whose trailers may have 60 KiB and 100 lines.
    pub fn new(kind: BodyKind) -> Self {
        let state = match kind {
            BodyKind::None | BodyKind::Length(0) => State::Done,
            BodyKind::Length(length) => State::Length(length),
            BodyKind::Chunked => State::ChunkSize(0),
            BodyKind::UntilClose => State::UntilClose,
        };
        Self { state, max_trailers_bytes: 60 * 1024, max_trailers_count: 100 }
    }

    /// The same with the limits of headers (`max_request_headers_kb`, `max_headers_count`).
    #[must_use]
    pub fn with_limits(mut self, max_trailers_bytes: usize, max_trailers_count: usize) -> Self {
        self.max_trailers_bytes = max_trailers_bytes;
        self.max_trailers_count = max_trailers_count;
        self
    }

    /// The next piece of the body. After the end it says `End` for ever and leaves `buf` to the next message.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, H1Error> {
        self.next_piece(buf).map_err(H1Error::in_body)
    }

    /// Whether the end was seen; `Length` knows with its last byte, `Chunked` with its last line.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// What it means if the peer ends the connection now.
    pub fn on_eof(&self) -> Eof {
        match self.state {
            State::Done | State::UntilClose => Eof::Clean,
            _ => Eof::Truncated,
        }
    }

    fn next_piece(&mut self, buf: &mut BytesMut) -> Result<Decoded, H1Error> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Decoded::End),
                State::UntilClose if buf.is_empty() => return Ok(Decoded::NeedMore),
                State::UntilClose => return Ok(Decoded::Data(buf.split().freeze())),
                State::Length(left) => {
                    let Some(data) = take(buf, left) else { return Ok(Decoded::NeedMore) };
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::ChunkData(left) => {
                    let Some(data) = take(buf, left) else { return Ok(Decoded::NeedMore) };
                    if *left == 0 {
                        self.state = State::ChunkEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::ChunkEnd => match (buf.first(), buf.get(1)) {
                    (Some(b'\r'), Some(b'\n')) => {
                        buf.advance(2);
                        self.state = State::ChunkSize(0);
                    }
                    (None, _) | (Some(b'\r'), None) => return Ok(Decoded::NeedMore),
                    _ => return Err(H1Error::CODEC),
                },
                State::ChunkSize(searched) => {
                    self.state = match take_chunk_size(buf, searched)? {
                        None => return Ok(Decoded::NeedMore),
                        Some(0) => State::Trailers(ScanState::default()),
                        Some(size) => State::ChunkData(size),
                    };
                }
                State::Trailers(scan) => {
                    let Some((end, lines)) = scan.find_end(buf, self.max_trailers_bytes)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    let block = buf.split_to(end).freeze();
                    self.state = State::Done;
                    if lines == 1 {
                        return Ok(Decoded::End);
                    }
                    let trailers = parse_trailers(&block, self.max_trailers_count)?;
                    return Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) });
                }
            }
        }
    }
}

/// As many bytes as there are and are wanted; none if there are none.
fn take(buf: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
    if count == 0 {
        return None;
    }
    *left = left.saturating_sub(count as u64);
    Some(buf.split_to(count).freeze())
}

/// Takes the line with a chunk size off.
fn take_chunk_size(buf: &mut BytesMut, searched: &mut usize) -> Result<Option<u64>, H1Error> {
    let window = buf.get(..buf.len().min(MAX_CHUNK_LINE)).unwrap_or_default();
    let Some(at) = window.get(*searched..).and_then(|rest| memchr(b'\n', rest)) else {
        *searched = window.len();
        // What cannot become a size is refused before its line is complete.
        let hopeless = window.first().is_some_and(|first| !first.is_ascii_hexdigit());
        return if hopeless || window.len() == MAX_CHUNK_LINE { Err(H1Error::CODEC) } else { Ok(None) };
    };
    let end = searched.saturating_add(at);
    let line = window.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(H1Error::CODEC)?;
    let size = parse_chunk_size(line)?;
    buf.advance(end.saturating_add(1));
    Ok(Some(size))
}

/// Hex digits, and nothing or extensions, which are dropped. Envoy is laxer: it takes what follows a space for one.
fn parse_chunk_size(line: &[u8]) -> Result<u64, H1Error> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at_checked(end).ok_or(H1Error::CODEC)?;
    if digits.is_empty() || digits.len() > MAX_CHUNK_DIGITS {
        return Err(H1Error::CODEC);
    }
    if !rest.is_empty() {
        let extension = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t')).and_then(|at| rest.get(at));
        let clean = rest.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t');
        if extension != Some(&b';') || !clean {
            return Err(H1Error::CODEC);
        }
    }
    let digits = std::str::from_utf8(digits).map_err(|_| H1Error::CODEC)?;
    u64::from_str_radix(digits, 16).map_err(|_| H1Error::CODEC)
}

/// Trailers, without those that would say something about framing, routing or who it is that asks.
fn parse_trailers(block: &Bytes, max_count: usize) -> Result<HeaderMap, H1Error> {
    let mut lines = Lines::new(block);
    let mut trailers = HeaderMap::new();
    let mut count: usize = 0;
    while let Some((raw, value)) = lines.next_header()? {
        count = count.saturating_add(1);
        if count > max_count {
            return Err(H1Error::TOO_MANY_HEADERS);
        }
        let name = parse_name(raw)?;
        if !is_forbidden_trailer(&name) {
            trailers.try_append(name, value).map_err(|_| H1Error::TOO_MANY_HEADERS)?;
        }
    }
    Ok(trailers)
}

/// RFC 9110 §6.5.1. Envoy passes them all on.
pub(super) fn is_forbidden_trailer(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "authorization"
            | "cache-control"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "expect"
            | "host"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "set-cookie"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "www-authenticate"
    )
}
