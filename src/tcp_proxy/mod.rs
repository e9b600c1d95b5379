//! `envoy.filters.network.tcp_proxy`: bytes to a host of a cluster, as they are or inside a CONNECT.

pub mod compile;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method, Request, Uri};
use waypost_filters::access_log::AccessLog;
use waypost_filters::connection::Connection;
use waypost_filters::filter_state::Object;
use waypost_filters::flags::Flag;
use waypost_filters::format::header_ops::HeaderOps;
use waypost_filters::format::{AccessLogType, Format, FormatContext};
use waypost_filters::head::{Protocol, RequestHead, Scheme};
use waypost_filters::stream::{HttpStream, StreamInfo, WireBytes};

use crate::cluster::connect::{ConnectError, Sharing, UpstreamInfo, connect};
use crate::cluster::pool::H2Lease;
use crate::cluster::tls_options::{Speaks, TlsOptions};
use crate::cluster::{Cluster, ClusterSlot, Discovery, Host, OriginalDst, UpstreamProtocol};
use crate::listener::drain::ChainState;
use crate::listener::serve::Served;
use crate::net::alarm::timeout_at;
use crate::net::pump::{End, Limits, pump};
use crate::net::tunnel::{ByteCount, Tunnel};
use crate::net::{Io, WriteQueue};
use crate::observe::stats::{Counter, Gauge};
use crate::worker::Worker;

/// What is compiled from `TcpProxy`.
pub struct TcpProxy {
    /// `stat_prefix`.
    pub stat_prefix: Arc<str>,
    /// `cluster` or `weighted_clusters`: slots with their weights summed up.
    pub clusters: Vec<(Arc<ClusterSlot>, u64)>,
    /// `idle_timeout`: 1 h unless it is set, none for 0.
    pub idle_timeout: Option<Duration>,
    /// `max_downstream_connection_duration`.
    pub max_duration: Option<Duration>,
    /// `max_connect_attempts`.
    pub attempts: u32,
    /// `access_log`.
    pub access_logs: Vec<AccessLog>,
    /// `access_log_options.flush_access_log_on_connected`.
    pub log_on_connected: bool,
    /// `tunneling_config`.
    pub tunneling: Option<Tunneling>,
    /// Counters.
    pub stats: TcpStats,
}

/// `tunneling_config`.
pub struct Tunneling {
    /// `hostname`: the authority.
    pub hostname: Format,
    /// `headers_to_add`.
    pub headers: HeaderOps,
    /// `use_post`, with `post_path`.
    pub post: Option<Arc<str>>,
}

/// `tcp.<stat_prefix>.…`
#[allow(missing_docs, reason = "the fields are Envoy's stat names")]
pub struct TcpStats {
    pub downstream_cx_total: Counter,
    pub downstream_cx_no_route: Counter,
    pub downstream_cx_rx_bytes_total: Counter,
    pub downstream_cx_tx_bytes_total: Counter,
    pub idle_timeout: Counter,
    pub max_downstream_connection_duration: Counter,
    pub upstream_flush_active: Gauge,
}

/// How many new connections that take no tunnel a tunnel may meet; those that have ended or said goodbye unnoticed do not count.
const STALE_LIMIT: u32 = 3;

/// What is known of a proxied connection; counted and logged when it is dropped.
struct Session {
    proxy: Arc<TcpProxy>,
    info: StreamInfo,
    /// Keeps a cluster's pool entry and the upstream connection counted while the session lives.
    _upstream: Option<Rc<UpstreamInfo>>,
    _lease: Option<H2Lease>,
    active: Option<ActiveRequest>,
    /// Counts of a tunnel that somebody else reads and writes.
    bytes: Option<Arc<ByteCount>>,
}

impl Session {
    fn new(worker: &Worker, proxy: &Arc<TcpProxy>, connection: Arc<Connection>) -> Session {
        let info = StreamInfo::of_connection(connection, worker.next_stream(), Instant::now(), SystemTime::now());
        proxy.stats.downstream_cx_total.inc();
        Session { proxy: proxy.clone(), info, _upstream: None, _lease: None, active: None, bytes: None }
    }

