//! `envoy.filters.listener.proxy_protocol`: the header by which a load balancer says whose connection it passes on, in both versions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use waypost_xds::Error;
use waypost_xds::envoy::config::core::v3::proxy_protocol_config::Version;
use waypost_xds::envoy::extensions::filters::listener::proxy_protocol::v3 as api;

/// What version 2 begins with, before its version and command.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 1 begins with.
const V1: &[u8; 6] = b"PROXY ";

/// The longest header of version 1, line end included.
const V1_MAX: usize = 107;

/// Signature, version and command, family and transport, length.
const V2_HEAD: usize = 16;

/// The compiled filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// `allow_requests_without_proxy_protocol`
    optional: bool,
    v1: bool,
    v2: bool,
}

/// What the bytes at the start of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspect {
    /// A header may be on its way.
    NeedMore,
    /// No header, and none is needed.
    Without,
    /// A header of so many bytes, with whose connection it is and where it went; none where it does not say.
    Header(usize, Option<(SocketAddr, SocketAddr)>),
    /// Neither a header nor anything else that may be here.
    Invalid,
}

impl ProxyProtocol {
    /// Compiles the filter; `path` is that of its configuration. Also which fields have no effect yet.
    pub fn compile(config: api::ProxyProtocol, path: &str) -> Result<(ProxyProtocol, Vec<&'static str>), Error> {
        let api::ProxyProtocol {
            rules,
            allow_requests_without_proxy_protocol: optional,
            pass_through_tlvs,
            disallowed_versions,
            stat_prefix: _,  // of statistics that are not kept
            tlv_location: _, // where `rules` put what they find
        } = config;
        if !rules.is_empty() {
            // Others may decide by what they find.
            return Err(Error::new(format!("{path}.rules"), "not supported yet"));
        }
        let ignored = if pass_through_tlvs.is_some() { vec!["pass_through_tlvs"] } else { Vec::new() };
        let allowed = |version: Version| !disallowed_versions.contains(&(version as i32));
        Ok((ProxyProtocol { optional, v1: allowed(Version::V1), v2: allowed(Version::V2) }, ignored))
    }

    /// Looks at everything that has arrived so far.
    pub fn inspect(&self, bytes: &[u8]) -> Inspect {
        let begins = |with: &[u8]| bytes.starts_with(with) || with.starts_with(bytes);
        match (begins(V1), begins(SIGNATURE)) {
            _ if bytes.is_empty() => Inspect::NeedMore,
            (true, _) if bytes.len() < V1.len() => Inspect::NeedMore,
            (_, true) if bytes.len() < SIGNATURE.len() => Inspect::NeedMore,
            (true, _) if self.v1 => v1(bytes),
            (_, true) if self.v2 => v2(bytes),
            (false, false) if self.optional => Inspect::Without,
            _ => Inspect::Invalid,
        }
    }
}

/// `PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n`
fn v1(bytes: &[u8]) -> Inspect {
    let start = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = start.windows(2).position(|w| w == b"\r\n") else {
        return if start.len() < V1_MAX { Inspect::NeedMore } else { Inspect::Invalid };
    };
    let Some(line) = start.get(V1.len()..end).and_then(|l| std::str::from_utf8(l).ok()) else {
        return Inspect::Invalid;
    };
    let words: Vec<&str> = line.split(' ').collect();
    let ends = match *words.as_slice() {
        ["UNKNOWN", ..] => return Inspect::Header(end + 2, None),
        ["TCP4", from, to, from_port, to_port] => {
            let ip = |text: &str| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
            pair(ip(from), from_port, ip(to), to_port)
        }
        ["TCP6", from, to, from_port, to_port] => {
            let ip = |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
            pair(ip(from), from_port, ip(to), to_port)
        }
        _ => None,
    };
    ends.map_or(Inspect::Invalid, |ends| Inspect::Header(end + 2, Some(ends)))
}

fn pair(from: Option<IpAddr>, from_port: &str, to: Option<IpAddr>, to_port: &str) -> Option<(SocketAddr, SocketAddr)> {
    let port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    Some((SocketAddr::new(from?, port(from_port)?), SocketAddr::new(to?, port(to_port)?)))
}

