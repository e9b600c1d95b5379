//! `envoy.filters.listener.tls_inspector`: server name and ALPN of a TLS client hello, read without answering it.

use std::sync::Arc;

use waypost_xds::Error;
use waypost_xds::envoy::extensions::filters::listener::tls_inspector::v3 as api;

/// Envoy reads no more than this of a client hello, whatever is configured (`TLS_MAX_CLIENT_HELLO`).
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// A record's payload is at most 2^14 bytes (RFC 8446, 5.1).
const MAX_RECORD: usize = 1 << 14;

/// `record type, version, length` (RFC 8446, 5.1) and `handshake type, length` (4).
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;

/// The compiled filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsInspector {
    /// How many bytes to peek at first; doubled up to [`TlsInspector::max_client_hello`].
    pub initial_read_buffer: usize,
    /// `max_client_hello_size`.
    pub max_client_hello: usize,
    /// `close_connection_on_client_hello_parsing_errors`: else a bad hello counts as plain text.
    pub close_on_error: bool,
}

impl Default for TlsInspector {
    fn default() -> TlsInspector {
        TlsInspector {
            initial_read_buffer: MAX_CLIENT_HELLO,
            max_client_hello: MAX_CLIENT_HELLO,
            close_on_error: false,
        }
    }
}

/// What the bytes at the start of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspect {
    /// A client hello may be on its way.
    NeedMore,
    /// The first byte or two are no TLS: `raw_buffer`.
    NotTls,
    /// A whole client hello: `tls`.
    Tls {
        /// The name of the server name extension in lower case, as filter chains match it.
        server_name: Option<Arc<str>>,
        /// The ALPN protocols as offered; what is not UTF-8 is left out, as no filter chain can name it.
        alpn: Vec<Arc<str>>,
    },
    /// It begins like TLS and is malformed or larger than allowed. The connection is closed for it.
    Invalid,
}

impl TlsInspector {
    /// Compiles the filter's configuration.
    pub fn compile(config: &api::TlsInspector, path: &str) -> Result<TlsInspector, Error> {
        let api::TlsInspector {
            enable_ja3_fingerprinting,
            enable_ja4_fingerprinting,
            initial_read_buffer_size,
            close_connection_on_client_hello_parsing_errors,
            max_client_hello_size,
        } = config;
        for (field, value) in [
            ("enable_ja3_fingerprinting", enable_ja3_fingerprinting),
            ("enable_ja4_fingerprinting", enable_ja4_fingerprinting),
        ] {
            if value.as_ref().is_some_and(|v| v.value) {
                return Err(Error::new(format!("{path}.{field}"), "not supported yet"));
            }
        }
        let size = |value: &Option<waypost_xds::google::protobuf::UInt32Value>, field: &str, at_least: u32| match value
        {
            None => Ok(MAX_CLIENT_HELLO),
            Some(v) if v.value > at_least => Ok((v.value as usize).min(MAX_CLIENT_HELLO)),
            Some(_) => Err(Error::new(format!("{path}.{field}"), format!("must be greater than {at_least}"))),
        };
        Ok(TlsInspector {
            // Both limits as the API's validation rules have them.
            initial_read_buffer: size(initial_read_buffer_size, "initial_read_buffer_size", 255)?,
            max_client_hello: size(max_client_hello_size, "max_client_hello_size", 255)?,
            close_on_error: *close_connection_on_client_hello_parsing_errors,
        })
    }

    /// Looks at everything that has arrived so far. A bad hello is plain text, unless the connection is to be closed for it.
    pub fn inspect(&self, bytes: &[u8]) -> Inspect {
        match inspect_up_to(bytes, self.max_client_hello) {
            Inspect::Invalid if !self.close_on_error => Inspect::NotTls,
            found => found,
        }
    }
}

/// Looks at everything that has arrived so far, with Envoy's default limit.
pub fn inspect(bytes: &[u8]) -> Inspect {
    inspect_up_to(bytes, MAX_CLIENT_HELLO)
}

