//! Clusters: hosts, load balancing, limits, and how a connection to a host is made.

pub mod assignment;
pub mod balance;
pub mod compile;
pub mod connect;
pub mod dns;
mod host;
mod host_set;
pub mod limits;
pub mod pool;
pub mod stats;
mod table;
#[cfg(test)]
mod tests;
pub mod tls_options;
mod transports;
mod update;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use waypost_filters::address::Address;
use waypost_filters::metadata::Metadata;
use waypost_filters::network::metadata_exchange::MetadataExchange;
use waypost_filters::stream::ClusterNames;
use waypost_xds::envoy::config::core::v3::ConfigSource;

pub use self::host::{Health, Host, HostCounts, HostState, Place};
pub use self::host_set::{Group, HostRules, HostSet, OVERPROVISIONING};
pub use self::limits::Limits;
pub use self::stats::ClusterStats;
pub use self::table::{ClusterSlot, ClusterTable, changes};
pub use self::transports::Transports;
use crate::net::socket::Keepalive;
use crate::tls::{ClientTls, TlsStats};

/// A cluster as it is now (`config.cluster.v3.Cluster`).
#[derive(Debug)]
pub struct Cluster {
    /// Its names.
    pub names: Arc<ClusterNames>,
    /// A number that no other version of any cluster has.
    pub id: u64,
    /// Where hosts come from.
    pub discovery: Discovery,
    /// The hosts, as discovery last gave them.
    pub hosts: ArcSwap<HostSet>,
    /// How one is chosen.
    pub policy: Policy,
    /// `connect_timeout`; 5 s unless it is set.
    pub connect_timeout: Duration,
    /// `per_connection_buffer_limit_bytes`; 1 MiB unless it is set.
    pub buffer_limit: usize,
    /// What is spoken to the hosts.
    pub http: HttpOptions,
    /// `upstream_connection_options.tcp_keepalive`.
    pub keepalive: Option<Keepalive>,
    /// `upstream_bind_config.source_address`.
    pub bind: Option<SocketAddr>,
    /// `circuit_breakers` of the default priority.
    pub limits: Limits,
    /// Whether its connections share filter state with internal listeners (`internal_upstream`).
    pub shares: bool,
    /// `metadata`.
    pub metadata: Arc<Metadata>,
    /// What is said to hosts that agree to it (`istio.metadata_exchange` in `filters`).
    pub exchange: Option<Arc<MetadataExchange>>,
    /// Counters.
    pub stats: Arc<ClusterStats>,
    /// `ssl.…`, where any host is reached over TLS.
    pub ssl: Option<Arc<TlsStats>>,
    /// How hosts become shares of the load.
    pub rules: HostRules,
    /// How its hosts connect.
    transports: Arc<Transports>,
    /// A hash over what connections depend on: a version with the same hash takes over the hosts of the one before.
    connections: u64,
    /// Whether it is in its slot: then a host that it drops is nobody's.
    live: AtomicBool,
}

/// `type`.
#[derive(Debug)]
pub enum Discovery {
    /// `STATIC`.
    Static,
    /// `EDS`: hosts come by [`Cluster::assign`].
    Eds {
        /// The name to ask for: `service_name`, or the cluster's.
        service_name: Arc<str>,
        /// Where to ask.
        config: Arc<ConfigSource>,
    },
    /// `STRICT_DNS`, `LOGICAL_DNS`: hosts come by [`dns::resolve`].
    Dns(Box<dns::Dns>),
    /// A cluster that has no hosts, as how it finds them is not built yet.
    None,
    /// `ORIGINAL_DST`: the connection says where to.
    OriginalDst(OriginalDst),
}

/// `original_dst_lb_config`.
#[derive(Debug)]
pub struct OriginalDst {
    /// `use_http_header`, with the name of the header.
    pub header: Option<http::HeaderName>,
    /// `upstream_port_override`.
    pub port: Option<u16>,
    /// `metadata_key`: a namespace and a path of the downstream connection's dynamic metadata.
    pub metadata_key: Option<(String, Vec<String>)>,
    /// How hosts that are made on demand connect.
    pub transport: Arc<Transport>,
    /// What tells its hosts from those of other clusters.
    pub origin: Arc<Origin>,
}

/// What is common to the hosts that were made on demand, over all versions of a cluster that may share their connections.
#[derive(Debug)]
pub struct Origin {
    /// A number that no other host and cluster has.
    pub id: u64,
    /// Says when all those hosts drain.
    pub state: HostState,
}