fn v2(bytes: &[u8]) -> Inspect {
    let Some(&[command, family, high, low]) = bytes.get(SIGNATURE.len()..V2_HEAD) else { return Inspect::NeedMore };
    let end = V2_HEAD + usize::from(u16::from_be_bytes([high, low]));
    // Only whole headers are taken, so that nothing of what follows the addresses is left behind.
    let Some(body) = bytes.get(V2_HEAD..end) else { return Inspect::NeedMore };
    let ends = match (command, family) {
        // LOCAL: the load balancer's own connection, a health check.
        (0x20, _) => return Inspect::Header(end, None),
        // PROXY over TCP
        (0x21, 0x11) => body.first_chunk::<12>().map(|b| {
            let &[a, b, c, d, e, f, g, h, p, q, r, s] = b;
            let ip = |n: [u8; 4]| IpAddr::V4(Ipv4Addr::from(n));
            (ip([a, b, c, d]), ip([e, f, g, h]), [p, q], [r, s])
        }),
        (0x21, 0x21) => body.split_first_chunk::<16>().and_then(|(from, rest)| {
            let (to, rest) = rest.split_first_chunk::<16>()?;
            let &[p, q, r, s] = rest.first_chunk::<4>()?;
            let ip = |n: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*n));
            Some((ip(from), ip(to), [p, q], [r, s]))
        }),
        _ => None,
    };
    let socket = |ip, port| SocketAddr::new(ip, u16::from_be_bytes(port));
    ends.map_or(Inspect::Invalid, |(from, to, p, q)| Inspect::Header(end, Some((socket(from, p), socket(to, q)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(optional: bool) -> ProxyProtocol {
        let config = api::ProxyProtocol { allow_requests_without_proxy_protocol: optional, ..Default::default() };
        ProxyProtocol::compile(config, "f").unwrap().0
    }

    fn ends(from: &str, to: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((from.parse().unwrap(), to.parse().unwrap()))
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([command, family]);
        out.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn both_versions_say_whose_a_connection_is() {
        let f = filter(false);
        let header = |text: &str, ends| {
            assert_eq!(f.inspect(format!("{text}GET /").as_bytes()), Inspect::Header(text.len(), ends), "{text}")
        };
        header("PROXY TCP4 1.2.3.4 5.6.7.8 1000 65535\r\n", ends("1.2.3.4:1000", "5.6.7.8:65535"));
        header("PROXY TCP6 ::1 fe80::2 1 2\r\n", ends("[::1]:1", "[fe80::2]:2"));
        header("PROXY UNKNOWN\r\n", None);
        header("PROXY UNKNOWN a b c\r\n", None);
        let mut body = vec![1, 2, 3, 4, 5, 6, 7, 8, 0x03, 0xe8, 0xff, 0xff];
        body.extend([0x04, 0, 1, 9]);
        let whole = v2(0x21, 0x11, &body);
        assert_eq!(f.inspect(&whole), Inspect::Header(whole.len(), ends("1.2.3.4:1000", "5.6.7.8:65535")));
        let mut body = vec![0; 36];
        (body[15], body[31], body[33], body[35]) = (1, 2, 3, 4);
        let six = v2(0x21, 0x21, &body);
        assert_eq!(f.inspect(&six), Inspect::Header(six.len(), ends("[::1]:3", "[::2]:4")));
        assert_eq!(f.inspect(&v2(0x20, 0, &[])), Inspect::Header(16, None));
        for end in 0..whole.len() {
            assert_eq!(f.inspect(&whole[..end]), Inspect::NeedMore, "{end}");
        }
    }

    #[test]
    fn anything_else_is_refused_unless_it_may_come_without() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 65536\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            b"PROXY TCP4 ::1 5.6.7.8 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            &[V1.as_slice(), &[b'a'; 200]].concat(),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x11, 0x11, &[0; 12]),
        ] {
            assert_eq!(filter(false).inspect(bytes), Inspect::Invalid, "{bytes:?}");
        }
        assert_eq!(filter(true).inspect(b"GET / HTTP/1.1\r\n"), Inspect::Without);
        assert_eq!(filter(true).inspect(b"PROXY what\r\n"), Inspect::Invalid);
        assert_eq!(filter(true).inspect(b"PR"), Inspect::NeedMore);
        let config = api::ProxyProtocol { disallowed_versions: vec![Version::V1 as i32], ..Default::default() };
        let (f, _) = ProxyProtocol::compile(config, "f").unwrap();
        assert_eq!(f.inspect(b"PROXY UNKNOWN\r\n"), Inspect::Invalid);
        assert_eq!(f.inspect(&v2(0x20, 0, &[])), Inspect::Header(16, None));
    }
}
