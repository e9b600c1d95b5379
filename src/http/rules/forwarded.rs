//! Who the client is: `x-forwarded-for`, `x-forwarded-proto`, `x-forwarded-port`, and whether it is internal.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use waypost_filters::address::Address;
use waypost_filters::connection::Connection;
use waypost_filters::head::Scheme;

use super::append;
use crate::http::config::{ClientAddress, InternalAddresses};

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// What was found out about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address, if the peer's own does not stand for it.
    pub address: Option<Address>,
    /// Whether it is within `internal_address_config`.
    pub internal: bool,
    /// Whether the request comes from the edge: the peer's address is used, and the client is not internal.
    pub edge: bool,
}

/// Finds the client and writes what the next hop is to know of it. `said` says whether any of the headers is there.
pub fn apply(headers: &mut HeaderMap, options: &ClientAddress, connection: &Connection, said: bool) -> Client {
    let (address, trusted) = if options.use_remote_address {
        let forwarded = if said { headers.get(X_FORWARDED_FOR) } else { None };
        // A request that came through others is never internal, whatever they say.
        let direct = forwarded.is_none();
        // The peer is the last hop, which is not in the header: of n trusted hops, n-1 are.
        let address = match options.trusted_hops.checked_sub(1) {
            Some(skip) => forwarded.and_then(|v| last_address(v.as_bytes(), skip)).map(|(a, _)| a),
            None => None,
        };
        if !options.skip_xff_append {
            append_peer(headers, options, connection);
        }
        (address, direct)
    } else {
        let forwarded = if said { headers.get(X_FORWARDED_FOR) } else { None };
        match forwarded.and_then(|v| last_address(v.as_bytes(), options.trusted_hops)) {
            Some((address, only)) => (Some(address), only),
            None => (None, false),
        }
    };
    // Without trusted hops nothing that an edge client says of itself is kept.
    let keep = said && (!options.use_remote_address || options.trusted_hops > 0);
    if !(keep && headers.contains_key(X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, own_proto(connection));
    }
    if options.append_port
        && !(keep && headers.contains_key(X_FORWARDED_PORT))
        && let Some(port) = connection.local.port()
    {
        headers.insert(X_FORWARDED_PORT, HeaderValue::from(port));
    }
    // Envoy asks whether there is a final address: with `use_remote_address` that is the peer's if there is no other.
    let known = match &address {
        Some(address) => Some(address),
        None if options.use_remote_address => Some(&connection.remote),
        None => None,
    };
    let internal = trusted && known.is_some_and(|a| is_internal(&options.internal, a));
    Client { internal, edge: options.use_remote_address && !internal, address }
}

/// The scheme that a request has if nobody says otherwise.
pub fn own_scheme(connection: &Connection) -> Scheme {
    if connection.tls.is_some() { Scheme::Https } else { Scheme::Http }
}

/// The scheme of a header value, in any case of letters.
pub fn scheme_of(value: &[u8]) -> Option<Scheme> {
    match value {
        v if v.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
        v if v.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
        _ => None,
    }
}

fn own_proto(connection: &Connection) -> HeaderValue {
    HeaderValue::from_static(own_scheme(connection).as_str())
}

/// The address before which `skip` others stand, from the right; and whether it is the only one.
fn last_address(value: &[u8], skip: u32) -> Option<(Address, bool)> {
    let mut rest = value;
    for _ in 0..skip {
        rest = rest.get(..memchr::memrchr(b',', rest)?)?;
    }
    let comma = memchr::memrchr(b',', rest);
    // A comma at the very end separates nothing.
    let text = match comma.and_then(|at| rest.get(at + 1..)) {
        Some(last) if !last.is_empty() => last,
        _ => rest,
    };
    // Scoped addresses ("fe80::1%eth0") mean something on the sender's host only; the parser takes none.
    let ip: IpAddr = std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()?;
    Some((Address::Ip(SocketAddr::new(ip, 0)), comma.is_none() && skip == 0))
}

fn append_peer(headers: &mut HeaderMap, options: &ClientAddress, connection: &Connection) {
    let Some(ip) = connection.remote.ip() else { return };
    // Loopback would mean the next hop's own host there.
    let ip = match ip {
        ip if ip.is_loopback() => options.local_address,
        IpAddr::V4(v4) if options.ipv4_as_ipv6 => IpAddr::V6(v4.to_ipv6_mapped()),
        ip => ip,
    };
    if let Some(value) = address_value(ip) {
        append(headers, X_FORWARDED_FOR, ",", &value);
    }
}

/// An IP address as a header value.
pub(super) fn address_value(ip: IpAddr) -> Option<HeaderValue> {
    HeaderValue::try_from(ip.to_string()).ok()
}

fn is_internal(internal: &InternalAddresses, address: &Address) -> bool {
    match address {
        Address::Ip(a) => internal.ranges.iter().any(|r| r.contains(a.ip())),
        Address::Pipe(_) => internal.unix_sockets,
        Address::Internal { .. } => false,
    }
}