fn inspect_up_to(bytes: &[u8], limit: usize) -> Inspect {
    match bytes {
        [] | [22] => return Inspect::NeedMore,
        // A handshake record of some TLS version (RFC 8446, 5.1: legacy_record_version is 0x03xx).
        [22, 3, ..] => {}
        _ => return Inspect::NotTls,
    }
    // A hello that lies whole in its first record, as nearly all do, is read where it is.
    let mut joined = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((payload, complete, after)) = record(rest) else {
            return Inspect::Invalid;
        };
        if joined.is_empty() && is_whole(payload) {
            return hello(payload, limit);
        }
        joined.extend_from_slice(payload);
        if let Some(length) = hello_length(&joined)
            && length > limit
        {
            return Inspect::Invalid;
        }
        if !matches!(joined.first(), None | Some(1)) {
            return Inspect::Invalid; // A handshake message that is no client hello.
        }
        if is_whole(&joined) {
            return hello(&joined, limit);
        }
        // Records of a byte or none each must not make us wait for ever.
        if !complete || after.is_empty() {
            return if bytes.len() > limit + limit / 4 { Inspect::Invalid } else { Inspect::NeedMore };
        }
        rest = after;
    }
}

/// The payload of the first record, as far as it is there, whether all of it is, and what follows. None if it is no record.
fn record(bytes: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER) else {
        let starts = [22_u8, 3].iter().zip(bytes).all(|(want, got)| want == got);
        return starts.then_some((&[], false, &[]));
    };
    let &[kind, major, _, high, low] = header else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if (kind, major) != (22, 3) || length == 0 || length > MAX_RECORD {
        return None;
    }
    Some(match rest.split_at_checked(length) {
        Some((payload, after)) => (payload, true, after),
        None => (rest, false, &[]),
    })
}

/// The length of the handshake message with its header.
fn hello_length(message: &[u8]) -> Option<usize> {
    let &[_, a, b, c, ..] = message else { return None };
    Some(u32::from_be_bytes([0, a, b, c]) as usize + HANDSHAKE_HEADER)
}

fn is_whole(message: &[u8]) -> bool {
    hello_length(message).is_some_and(|length| message.len() >= length)
}

fn hello(message: &[u8], limit: usize) -> Inspect {
    match hello_length(message) {
        Some(length) if length <= limit && message.first() == Some(&1) => {
            let body = message.get(HANDSHAKE_HEADER..length).unwrap_or_default();
            client_hello(body).unwrap_or(Inspect::Invalid)
        }
        _ => Inspect::Invalid,
    }
}

/// A cursor over length-prefixed fields; none where a length points outside.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

/// The body of a client hello (RFC 8446, 4.1.2). Strict where BoringSSL, Envoy's parser, is.
fn client_hello(body: &[u8]) -> Option<Inspect> {
    let mut fields = Fields(body);
    let _version = fields.u16()?;
    let _random = fields.take(32)?;
    let session = fields.vec8()?;
    let suites = fields.vec16()?;
    let compressions = fields.vec8()?;
    if session.len() > 32 || suites.len() < 2 || suites.len() % 2 != 0 || compressions.is_empty() {
        return None;
    }
    let (mut server_name, mut alpn) = (None, Vec::new());
    // TLS 1.2 allows a hello without extensions.
    if !fields.0.is_empty() {
        let mut extensions = Fields(fields.vec16()?);
        if !fields.0.is_empty() {
            return None;
        }
        let (mut names_seen, mut alpn_seen) = (false, false);
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let data = extensions.vec16()?;
            match kind {
                0 if !std::mem::replace(&mut names_seen, true) => server_name = Some(host_name(data)?),
                16 if !std::mem::replace(&mut alpn_seen, true) => alpn = protocols(data)?,
                0 | 16 => return None, // twice
                _ => {}
            }
        }
    }
    Some(Inspect::Tls { server_name, alpn })
}

/// RFC 6066, 3: one name of type host_name, 1 to 255 bytes, without NUL.
fn host_name(data: &[u8]) -> Option<Arc<str>> {
    let mut list = Fields(data);
    let mut names = Fields(list.vec16()?);
    let (kind, name) = (names.u8()?, names.vec16()?);
    let sound =
        list.0.is_empty() && names.0.is_empty() && kind == 0 && (1..=255).contains(&name.len()) && !name.contains(&0);
    let name = std::str::from_utf8(name).ok().filter(|_| sound)?;
    Some(name.to_ascii_lowercase().into())
}

/// RFC 7301, 3.1.
fn protocols(data: &[u8]) -> Option<Vec<Arc<str>>> {
    let mut list = Fields(data);
    let mut names = Fields(list.vec16()?);
    if !list.0.is_empty() || names.0.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        let name = names.vec8()?;
        if name.is_empty() {
            return None;
        }
        protocols.extend(std::str::from_utf8(name).ok().map(Arc::from));
    }
    Some(protocols)
}

#[cfg(test)]
#[path = "tls_inspector_tests.rs"]
mod tests;