    fn log(&self, access_log_type: AccessLogType) {
        for log in &self.proxy.access_logs {
            log.record(&FormatContext { access_log_type, ..FormatContext::of_info(&self.info) });
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(bytes) = &self.bytes {
            // Seen from the accepted connection: what the tunnel sent had come from downstream.
            self.info.bytes_received = bytes.sent.load(Relaxed);
            self.info.bytes_sent = bytes.received.load(Relaxed);
        }
        let info = &mut self.info;
        info.downstream_wire =
            WireBytes { received: info.bytes_received, sent: info.bytes_sent, ..WireBytes::default() };
        info.upstream_wire = WireBytes { received: info.bytes_sent, sent: info.bytes_received, ..WireBytes::default() };
        let stats = &self.proxy.stats;
        stats.downstream_cx_rx_bytes_total.add(self.info.bytes_received);
        stats.downstream_cx_tx_bytes_total.add(self.info.bytes_sent);
        self.active = None;
        self.info.timing.complete = Some(self.info.elapsed(Instant::now()));
        self.log(AccessLogType::TcpConnectionEnd);
    }
}

/// Counts a host's and a cluster's request while it lives.
pub struct ActiveRequest {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
}

impl ActiveRequest {
    /// Counts one more.
    pub fn new(cluster: &Arc<Cluster>, host: &Arc<Host>) -> ActiveRequest {
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        host.state.counts.requests.fetch_add(1, Relaxed);
        host.state.active.fetch_add(1, Relaxed);
        ActiveRequest { cluster: cluster.clone(), host: host.clone() }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_active.dec();
        self.host.state.active.fetch_sub(1, Relaxed);
    }
}

/// Serves an accepted connection to its end. `early` has been read from it already.
pub async fn serve(
    worker: &Rc<Worker>,
    proxy: &Arc<TcpProxy>,
    chain: &ChainState,
    mut io: Io,
    early: Bytes,
    connection: Arc<Connection>,
) -> Served {
    let mut session = Session::new(worker, proxy, connection);
    let upstream = tokio::select! {
        biased;
        opened = open(worker, &mut session) => opened,
        // A client that goes away meanwhile needs no upstream. Data it sends waits in the socket, and is pushed back there.
        () = gone(&mut io) => {
            session.info.flags.set(Flag::DownstreamConnectionTermination);
            return Served::default();
        }
    };
    let mut upstream = match upstream {
        Ok(upstream) => upstream,
        Err(()) => {
            // A tunnel whose far end cannot be reached is reset, not ended: its peer must not take it for an answer.
            if let Io::Tunnel(tunnel) = &mut io {
                tunnel.reset(h2::Reason::CONNECT_ERROR);
            }
            return Served::default();
        }
    };
    if proxy.log_on_connected {
        session.log(AccessLogType::TcpUpstreamConnected);
    }
    let idle = match session.info.object("envoy.tcp_proxy.per_connection_idle_timeout_ms") {
        Some(Object::Number(ms)) => Some(Duration::from_millis(*ms)).filter(|d| !d.is_zero()),
        _ => proxy.idle_timeout,
    };
    let until = proxy.max_duration.map(|d| session.info.start + d);
    let limits = Limits { idle, until, closed: Some(chain.closed()) };
    // Counted by the pump, in both directions.
    session.bytes = None;
    let pumped = pump(&mut io, &mut upstream, early, limits).await;
    session.info.bytes_received = pumped.received;
    session.info.bytes_sent = pumped.sent;
    if let Some(u) = &session.active {
        u.cluster.stats.upstream_cx_tx_bytes_total.add(pumped.received);
        u.cluster.stats.upstream_cx_rx_bytes_total.add(pumped.sent);
    }
    match pumped.end {
        // Envoy sets no flag where the filter chain is closed, either.
        End::Clean | End::Closed => {}
        // Envoy sets no flag for it.
        End::Idle => proxy.stats.idle_timeout.inc(),
        End::Expired => {
            proxy.stats.max_downstream_connection_duration.inc();
            session.info.flags.set(Flag::DurationTimeout);
        }
        // A reset goes on to the other side: dropping a tunnel resets it, dropping a socket with unread data too.
        End::Downstream(e) => {
            tracing::debug!("tcp_proxy: downstream: {e}");
            abort(&mut upstream);
        }
        End::Upstream(e) => {
            tracing::debug!("tcp_proxy: upstream: {e}");
            abort(&mut io);
        }
    }
    Served { protocol: None, received: pumped.received, sent: pumped.sent }
}

/// Ends a stream the hard way: RST_STREAM or a TCP reset. An end would tell the peer that it has got everything.
pub fn abort(io: &mut Io) {
    match io {
        Io::Tunnel(t) => t.reset(h2::Reason::CANCEL),
        other => {
            if let Some(tcp) = other.tcp() {
                // Linger 0 makes the close a reset.
                let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
            }
        }
    }
}

/// Ready when the peer has reset or closed the connection for good.
async fn gone(io: &mut Io) {
    match io {
        Io::Tcp(tcp) => loop {
            match tcp.ready(tokio::io::Interest::ERROR).await {
                Ok(r) if r.is_error() => return,
                Ok(_) => {}
                Err(_) => return,
            }
        },
        Io::Tunnel(t) => t.gone().await,
        Io::Replay(r) => Box::pin(gone(&mut r.1)).await,
        Io::Exchanged(e) => Box::pin(gone(&mut e.io)).await,
        Io::TlsServer(tls) => Box::pin(gone(tls.get_mut().0)).await,
        _ => std::future::pending().await,
    }
}

/// Opens the upstream of a proxy that an internal hop is fused with. The second part lives as long as the connection does.
pub async fn open_fused(
    worker: &Rc<Worker>,
    proxy: &Arc<TcpProxy>,
    connection: Arc<Connection>,
) -> Result<(Io, Box<dyn std::any::Any>), ()> {
    let mut session = Session::new(worker, proxy, connection);
    let io = open(worker, &mut session).await?;
    Ok((io, Box::new(session)))
}

/// Chooses a cluster and a host, and connects. What went wrong is noted in the session.
async fn open(worker: &Rc<Worker>, session: &mut Session) -> Result<Io, ()> {
    let proxy = session.proxy.clone();
    let slot = pick_cluster(&proxy.clusters, worker.random());
    let Some(cluster) = slot.and_then(|s| s.current.load_full()) else {
        proxy.stats.downstream_cx_no_route.inc();
        session.info.flags.set(Flag::NoClusterFound);
        return Err(());
    };
    session.info.upstream.cluster = Some(cluster.names.clone());
    let mut tried = Vec::new();
    for _ in 0..proxy.attempts.max(1) {
        let Some(host) = choose_host(worker, &cluster, &session.info, None, &tried) else {
            cluster.stats.upstream_cx_none_healthy.inc();
            tracing::debug!(target: "filter", "tcp_proxy: {}: no host", cluster.names.name);
            session.info.flags.set(Flag::NoHealthyUpstream);
            return Err(());
        };
        session.info.upstream.attempts += 1;
        session.info.upstream.host = Some(host.info.clone());
        let sharing = Sharing::of(&session.info.connection, Some(&session.info.filter_state));
        let opened = match &proxy.tunneling {
            Some(tunneling) => open_tunnel(worker, tunneling, &cluster, &host, &sharing, session).await,
            None => open_plain(worker, &cluster, &host, &sharing, Speaks::Bytes, session).await,
        };
        match opened {
            Ok(io) => {
                session.active = Some(ActiveRequest::new(&cluster, &host));
                return Ok(io);
            }
            Err(e) => {
                tracing::debug!("tcp_proxy: {}: {e}", cluster.names.name);
                if let ConnectError::Failed(reason) = &e {
                    session.info.upstream.transport_failure = Some(reason.clone());
                }
                session.info.flags.set(match e {
                    ConnectError::Overflow => Flag::UpstreamOverflow,
                    _ => Flag::UpstreamConnectionFailure,
                });
                tried.push(host.id);
            }
        }
    }
    // Envoy sets it even where one attempt was all there could be.
    session.info.flags.set(Flag::UpstreamRetryLimitExceeded);
    Err(())
}

/// One of several clusters, by weight.
pub fn pick_cluster(clusters: &[(Arc<ClusterSlot>, u64)], random: u64) -> Option<&Arc<ClusterSlot>> {
    let total = clusters.last()?.1;
    let at = if clusters.len() == 1 { 0 } else { random % total.max(1) };
    clusters.iter().find(|(_, upto)| at < *upto).or(clusters.first()).map(|(slot, _)| slot)
}

/// A host of a cluster: the balancer's choice, or where an `ORIGINAL_DST` cluster's connection was going.
pub fn choose_host(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    info: &StreamInfo,
    headers: Option<&HeaderMap>,
    avoid: &[u64],
) -> Option<Arc<Host>> {
    let Discovery::OriginalDst(config) = &cluster.discovery else { return worker.pick(cluster, avoid) };
    let Some(address) = original_destination(config, info, headers) else {
        cluster.stats.original_dst_host_invalid.inc();
        return None;
    };
    Some(worker.original(config, address))
}

/// Where a connection or request was going, as an `ORIGINAL_DST` cluster is told to look for it; its port override is left to the host.
pub fn original_destination(
    config: &OriginalDst,
    info: &StreamInfo,
    headers: Option<&HeaderMap>,
) -> Option<SocketAddr> {
    let connection = &info.connection;
    let from_header = || {
        let value = headers?.get(config.header.as_ref()?)?;
        Some(value.to_str().ok().and_then(waypost_filters::address::Address::parse_ip_port)?.socket())
    };
    let from_metadata = || {
        let (namespace, path) = config.metadata_key.as_ref()?;
        let value = connection.metadata.at(namespace, path.iter().map(String::as_str))?;
        Some(waypost_filters::address::Address::parse_ip_port(value.as_str()?)?.socket())
    };
    let from_filter_state = || match info.object("envoy.network.transport_socket.original_dst_address")? {
        Object::Address(a) => Some(a.socket()),
        _ => None,
    };
    let from_connection = || (connection.local != connection.direct_local).then(|| connection.local.socket());
    let address = if config.header.is_some()
        && headers.is_some_and(|h| config.header.as_ref().is_some_and(|n| h.contains_key(n)))
    {
        from_header()
    } else {
        from_metadata().or_else(from_filter_state).or_else(from_connection)
    };
    address.flatten()
}

async fn open_plain(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    sharing: &Sharing,
    speaks: Speaks,
    session: &mut Session,
) -> Result<Io, ConnectError> {
    let Some(permit) = cluster.limits.connections.take() else {
        cluster.stats.upstream_cx_overflow.inc();
        return Err(ConnectError::Overflow);
    };
    let asked = TlsOptions::of(host, &session.info);
    let connected = connect(worker, cluster, host, sharing, &asked, speaks, Some(permit)).await?;
    session.info.upstream.local = Some(connected.upstream.local.clone());
    session.info.upstream.tls = connected.upstream.tls.clone();
    session.info.upstream.connection_id = Some(connected.upstream.id);
    session._upstream = Some(connected.upstream);
    Ok(connected.io)
}

async fn open_tunnel(
    worker: &Rc<Worker>,
    tunneling: &Tunneling,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    sharing: &Sharing,
    session: &mut Session,
) -> Result<Io, ConnectError> {
    let authority = tunneling.hostname.evaluate(&FormatContext::of_info(&session.info)).unwrap_or_default();
    if cluster.http.protocol == UpstreamProtocol::Http1 {
        return open_h1_tunnel(worker, tunneling, cluster, host, sharing, session, authority).await;
    }
    let pool = worker.pool(cluster, host, sharing, &TlsOptions::of(host, &session.info), true);
    let mut stale = 0;
    let (lease, response, send) = loop {
        let lease = pool.h2(worker).await?;
        let upstream = lease.conn.upstream.clone();
        session.info.upstream.local = Some(upstream.local.clone());
        session.info.upstream.tls = upstream.tls.clone();
        session.info.upstream.protocol = Some(Protocol::Http2);
        session.info.upstream.connection_id = Some(upstream.id);
        let request = tunnel_request(tunneling, authority.clone(), session)?;
        let new = upstream.requests.get() == 0;
        upstream.requests.set(upstream.requests.get() + 1);
        let timeout = Instant::now() + cluster.connect_timeout;
        let mut sender = lease.conn.sender.clone();
        let sent = timeout_at(Some(timeout), async {
            std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
            sender.send_request(request, false)
        });
        let (error, unseen) = match sent.await {
            Some(Ok((response, send))) => match timeout_at(Some(timeout), response).await {
                Some(Ok(response)) => break (lease, response, send),
                // A goodbye that names an earlier stream: this one was not looked at (RFC 9113, 6.8), and nothing of the client's was sent.
                Some(Err(e)) => {
                    let unseen = e.is_remote() && e.is_go_away() && e.reason() == Some(Reason::NO_ERROR);
                    (e, unseen)
                }
                None => return Err(ConnectError::Timeout),
            },
            // The connection had ended or said goodbye unnoticed. Nothing was sent on it.
            Some(Err(e)) => (e, true),
            None => return Err(ConnectError::Timeout),
        };
        // An error of the connection, not of the stream: it can carry no more.
        if !error.is_reset() {
            lease.conn.retire();
        }
        // Another connection may be asked. One after another that is used no more is met once; a new one should not refuse.
        stale += u32::from(new);
        if !unseen || stale > STALE_LIMIT {
            return Err(ConnectError::Failed(error.to_string().into()));
        }
    };
    if !response.status().is_success() {
        return Err(ConnectError::Failed(format!("tunnel_response_{}", response.status().as_u16()).into()));
    }
    let tunnel = Tunnel::new(send, response.into_body());
    session.bytes = Some(tunnel.bytes.clone());
    session._lease = Some(lease);
    Ok(Io::Tunnel(tunnel))
}

fn invalid(what: &str) -> ConnectError {
    ConnectError::Failed(format!("tunnel:_invalid_{what}").into())
}

/// The head of the CONNECT (or POST) with the configured headers.
fn tunnel_request(tunneling: &Tunneling, authority: Vec<u8>, session: &Session) -> Result<Request<()>, ConnectError> {
    let authority =
        http::uri::Authority::from_maybe_shared(Bytes::from(authority)).map_err(|_| invalid("authority"))?;
    let (method, uri) = match &tunneling.post {
        None => (Method::CONNECT, Uri::from(authority)),
        Some(path) => {
            let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path.as_bytes()).build();
            (Method::POST, uri.map_err(|_| invalid("path"))?)
        }
    };
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    if !tunneling.headers.is_empty() {
        *request.headers_mut() = tunnel_headers(tunneling, session);
    }
    Ok(request)
}

