//! Making a connection to a host: a socket, TLS over it, or an internal listener of this process.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use waypost_filters::address::Address;
use waypost_filters::connection::{Connection, TlsSession};
use waypost_filters::filter_state::FilterState;
use waypost_filters::metadata::Metadata;

use super::limits::Permit;
use super::tls_options::{Speaks, TlsOptions};
use super::{Cluster, Host, Transport, next_id};
use crate::listener::drain::ChainState;
use crate::net::Io;
use crate::net::alarm::timeout_at;
use crate::net::exchange::exchange;
use crate::net::socket::{connect_tcp, connect_unix};
use crate::tls::{self, Target};
use crate::worker::Worker;

/// A connection that has been made.
pub struct Connected {
    /// The byte stream.
    pub io: Io,
    /// What is known of it.
    pub upstream: Rc<UpstreamInfo>,
}

/// What is known of an upstream connection. When the last user drops it, the connection is counted as gone.
pub struct UpstreamInfo {
    /// A number that no other connection of the process has.
    pub id: u64,
    /// Its cluster.
    pub cluster: Arc<Cluster>,
    /// Its host.
    pub host: Arc<Host>,
    /// Our address.
    pub local: Address,
    /// The TLS session.
    pub tls: Option<Arc<TlsSession>>,
    /// When it was made.
    pub start: Instant,
    /// Requests that were sent on it.
    pub requests: Cell<u32>,
    _permit: Option<Permit>,
    guard: Guard,
}

/// What lives as long as an upstream connection: the far side of a fused internal hop.
pub type Guard = Option<FarSide>;

/// The far side of a fused internal hop.
pub struct FarSide {
    /// Whether the filter chain that it is on serves still.
    pub chain: Arc<ChainState>,
    /// Logged when it ends.
    pub session: Box<dyn std::any::Any>,
}

impl UpstreamInfo {
    /// Whether it goes through a filter chain of an internal listener that drains: what is new takes another one.
    pub fn leaves(&self) -> bool {
        self.guard.as_ref().is_some_and(|g| g.chain.is_leaving())
    }
}

impl std::fmt::Debug for UpstreamInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamInfo").field("id", &self.id).field("host", &self.host.info.address).finish()
    }
}

