//! Addresses as Envoy names them (`config.core.v3.Address`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where a peer, a listener or a host is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `socket_address`: an IP address and a TCP port.
    Ip(SocketAddr),
    /// `pipe`: the path of a Unix domain socket, or `@name` for an abstract one.
    Pipe(Arc<str>),
    /// `envoy_internal_address`: an internal listener of this process and what tells two hosts behind it apart.
    Internal {
        /// `server_listener_name`.
        listener: Arc<str>,
        /// `endpoint_id`; empty where the configuration has none.
        endpoint_id: Arc<str>,
    },
}

impl Address {
    /// The IP address, if there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket().map(|a| a.ip())
    }

    /// The port, if there is one.
    pub fn port(&self) -> Option<u16> {
        self.socket().map(|a| a.port())
    }

    /// The socket address, if it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(a) => Some(*a),
            Address::Pipe(_) | Address::Internal { .. } => None,
        }
    }

    /// Parses `IP:port` or `[IPv6]:port`, as filter state and host metadata hold addresses. Names are not resolved.
    pub fn parse_ip_port(text: &str) -> Option<Address> {
        // A scope id ("fe80::1%eth0") crashed Envoy once (CVE-2026-73549); Rust's parser takes numeric scopes only and we take none.
        if text.contains('%') {
            return None;
        }
        text.parse().ok().map(Address::Ip)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(a) => a.fmt(f),
            Address::Pipe(p) => f.write_str(p),
            Address::Internal { listener, endpoint_id } => write!(f, "envoy://{listener}/{endpoint_id}"),
        }
    }
}
