//! `envoy.filters.listener.http_inspector`: which HTTP a plain-text connection begins with.

use waypost_xds::Error;
use waypost_xds::envoy::extensions::filters::listener::http_inspector::v3 as api;

/// Envoy gives up on a request line that is longer (`Config::MAX_INSPECT_SIZE`).
pub const MAX_INSPECT: usize = 64 * 1024;

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The methods Envoy's parser knows (`BalsaParser`, without custom methods); another one is no HTTP to the inspector.
const METHODS: &str = " ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MOVE M-SEARCH NOTIFY OPTIONS PATCH POST \
                       PROPFIND PROPPATCH PURGE PUT REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE ";

/// What the bytes at the start of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspect {
    /// A request line or a preface may be on its way.
    NeedMore,
    /// Something else: no application protocol is set.
    NotHttp,
    /// A request of HTTP/1.0, or of any version that is not 1.1.
    Http10,
    /// A request of HTTP/1.1.
    Http11,
    /// The preface of HTTP/2 without TLS.
    H2c,
}

impl Inspect {
    /// The application protocol that filter chains match.
    pub fn application_protocol(self) -> Option<&'static str> {
        match self {
            Inspect::NeedMore | Inspect::NotHttp => None,
            Inspect::Http10 => Some("http/1.0"),
            Inspect::Http11 => Some("http/1.1"),
            Inspect::H2c => Some("h2c"),
        }
    }
}

/// Compiles the filter's configuration, which is empty.
pub fn compile(config: &api::HttpInspector, _path: &str) -> Result<(), Error> {
    let api::HttpInspector {} = config;
    Ok(())
}

/// Looks at everything that has arrived so far.
pub fn inspect(bytes: &[u8]) -> Inspect {
    if let Some(head) = bytes.get(..PREFACE.len()) {
        if head == PREFACE {
            return Inspect::H2c;
        }
    } else if PREFACE.starts_with(bytes) {
        return Inspect::NeedMore;
    }
    if !bytes.first().is_some_and(|c| METHODS.bytes().any(|m| m != b' ' && m != b'-' && m == *c)) {
        return Inspect::NotHttp;
    }
    match memchr::memchr(b'\n', bytes.get(..MAX_INSPECT).unwrap_or(bytes)) {
        Some(end) => bytes.get(..end).and_then(request_line).unwrap_or(Inspect::NotHttp),
        None if bytes.len() >= MAX_INSPECT => Inspect::NotHttp,
        None => Inspect::NeedMore,
    }
}

fn request_line(line: &[u8]) -> Option<Inspect> {
    let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()?;
    let mut parts = line.split(' ').filter(|p| !p.is_empty());
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let known = METHODS.split(' ').any(|m| m == method);
    let sound = parts.next().is_none() && known && is_target(target, method == "CONNECT") && is_version(version);
    sound.then_some(if version == "HTTP/1.1" { Inspect::Http11 } else { Inspect::Http10 })
}

/// `HTTP/` digit `.` digit.
fn is_version(version: &str) -> bool {
    matches!(version.strip_prefix("HTTP/").map(str::as_bytes), Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Origin, asterisk or absolute form; with CONNECT whatever is printable.
fn is_target(target: &str, connect: bool) -> bool {
    let printable = target.bytes().all(|c| c > b' ' && c != 0x7f);
    let scheme = || {
        target
            .split_once("://")
            .is_some_and(|(s, rest)| s.bytes().all(|c| c.is_ascii_alphabetic()) && !s.is_empty() && !rest.is_empty())
    };
    printable && (connect || target.starts_with(['/', '*']) || scheme())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_at_the_end_of_the_line() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\n"[..], Inspect::Http11),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", Inspect::Http11),
            (b"POST http://a/b HTTP/1.0\r\n", Inspect::Http10),
            (b"GET / HTTP/0.9\n", Inspect::Http10),
            (b"M-SEARCH * HTTP/1.1\r\n", Inspect::Http11),
            (b"CONNECT a:80 HTTP/1.1\r\n", Inspect::Http11),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Inspect::H2c),
            (b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n", Inspect::NotHttp),
            (b"FOO / HTTP/1.1\r\n", Inspect::NotHttp),
            (b"GET a HTTP/1.1\r\n", Inspect::NotHttp),
            (b"GET /\r\n", Inspect::NotHttp),
            (b"GET / HTTP/11\r\n", Inspect::NotHttp),
            (b"GET /\xff HTTP/1.1\r\n", Inspect::NotHttp),
            (b"\x16\x03\x01", Inspect::NotHttp),
            (b"Zebra", Inspect::NotHttp),
            (b"get / HTTP/1.1\r\n", Inspect::NotHttp),
        ] {
            assert_eq!(inspect(bytes), want, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn part_of_a_line_waits_for_the_rest_but_not_for_ever() {
        for line in [&b"GET / HTTP/1.1\r\n"[..], PREFACE] {
            (0..line.len()).for_each(|end| assert_eq!(inspect(&line[..end]), Inspect::NeedMore, "{end}"));
        }
        let mut long = b"GET /".to_vec();
        long.resize(MAX_INSPECT - 1, b'a');
        assert_eq!(inspect(&long), Inspect::NeedMore);
        long.push(b'a');
        assert_eq!(inspect(&long), Inspect::NotHttp);
    }
}
