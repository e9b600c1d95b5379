//! HTTP/1.1 as far as the tools need it: where a head ends, how a body is framed, and the body's bytes. No I/O.
//!
//! It is no substitute for the proxy's codec: the peer is ours or behind the proxy under test, and cost is what counts.

use bytes::Bytes;
use memchr::{memchr, memmem};

/// A head larger than this is given up; Envoy's own limit is 60 KiB.
pub const LARGEST_HEAD: usize = 256 * 1024;
/// A chunk's size line, or a trailer line.
const LARGEST_LINE: usize = 64 * 1024;

/// What was read is not HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed HTTP/1.1: {0}")]
pub struct Malformed(&'static str);

impl From<Malformed> for std::io::Error {
    fn from(m: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, m)
    }
}

/// The number of bytes up to and with the empty line that ends a head.
pub fn head_end(data: &[u8]) -> Option<usize> {
    memmem::find(data, b"\r\n\r\n").map(|at| at + 4)
}

/// The lines of a head without their ends, the first line included, the empty one not.
pub fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = head;
    std::iter::from_fn(move || {
        let end = memchr(b'\n', rest)?;
        let (line, next) = rest.split_at_checked(end + 1)?;
        rest = next;
        let line = line.strip_suffix(b"\r\n").unwrap_or_else(|| line.strip_suffix(b"\n").unwrap_or(line));
        if line.is_empty() { None } else { Some(line) }
    })
}

/// Name and value of a header line.
pub fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = line.split_at_checked(memchr(b':', line)?)?;
    Some((name, value.strip_prefix(b":").unwrap_or(value).trim_ascii()))
}

/// `METHOD target HTTP/1.x`: method and target.
pub fn request_line(head: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let wrong = Malformed("request line");
    let line = lines(head).next().ok_or(wrong)?;
    let mut words = line.split(|b| *b == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None) if version.starts_with(b"HTTP/1.") => Ok((method, target)),
        _ => Err(wrong),
    }
}

/// The status of a response head.
pub fn status(head: &[u8]) -> Result<u16, Malformed> {
    let wrong = Malformed("status line");
    let digits = head.strip_prefix(b"HTTP/1.").and_then(|r| r.get(2..5)).ok_or(wrong)?;
    digits.iter().try_fold(0u16, |n, d| d.is_ascii_digit().then(|| n * 10 + u16::from(d - b'0'))).ok_or(wrong)
}

/// The headers that say how a message goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// `content-length`.
    pub length: Option<u64>,
    /// `transfer-encoding: chunked`.
    pub chunked: bool,
    /// `connection: close`, or HTTP/1.0.
    pub close: bool,
    /// `expect: 100-continue`.
    pub expect: bool,
}

