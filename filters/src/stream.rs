//! What is known of one stream (an HTTP request, or a TCP connection being proxied), for filters, formatters and logs.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::http::HeaderMap;

use crate::address::Address;
use crate::body::Body;
use crate::connection::Connection;
use crate::connection::TlsSession;
use crate::filter_state::{FilterState, Object};
use crate::flags::Flags;
use crate::head::{Protocol, RequestHead, ResponseHead};
use crate::http::alpn::AlpnOverrides;
use crate::metadata::Metadata;

/// One HTTP request and what has become of it. Filters get it mutably.
#[derive(Debug)]
pub struct HttpStream {
    /// What a log line is made of.
    pub info: StreamInfo,
    /// The request; filters may change it until it is sent upstream.
    pub request: RequestHead,
    /// The response, once there is one.
    pub response: Option<ResponseHead>,
    /// The response's trailers, once there are any.
    pub response_trailers: Option<HeaderMap>,
    /// Set by a filter that changed what routing depends on (`clear_route_cache`).
    pub reroute: bool,
    /// What filters make of the response's body.
    pub body: Body,
}

/// What happened to a stream so far.
#[derive(Debug)]
pub struct StreamInfo {
    /// The downstream connection.
    pub connection: Arc<Connection>,
    /// A number that no other stream of the process has (`%STREAM_ID%` is the request id where there is one).
    pub id: u64,
    /// Wall-clock start.
    pub start_time: SystemTime,
    /// Start on the clock that timings count from.
    pub start: Instant,
    /// The downstream protocol; none for TCP and for requests whose head could not be read.
    pub protocol: Option<Protocol>,
    /// Status sent downstream; 0 when none was.
    pub response_code: u16,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Option<Cow<'static, str>>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination_details: Option<Cow<'static, str>>,
    /// Why it ended as it did.
    pub flags: Flags,
    /// Body bytes from downstream.
    pub bytes_received: u64,
    /// Body bytes to downstream.
    pub bytes_sent: u64,
    /// Bytes on the wire of the client's side.
    pub downstream_wire: WireBytes,
    /// Bytes on the wire of the host's side.
    pub upstream_wire: WireBytes,
    /// Name of the route.
    pub route_name: Option<Arc<str>>,
    /// Name of the virtual host.
    pub virtual_host: Option<Arc<str>>,
    /// The route's `metadata`.
    pub route_metadata: Option<Arc<Metadata>>,
    /// The virtual host's `metadata`.
    pub virtual_host_metadata: Option<Arc<Metadata>>,
    /// The upstream side.
    pub upstream: Upstream,
    /// When things happened.
    pub timing: Timing,
    /// Objects of request life span; connection-level ones are found through [`StreamInfo::object`].
    pub filter_state: FilterState,
    /// Dynamic metadata of the stream.
    pub metadata: Metadata,
    /// The request id (`x-request-id`), once set.
    pub request_id: Option<RequestId>,
    /// The remote address after XFF was considered (`%DOWNSTREAM_REMOTE_ADDRESS%`).
    pub remote: Address,
}

/// A request id: most are UUIDs, which need no memory of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// A UUID, or what is as long.
    Uuid([u8; 36]),
    /// Whatever a client has sent.
    Other(Arc<str>),
}

impl From<&str> for RequestId {
    fn from(text: &str) -> RequestId {
        match text.as_bytes().try_into() {
            Ok(uuid) => RequestId::Uuid(uuid),
            Err(_) => RequestId::Other(text.into()),
        }
    }
}

impl Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            // It came from text.
            RequestId::Uuid(uuid) => std::str::from_utf8(uuid).unwrap_or_default(),
            RequestId::Other(text) => text,
        }
    }
}

/// Bytes of one side of a stream as they are on the wire, framing included (`BytesMeter`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireBytes {
    /// All that was received.
    pub received: u64,
    /// All that was sent.
    pub sent: u64,
    /// The part of it that was heads.
    pub headers_received: u64,
    /// The part of it that was heads.
    pub headers_sent: u64,
}