/// `lb_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `ROUND_ROBIN`
    RoundRobin,
    /// `LEAST_REQUEST`, with `choice_count`.
    LeastRequest {
        /// How many random hosts are compared.
        choices: u32,
    },
    /// `RANDOM`
    Random,
    /// `CLUSTER_PROVIDED`, of `ORIGINAL_DST`.
    ClusterProvided,
}

/// `transport_socket` of a cluster.
#[derive(Debug)]
pub enum Transport {
    /// `raw_buffer`.
    Raw,
    /// `tls`.
    Tls(TlsTransport),
    /// `internal_upstream`: shares filter state and metadata with an internal listener.
    Internal {
        /// `passthrough_metadata`.
        passthrough: Vec<Passthrough>,
        /// `transport_socket`.
        inner: Box<Transport>,
    },
}

impl Transport {
    /// Whether it is TLS, or TLS is inside.
    pub fn is_tls(&self) -> bool {
        match self {
            Transport::Raw => false,
            Transport::Tls(_) => true,
            Transport::Internal { inner, .. } => inner.is_tls(),
        }
    }
}

/// An `UpstreamTlsContext`.
#[derive(Clone)]
pub struct TlsTransport(pub Arc<ClientTls>);

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("tls")
    }
}

/// One of `passthrough_metadata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// Whether it is taken from the host (else from the cluster).
    pub from_host: bool,
    /// The namespace.
    pub name: Arc<str>,
}

/// What is spoken to the hosts of a cluster (`HttpProtocolOptions`).
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Which protocol.
    pub protocol: UpstreamProtocol,
    /// `common_http_protocol_options.idle_timeout`; 1 h unless it is set, none for 0.
    pub idle_timeout: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration`.
    pub max_connection_duration: Option<Duration>,
    /// `max_requests_per_connection`; 0 for no limit.
    pub max_requests_per_connection: u32,
    /// `common_http_protocol_options.max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// `max_headers_count`; 100 unless it is set.
    pub max_headers_count: usize,
    /// `max_response_headers_kb` in bytes; 60 KiB unless it is set.
    pub max_headers_bytes: usize,
    /// HTTP/1 options.
    pub h1: Http1Options,
    /// HTTP/2 options.
    pub h2: Http2Options,
    /// `upstream_http_protocol_options.auto_sni`.
    pub auto_sni: bool,
    /// `upstream_http_protocol_options.auto_san_validation`.
    pub auto_san_validation: bool,
}

/// Which protocol a cluster's hosts speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What the client spoke (`use_downstream_protocol_config`).
    Downstream,
    /// ALPN decides (`auto_config`).
    Alpn,
}

/// `Http1ProtocolOptions` of an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http1Options {
    /// `enable_trailers`
    pub enable_trailers: bool,
    /// `header_key_format.proper_case_words`
    pub proper_case: bool,
}

/// `Http2ProtocolOptions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Options {
    /// `max_concurrent_streams`: what we allow a client to open, or open ourselves at most.
    pub max_concurrent_streams: u32,
    /// `initial_stream_window_size`.
    pub stream_window: u32,
    /// `initial_connection_window_size`.
    pub connection_window: u32,
    /// `hpack_table_size`.
    pub table_size: u32,
    /// `allow_connect`: extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// `connection_keepalive`: interval and timeout.
    pub keepalive: Option<(Duration, Duration)>,
}

impl Default for Http2Options {
    fn default() -> Http2Options {
        Http2Options {
            max_concurrent_streams: 1024,
            // Envoy offers 16 MiB a stream and 24 MiB a connection; what a sender may send, we may have to hold when the other side
            // reads slowly. 1 MiB a stream is Envoy's own buffer limit, and at 1 ms it carries a gigabyte each second.
            stream_window: 1 << 20,
            connection_window: 24 << 20,
            table_size: 4096,
            allow_connect: false,
            keepalive: None,
        }
    }
}

impl Default for HttpOptions {
    fn default() -> HttpOptions {
        HttpOptions {
            protocol: UpstreamProtocol::Http1,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_requests_per_connection: 0,
            max_stream_duration: None,
            max_headers_count: 100,
            max_headers_bytes: 60 * 1024,
            h1: Http1Options::default(),
            h2: Http2Options::default(),
            auto_sni: false,
            auto_san_validation: false,
        }
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number for a new host or a new version of a cluster.
pub fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Relaxed)
}

impl Cluster {
    /// What a host is known by, when discovery finds it again.
    fn identity(&self, address: &Address) -> Address {
        match &self.discovery {
            // Its one host is the same wherever it is.
            Discovery::Dns(dns) if dns.logical => Address::Pipe(Arc::from("")),
            _ => address.clone(),
        }
    }
}