impl Framing {
    /// Reads them from a head.
    pub fn of(head: &[u8]) -> Result<Self, Malformed> {
        let mut framing = Self::default();
        for (i, line) in lines(head).enumerate() {
            if i == 0 {
                framing.close = line.starts_with(b"HTTP/1.0") || line.ends_with(b"HTTP/1.0");
                continue;
            }
            // Most lines are none of these; the first letter rules them out.
            if !matches!(line.first().map(u8::to_ascii_lowercase), Some(b'c' | b't' | b'e')) {
                continue;
            }
            let (name, value) = field(line).ok_or(Malformed("header line"))?;
            if name.eq_ignore_ascii_case(b"content-length") {
                framing.length = Some(number(value, 10).ok_or(Malformed("content-length"))?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                framing.chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if name.eq_ignore_ascii_case(b"connection") {
                framing.close |= value.eq_ignore_ascii_case(b"close");
            } else if name.eq_ignore_ascii_case(b"expect") {
                framing.expect = value.eq_ignore_ascii_case(b"100-continue");
            }
        }
        Ok(framing)
    }

    /// The body that follows a request with this head.
    pub fn request_body(&self) -> Body {
        if self.chunked { Body::Chunked(Chunk::default()) } else { Body::Length(self.length.unwrap_or(0)) }
    }

    /// The body that follows a response with this head, to a request that was not HEAD.
    pub fn response_body(&self, status: u16) -> Body {
        match self.length {
            _ if status < 200 || status == 204 || status == 304 => Body::Length(0),
            _ if self.chunked => Body::Chunked(Chunk::default()),
            Some(n) => Body::Length(n),
            None => Body::UntilClose,
        }
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    // from_str_radix takes a sign; HTTP does not.
    let text = std::str::from_utf8(digits).ok().filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u64::from_str_radix(text, radix).ok()
}

/// What is left of a body.
#[derive(Debug)]
pub enum Body {
    /// This many bytes.
    Length(u64),
    /// Chunks (RFC 9112, section 7.1).
    Chunked(Chunk),
    /// Everything until the peer closes.
    UntilClose,
}

/// Where in the chunks one is.
#[derive(Debug, Default)]
pub struct Chunk {
    state: ChunkState,
    line: Vec<u8>,
}

#[derive(Debug, Default)]
enum ChunkState {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

/// What a body gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the body.
    Data(Bytes),
    /// Nothing until more input comes.
    More,
    /// The body is over; what is left of the input belongs to the next message.
    End,
}

impl Body {
    /// Takes the next piece of the body from `input`.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Piece, Malformed> {
        match self {
            Self::Length(0) => Ok(Piece::End),
            _ if input.is_empty() => Ok(Piece::More),
            Self::Length(left) => Ok(Piece::Data(take(input, left))),
            Self::Chunked(chunk) => chunk.next(input),
            Self::UntilClose => Ok(Piece::Data(std::mem::take(input))),
        }
    }
}

fn take(input: &mut Bytes, left: &mut u64) -> Bytes {
    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= n as u64;
    input.split_to(n)
}

impl Chunk {
    fn next(&mut self, input: &mut Bytes) -> Result<Piece, Malformed> {
        loop {
            if let ChunkState::Data(left) = &mut self.state {
                if input.is_empty() {
                    return Ok(Piece::More);
                }
                let data = take(input, left);
                if *left == 0 {
                    self.state = ChunkState::DataEnd;
                }
                return Ok(Piece::Data(data));
            }
            if let ChunkState::End = self.state {
                return Ok(Piece::End);
            }
            if !self.line(input)? {
                return Ok(Piece::More);
            }
            let line = self.line.trim_ascii();
            self.state = match self.state {
                ChunkState::Size => {
                    let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
                    match number(digits, 16).ok_or(Malformed("chunk size"))? {
                        0 => ChunkState::Trailers,
                        n => ChunkState::Data(n),
                    }
                }
                ChunkState::DataEnd if !line.is_empty() => return Err(Malformed("end of a chunk")),
                ChunkState::DataEnd => ChunkState::Size,
                _ if line.is_empty() => ChunkState::End,
                _ => ChunkState::Trailers,
            };
            self.line.clear();
        }
    }

    /// Collects a line, which may come in several inputs; true when it is whole.
    fn line(&mut self, input: &mut Bytes) -> Result<bool, Malformed> {
        let end = memchr(b'\n', input);
        self.line.extend_from_slice(&input.split_to(end.map_or(input.len(), |at| at + 1)));
        if self.line.len() > LARGEST_LINE { Err(Malformed("line too long")) } else { Ok(end.is_some()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut body: Body, inputs: &[&'static [u8]]) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let (mut all, mut ended, mut rest) = (Vec::new(), false, 0);
        for input in inputs {
            let mut input = Bytes::from_static(input);
            loop {
                match body.next(&mut input)? {
                    Piece::Data(d) => all.extend_from_slice(&d),
                    Piece::More => break,
                    Piece::End => {
                        ended = true;
                        rest += input.len();
                        break;
                    }
                }
            }
        }
        Ok((all, ended, rest))
    }

    #[test]
    fn heads() {
        let head = b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nconnection: Close\r\nExpect: 100-continue\r\n\r\nrest";
        let end = head_end(head).unwrap();
        assert_eq!(&head[end..], b"rest");
        assert_eq!(request_line(head).unwrap(), (&b"POST"[..], &b"/a?b"[..]));
        assert_eq!(
            Framing::of(&head[..end]).unwrap(),
            Framing { length: Some(12), chunked: false, close: true, expect: true }
        );
        assert_eq!(lines(head).count(), 5);
        assert_eq!(head_end(b"GET / HTTP/1.1\r\nhost: x\r\n"), None);
    }

    #[test]
    fn what_is_no_head() {
        assert!(request_line(b"GET /\r\n\r\n").is_err());
        assert!(request_line(b"GET / HTTP/2.0\r\n\r\n").is_err());
        assert!(status(b"HTTP/1.1 2x0 OK\r\n\r\n").is_err() && status(b"HTTP").is_err());
        assert!(Framing::of(b"GET / HTTP/1.1\r\ncontent-length: +5\r\n\r\n").is_err());
        assert!(Framing::of(b"GET / HTTP/1.1\r\ncontent-length\r\n\r\n").is_err());
    }

    #[test]
    fn responses() {
        assert_eq!(status(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Ok(503));
        let length = Framing { length: Some(5), ..Framing::default() };
        assert!(matches!(length.response_body(200), Body::Length(5)));
        assert!(matches!(length.response_body(304), Body::Length(0)));
        assert!(matches!(Framing::default().response_body(200), Body::UntilClose));
        assert!(Framing::of(b"HTTP/1.0 200 OK\r\n\r\n").unwrap().close);
    }

    #[test]
    fn bodies() {
        assert_eq!(drain(Body::Length(5), &[b"he", b"llo!!"]), Ok((b"hello".to_vec(), true, 2)));
        let chunked = || Body::Chunked(Chunk::default());
        assert_eq!(drain(chunked(), &[b"5\r\nhello\r\n0\r\n\r\nGET"]), Ok((b"hello".to_vec(), true, 3)));
        // A cut in every place, an extension, a trailer.
        assert_eq!(
            drain(chunked(), &[b"0", b"3;x=y\r", b"\nhe", b"l\r", b"\n2\r\nlo", b"\r\n0\r", b"\nt: 1\r\n\r", b"\n"]),
            Ok((b"hello".to_vec(), true, 0))
        );
        assert!(drain(chunked(), &[b"x\r\n"]).is_err());
        assert!(drain(chunked(), &[b"1\r\nab\r\n"]).is_err());
    }
}