fn tunnel_headers(tunneling: &Tunneling, session: &Session) -> HeaderMap {
    let mut info = StreamInfo::of_connection(
        session.info.connection.clone(),
        session.info.id,
        session.info.start,
        session.info.start_time,
    );
    info.upstream.host = session.info.upstream.host.clone();
    let request = RequestHead {
        method: Method::CONNECT,
        scheme: Scheme::Http,
        authority: None,
        path: None,
        upgrade: None,
        headers: HeaderMap::new(),
        original_path: None,
    };
    let mut stream =
        HttpStream { info, request, response: None, response_trailers: None, reroute: false, body: Default::default() };
    tunneling.headers.apply_request(&mut stream);
    stream.request.headers
}

/// A CONNECT over HTTP/1.1: a connection of its own, never pooled.
async fn open_h1_tunnel(
    worker: &Rc<Worker>,
    tunneling: &Tunneling,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    sharing: &Sharing,
    session: &mut Session,
    authority: Vec<u8>,
) -> Result<Io, ConnectError> {
    use crate::http::h1;
    let mut io = open_plain(worker, cluster, host, sharing, Speaks::Http1, session).await?;
    session.info.upstream.protocol = Some(Protocol::Http11);
    let method = if tunneling.post.is_some() { Method::POST } else { Method::CONNECT };
    let head = RequestHead {
        method: method.clone(),
        scheme: Scheme::Http,
        authority: Some(http::HeaderValue::from_maybe_shared(authority).map_err(|_| invalid("authority"))?),
        path: tunneling.post.as_ref().and_then(|p| http::HeaderValue::from_str(p).ok()),
        upgrade: None,
        headers: tunnel_headers(tunneling, session),
        original_path: None,
    };
    let mut out = WriteQueue::default();
    let framing = if tunneling.post.is_some() { h1::Framing::Chunked } else { h1::Framing::None };
    h1::encode_request(&head, framing, h1::Casing::Lower, out.tail());
    let (mut read, mut scan) = (bytes::BytesMut::new(), h1::ScanState::default());
    let limits = h1::ResponseLimits::default();
    let answered = timeout_at(Some(Instant::now() + cluster.connect_timeout), async {
        std::future::poll_fn(|cx| io.poll_drain(cx, &mut out)).await.map_err(|e| e.to_string())?;
        loop {
            match h1::parse_response(&mut read, &mut scan, &method, &limits) {
                Ok(Some(response)) => return Ok(response.head.status),
                Ok(None) => {}
                Err(e) => return Err(e.details.to_owned()),
            }
            let n = std::future::poll_fn(|cx| io.poll_fill(cx, &mut read)).await.map_err(|e| e.to_string())?;
            if n == 0 {
                return Err("connection termination".to_owned());
            }
        }
    })
    .await;
    match answered {
        Some(Ok(status)) if status.is_success() => Ok(io.with_prefix(read.freeze())),
        Some(Ok(status)) => Err(ConnectError::Failed(format!("tunnel_response_{}", status.as_u16()).into())),
        Some(Err(e)) => Err(ConnectError::Failed(e.into())),
        None => Err(ConnectError::Timeout),
    }
}