/// The upstream side of a stream.
#[derive(Debug, Default)]
pub struct Upstream {
    /// The cluster of the route (`%UPSTREAM_CLUSTER%` prints `alt_stat_name` where there is one).
    pub cluster: Option<Arc<ClusterNames>>,
    /// The cluster's `metadata`.
    pub cluster_metadata: Option<Arc<Metadata>>,
    /// The host that was chosen.
    pub host: Option<Arc<HostInfo>>,
    /// Our address of the upstream connection.
    pub local: Option<Address>,
    /// Its TLS session.
    pub tls: Option<Arc<TlsSession>>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: Option<Arc<str>>,
    /// `%UPSTREAM_REQUEST_ATTEMPT_COUNT%`.
    pub attempts: u32,
    /// The protocol spoken upstream.
    pub protocol: Option<Protocol>,
    /// A number of the upstream connection.
    pub connection_id: Option<u64>,
    /// What `istio.alpn` says that its TLS offers.
    pub alpn: Option<Arc<AlpnOverrides>>,
}

/// A cluster's names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClusterNames {
    /// `name` (`%UPSTREAM_CLUSTER_RAW%`).
    pub name: Arc<str>,
    /// `alt_stat_name`, or the name (`%UPSTREAM_CLUSTER%`).
    pub observability_name: Arc<str>,
}

/// What a filter or a log line may know of an upstream host.
#[derive(Debug)]
pub struct HostInfo {
    /// Its address.
    pub address: Address,
    /// `hostname` of the endpoint.
    pub hostname: Arc<str>,
    /// `metadata` of the endpoint.
    pub metadata: Metadata,
}

/// Moments of a stream, as durations since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Last byte of the request received from downstream.
    pub request_received: Option<Duration>,
    /// First byte sent upstream.
    pub first_upstream_sent: Option<Duration>,
    /// Last byte sent upstream.
    pub last_upstream_sent: Option<Duration>,
    /// First byte received from upstream.
    pub first_upstream_received: Option<Duration>,
    /// Last byte received from upstream.
    pub last_upstream_received: Option<Duration>,
    /// First byte sent downstream.
    pub first_downstream_sent: Option<Duration>,
    /// Last byte sent downstream; also the stream's end.
    pub last_downstream_sent: Option<Duration>,
    /// The stream's end (`%DURATION%`).
    pub complete: Option<Duration>,
}

impl StreamInfo {
    /// A stream that starts now on a connection.
    pub fn new(connection: Arc<Connection>, id: u64, start: Instant, start_time: SystemTime) -> StreamInfo {
        StreamInfo {
            remote: connection.remote.clone(),
            connection,
            id,
            start_time,
            start,
            protocol: None,
            response_code: 0,
            details: None,
            termination_details: None,
            flags: Flags::NONE,
            bytes_received: 0,
            bytes_sent: 0,
            downstream_wire: WireBytes::default(),
            upstream_wire: WireBytes::default(),
            route_name: None,
            virtual_host: None,
            route_metadata: None,
            virtual_host_metadata: None,
            upstream: Upstream::default(),
            timing: Timing::default(),
            filter_state: FilterState::default(),
            metadata: Metadata::default(),
            request_id: None,
        }
    }

    /// What network filters and TCP proxies see: the connection itself as a stream, with its dynamic metadata.
    pub fn of_connection(connection: Arc<Connection>, id: u64, start: Instant, start_time: SystemTime) -> StreamInfo {
        let metadata = connection.metadata.clone();
        StreamInfo { metadata, ..StreamInfo::new(connection, id, start, start_time) }
    }

    /// An object of filter state: the stream's, or else the connection's.
    pub fn object(&self, key: &str) -> Option<&Object> {
        self.filter_state.get(key).or_else(|| self.connection.filter_state.get(key))
    }

    /// Time since the start.
    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}