impl Drop for UpstreamInfo {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        stats.upstream_cx_length_ms.record(self.start.elapsed().as_millis() as u64);
        self.host.state.counts.connections_active.fetch_sub(1, Relaxed);
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection failed; the text is `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    #[error("{0}")]
    Failed(Arc<str>),
    /// It took longer than `connect_timeout`.
    #[error("connection timeout")]
    Timeout,
    /// An internal connection was made, and then what is behind it failed: seen as a connection that ends.
    #[error("connection termination")]
    Terminated,
    /// A circuit breaker is open.
    #[error("overflow")]
    Overflow,
}

/// What a stream shares with its upstream connections through `internal_upstream`.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    /// Filter state as the far side sees it.
    pub filter_state: FilterState,
    /// Hash over what of it is part of a pool's key; 0 for nothing.
    pub key: u64,
}

/// Clients choose much of what is hashed: with keys of the process's own they cannot choose what collides.
pub(super) static KEYS: std::sync::LazyLock<std::hash::RandomState> =
    std::sync::LazyLock::new(std::hash::RandomState::new);

impl Sharing {
    /// What a stream and its connection share.
    pub fn of(connection: &Connection, stream: Option<&FilterState>) -> Sharing {
        let stream = stream.filter(|s| s.shares());
        if stream.is_none() && !connection.filter_state.shares() {
            return Sharing::default();
        }
        let mut hasher = std::hash::BuildHasher::build_hasher(&*KEYS);
        let mut filter_state = connection.filter_state.for_upstream();
        connection.filter_state.hash_shared(&mut hasher);
        if let Some(stream) = stream {
            stream.hash_shared(&mut hasher);
            for entry in stream.for_upstream().iter() {
                filter_state.set(entry.clone());
            }
        }
        Sharing { filter_state, key: std::hash::Hasher::finish(&hasher).max(1) }
    }

    /// Whether what is part of a pool's key is the same, not only its hash.
    pub fn same_key(&self, other: &Sharing) -> bool {
        let hashable = |s: &Sharing| s.filter_state.iter().filter(|e| e.object.is_hashable()).count();
        self.key == other.key
            && hashable(self) == hashable(other)
            && self
                .filter_state
                .iter()
                .filter(|e| e.object.is_hashable())
                .all(|e| other.filter_state.get(&e.key) == Some(&e.object))
    }
}

/// The host and cluster metadata that go along with an internal connection (`passthrough_metadata`).
pub fn passthrough(transport: &Transport, cluster: &Cluster, host: &Host) -> Metadata {
    let mut out = Metadata::default();
    if let Transport::Internal { passthrough, .. } = transport {
        for p in passthrough {
            let from = if p.from_host { &host.info.metadata } else { &cluster.metadata };
            if let Some(v) = from.get(&p.name) {
                out.set(p.name.clone(), v.clone());
            }
        }
    }
    out
}

/// Connects to a host within `connect_timeout`.
pub async fn connect(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    sharing: &Sharing,
    asked: &TlsOptions,
    speaks: Speaks,
    permit: Option<Permit>,
) -> Result<Connected, ConnectError> {
    let stats = &cluster.stats;
    let start = Instant::now();
    stats.upstream_cx_total.inc();
    host.state.counts.connections.fetch_add(1, Relaxed);
    let made =
        timeout_at(Some(start + cluster.connect_timeout), open(worker, cluster, host, sharing, asked, speaks)).await;
    let error = match made {
        Some(Ok((io, local, tls, guard))) => {
            stats.upstream_cx_active.inc();
            stats.upstream_cx_connect_ms.record(start.elapsed().as_millis() as u64);
            host.state.counts.connections_active.fetch_add(1, Relaxed);
            let upstream = UpstreamInfo {
                id: next_id(),
                cluster: cluster.clone(),
                host: host.clone(),
                local,
                tls,
                start,
                requests: Cell::new(0),
                _permit: permit,
                guard,
            };
            return Ok(Connected { io, upstream: Rc::new(upstream) });
        }
        Some(Err(e)) => e,
        None => {
            stats.upstream_cx_connect_timeout.inc();
            ConnectError::Timeout
        }
    };
    stats.upstream_cx_connect_fail.inc();
    stats.upstream_cx_destroy.inc();
    host.state.counts.connect_failures.fetch_add(1, Relaxed);
    Err(error)
}

type Opened = (Io, Address, Option<Arc<TlsSession>>, Guard);

async fn open(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    sharing: &Sharing,
    asked: &TlsOptions,
    speaks: Speaks,
) -> Result<Opened, ConnectError> {
    let transport = &*host.transport;
    let (io, local, guard) = match &host.info.address {
        Address::Ip(to) => {
            let mut tcp = connect_tcp(*to, cluster.bind, cluster.keepalive).await;
            for other in host.additional.iter().filter_map(Address::socket) {
                if tcp.is_ok() {
                    break;
                }
                tcp = connect_tcp(other, cluster.bind, cluster.keepalive).await;
            }
            let tcp = tcp.map_err(|e| failed(&e))?;
            let local = tcp.local_addr().map_err(|e| failed(&e))?;
            (Io::Tcp(tcp), Address::Ip(local), None)
        }
        Address::Pipe(path) => {
            let unix = connect_unix(path).await.map_err(|e| failed(&e))?;
            (Io::Unix(unix), Address::Pipe(Arc::from("")), None)
        }
        Address::Internal { listener, .. } => {
            let metadata = passthrough(transport, cluster, host);
            let remote = Address::Internal { listener: "internal_client_address".into(), endpoint_id: "".into() };
            let (io, guard) =
                crate::listener::internal::connect(worker, listener, sharing.filter_state.clone(), metadata).await?;
            (io, remote, guard)
        }
    };
    let inner = match transport {
        Transport::Internal { inner, .. } => inner,
        other => other,
    };
    match inner {
        Transport::Raw | Transport::Internal { .. } => Ok((io, local, None, guard)),
        Transport::Tls(context) => {
            // The stream's names go before the context's, and those before what the protocol is called.
            let by_protocol = || speaks.alpn().filter(|_| !context.0.has_alpn());
            let target = Target {
                sni: asked.sni.as_deref(),
                host: Some(&host.info.hostname).map(|h| &**h).filter(|h| !h.is_empty()),
                match_san: cluster.http.auto_san_validation,
                alpn: asked.alpn.as_deref().or_else(by_protocol),
            };
            let (mut io, session) =
                tls::connect(&context.0, io, target, cluster.ssl.as_deref()).await.map_err(ConnectError::Failed)?;
            if let Some(filter) = cluster.exchange.as_ref().filter(|f| f.agreed(&session)) {
                io = exchange(io, filter).await.map_err(|e| failed(&e))?;
            }
            Ok((io, local, Some(session), guard))
        }
    }
}

/// Envoy's wording of a failed connect: `delayed_connect_error:_Connection_refused`.
fn failed(e: &io::Error) -> ConnectError {
    let text = match e.kind() {
        io::ErrorKind::ConnectionRefused => "Connection_refused".to_owned(),
        io::ErrorKind::ConnectionReset => "Connection_reset_by_peer".to_owned(),
        io::ErrorKind::NetworkUnreachable => "Network_is_unreachable".to_owned(),
        io::ErrorKind::HostUnreachable => "No_route_to_host".to_owned(),
        io::ErrorKind::TimedOut => "Connection_timed_out".to_owned(),
        io::ErrorKind::NotFound => "No_such_file_or_directory".to_owned(),
        _ => e.to_string().replace(' ', "_"),
    };
    ConnectError::Failed(format!("delayed_connect_error:_{text}").into())
}

/// How long a request may wait in a pool for a connection that somebody else has; bounded so that nothing waits for ever.
pub const PENDING_LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_filters::filter_state::{Entry, Object, Shared};

    fn sharing(principal: &str, other: &str) -> Sharing {
        let mut connection = Connection::new(Address::Pipe("".into()), Address::Pipe("".into()));
        for (key, object) in [("p", Object::HashableString(principal.into())), ("o", Object::String(other.into()))] {
            connection.filter_state.set(Entry { key: key.into(), object, shared: Shared::Once, read_only: true });
        }
        Sharing::of(&connection, None)
    }

    #[test]
    fn only_the_same_hashable_objects_share_connections_whatever_their_hash() {
        let (a, mut b) = (sharing("a", "1"), sharing("b", "1"));
        assert!(a.same_key(&sharing("a", "2")), "what is not hashable is no part of the key");
        assert_ne!(a.key, b.key);
        b.key = a.key;
        assert!(!a.same_key(&b) && !a.same_key(&Sharing::default()));
    }
}
