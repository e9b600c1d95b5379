//! Connection pools of one worker: HTTP/1.1 connections that wait for their next request, HTTP/2 connections with their streams.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use tokio::sync::Notify;

use super::connect::{ConnectError, Connected, PENDING_LIMIT, Sharing, UpstreamInfo, connect};
use super::limits::Permit;
use super::tls_options::{Speaks, TlsOptions};
use super::{Cluster, Host, UpstreamProtocol};
use crate::net::alarm::timeout_at;
use crate::net::{Io, WriteQueue, clock};
use crate::worker::Worker;

/// What tells two pools of a worker apart. A host belongs to one version of one cluster, so neither is named here. Hashes only find a
/// pool: [`Pool::serves`] compares what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The host.
    pub host: u64,
    /// Shared, hashable filter state (spec: `FilterState::Object` that is `Hashable`).
    pub sharing: u64,
    /// Hash of what streams ask of TLS.
    pub asked: u64,
    /// HTTP/2 and HTTP/1 do not share connections.
    pub h2: bool,
}

/// Connections of one worker to one host.
pub struct Pool {
    /// The newest version of the cluster, and of the host, that a request came with.
    cluster: RefCell<Arc<Cluster>>,
    host: RefCell<Arc<Host>>,
    sharing: Sharing,
    asked: TlsOptions,
    idle: RefCell<Vec<(H1Conn, Instant)>>,
    multiplexed: RefCell<Vec<Rc<H2Conn>>>,
    connecting: Cell<bool>,
    /// The number of the last attempt at an HTTP/2 connection, and the last one that failed: those who waited for it fail with it.
    attempt: Cell<u64>,
    failed: RefCell<Option<(u64, ConnectError)>>,
    /// Whether the host chose HTTP/1 when it was last asked (ALPN).
    chose_h1: Cell<bool>,
    /// Connections of HTTP/1 that this pool has, idle or not.
    open: Rc<Cell<u32>>,
    /// Rung when a connection may have become usable.
    changed: Rc<Notify>,
}

/// An HTTP/1.1 connection to a host.
pub struct H1Conn {
    /// The byte stream.
    pub io: Io,
    /// What has been read of it and not used.
    pub read: BytesMut,
    /// What is to be written.
    pub out: WriteQueue,
    /// What is known of it.
    pub upstream: Rc<UpstreamInfo>,
    _open: OpenGuard,
}

/// Counts a connection; when it is gone, somebody may have its place.
struct OpenGuard(Rc<Cell<u32>>, Rc<Notify>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
        self.1.notify_one();
    }
}

/// An HTTP/2 connection to a host.
pub struct H2Conn {
    /// For opening streams.
    pub sender: SendRequest<Bytes>,
    /// What is known of it.
    pub upstream: Rc<UpstreamInfo>,
    active: Cell<u32>,
    closed: Cell<bool>,
    last_used: Cell<Instant>,
}

/// One stream's place on an HTTP/2 connection.
pub struct H2Lease {
    /// The connection.
    pub conn: Rc<H2Conn>,
    pool: Rc<Pool>,
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        self.conn.active.set(self.conn.active.get().saturating_sub(1));
        self.conn.last_used.set(clock::now());
        self.pool.changed.notify_one();
    }
}

impl H2Conn {
    /// How many streams may be open at once: the peer's setting, or ours where that is lower.
    fn capacity(&self) -> u32 {
        let peer = u32::try_from(self.sender.current_max_send_streams()).unwrap_or(u32::MAX);
        peer.min(self.upstream.cluster.http.h2.max_concurrent_streams)
    }

    fn usable(&self) -> bool {
        let http = &self.upstream.cluster.http;
        let spent = http.max_requests_per_connection;
        !self.closed.get()
            && !self.upstream.leaves()
            && (spent == 0 || self.upstream.requests.get() < spent)
            && http.max_connection_duration.is_none_or(|d| self.upstream.start.elapsed() < d)
    }

    /// The connection takes no more streams (GOAWAY, an error).
    pub fn retire(&self) {
        self.closed.set(true);
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(cluster: Arc<Cluster>, host: Arc<Host>, sharing: Sharing, asked: TlsOptions) -> Rc<Pool> {
        Rc::new(Pool {
            cluster: RefCell::new(cluster),
            host: RefCell::new(host),
            sharing,
            asked,
            idle: RefCell::default(),
            multiplexed: RefCell::default(),
            connecting: Cell::new(false),
            attempt: Cell::new(0),
            failed: RefCell::default(),
            chose_h1: Cell::new(false),
            open: Rc::default(),
            changed: Rc::default(),
        })
    }

    /// Whether its connections are for streams that share this and ask for this.
    pub fn serves(&self, sharing: Option<&Sharing>, asked: &TlsOptions) -> bool {
        self.asked == *asked && sharing.is_none_or(|s| s.same_key(&self.sharing))
    }

    /// Follows its cluster and its host, which may have changed since the last request. A request that began before does not turn it back.
    pub fn follow(&self, cluster: &Arc<Cluster>, host: &Arc<Host>) {
        let mut current = self.cluster.borrow_mut();
        if current.id < cluster.id {
            current.clone_from(cluster);
        }
        let mut current = self.host.borrow_mut();
        if !Arc::ptr_eq(&current, host) {
            current.clone_from(host);
        }
    }

    /// Whether no host set holds its host any more.
    fn retired(&self) -> bool {
        self.host.borrow().state.retired()
    }

    /// An idle HTTP/1.1 connection, if there is one that is still good.
    pub fn take_idle(&self) -> Option<H1Conn> {
        loop {
            let (mut conn, _) = self.idle.borrow_mut().pop()?;
            // Data or an end that nobody asked for: the connection is of no more use.
            if conn.read.is_empty()
                && !conn.upstream.leaves()
                && !conn.io.is_readable(&mut Context::from_waker(Waker::noop()))
            {
                return Some(conn);
            }
        }
    }

    /// An HTTP/1.1 connection: an idle one, or a new one.
    pub async fn h1(self: &Rc<Pool>, worker: &Rc<Worker>) -> Result<H1Conn, ConnectError> {
        self.h1_if_chosen(worker).await?.ok_or_else(wrong_protocol)
    }

    /// The same; none if the host was asked (ALPN) and chose HTTP/2.
    async fn h1_if_chosen(self: &Rc<Pool>, worker: &Rc<Worker>) -> Result<Option<H1Conn>, ConnectError> {
        let mut pending: Option<Pending> = None;
        loop {
            if let Some(conn) = self.take_idle() {
                return Ok(Some(conn));
            }
            let cluster = self.cluster.borrow().clone();
            let stats = &cluster.stats;
            let permit = cluster.limits.connections.take();
            // A pool without any connection gets one whatever the limit, or its requests would wait for ever (so does Envoy's).
            if permit.is_some() || self.open.get() == 0 {
                stats.upstream_rq_pending_total.inc();
                let open = OpenGuard::new(self);
                let host = self.host.borrow().clone();
                let speaks = chosen_by_host(&cluster).unwrap_or(Speaks::Http1);
                let connected = connect(worker, &cluster, &host, &self.sharing, &self.asked, speaks, permit).await?;
                return match self.negotiated_h1(&connected.upstream) {
                    false => {
                        drop(open);
                        self.start_h2(connected).await?;
                        Ok(None)
                    }
                    true => Ok(Some(self.began_h1(connected, open))),
                };
            }
            let until = match &pending {
                Some(p) => p.until,
                None => {
                    stats.upstream_rq_pending_total.inc();
                    stats.upstream_cx_overflow.inc();
                    pending.insert(Pending::new(&cluster)?).until
                }
            };
            // A connection may come back, or end and leave its place.
            timeout_at(Some(until), self.changed.notified()).await.ok_or(ConnectError::Timeout)?;
        }
    }

    fn began_h1(&self, connected: Connected, open: OpenGuard) -> H1Conn {
        let Connected { io, upstream } = connected;
        upstream.cluster.stats.upstream_cx_http1_total.inc();
        H1Conn { io, read: BytesMut::new(), out: WriteQueue::default(), upstream, _open: open }
    }

    /// Whether HTTP/1 is spoken on a new connection, where the host may choose; remembers its choice.
    fn negotiated_h1(&self, upstream: &UpstreamInfo) -> bool {
        let alpn = upstream.cluster.http.protocol == UpstreamProtocol::Alpn;
        if alpn {
            let h2 = upstream.tls.as_ref().is_some_and(|t| t.alpn.as_deref() == Some("h2"));
            self.chose_h1.set(!h2);
        }
        // Without a choice nobody asks.
        self.chose_h1.get() || !alpn
    }

    /// A place on a connection of whichever protocol the host chooses.
    pub async fn negotiated(self: &Rc<Pool>, worker: &Rc<Worker>) -> Result<Place, ConnectError> {
        loop {
            if self.chose_h1.get() {
                if let Some(conn) = self.h1_if_chosen(worker).await? {
                    return Ok(Place::H1(conn));
                }
            } else if let Some(lease) = self.h2_if_chosen(worker).await? {
                return Ok(Place::H2(lease));
            }
        }
    }

    /// Takes back a connection whose exchange is over and that can carry another.
    pub fn put_back(&self, conn: H1Conn) {
        let cluster = self.cluster.borrow();
        let http = &cluster.http;
        let spent = http.max_requests_per_connection;
        if spent != 0 && conn.upstream.requests.get() >= spent {
            cluster.stats.upstream_cx_max_requests.inc();
            drop(conn);
        } else if self.retired() || http.max_connection_duration.is_some_and(|d| conn.upstream.start.elapsed() >= d) {
            drop(conn);
        } else {
            self.idle.borrow_mut().push((conn, clock::now()));
        }
        self.changed.notify_one();
    }

    /// Somebody's connection ended instead of coming back.
    pub fn lost(&self) {
        self.changed.notify_one();
    }

    /// A place for a stream on an HTTP/2 connection: one that has room, or a new one.
    pub async fn h2(self: &Rc<Pool>, worker: &Rc<Worker>) -> Result<H2Lease, ConnectError> {
        self.h2_if_chosen(worker).await?.ok_or_else(wrong_protocol)
    }

    /// The same; none if the host was asked (ALPN) and chose HTTP/1. The connection that told is idle then.
    async fn h2_if_chosen(self: &Rc<Pool>, worker: &Rc<Worker>) -> Result<Option<H2Lease>, ConnectError> {
        let mut waited_for: Option<u64> = None;
        loop {
            if let Some(lease) = self.lease() {
                return Ok(Some(lease));
            }
            if let Some(attempt) = waited_for {
                if self.chose_h1.get() {
                    return Ok(None);
                }
                // One after another they would each wait for `connect_timeout` at a host that does not answer.
                if let Some((failed, error)) = &*self.failed.borrow()
                    && *failed >= attempt
                {
                    return Err(error.clone());
                }
            }
            if self.connecting.get() {
                // One connection is made at a time: it usually has room for all who wait.
                waited_for = Some(self.attempt.get());
                self.changed.notified().await;
                continue;
            }
            self.connecting.set(true);
            let _done = Connecting(self.clone());
            self.attempt.set(self.attempt.get() + 1);
            let (cluster, host) = (self.cluster.borrow().clone(), self.host.borrow().clone());
            let speaks = chosen_by_host(&cluster).unwrap_or(Speaks::Http2);
            cluster.stats.upstream_rq_pending_total.inc();
            let permit = cluster.limits.connections.take();
            if permit.is_none() && !self.multiplexed.borrow().is_empty() {
                cluster.stats.upstream_cx_overflow.inc();
                cluster.stats.upstream_rq_pending_overflow.inc();
                return Err(ConnectError::Overflow);
            }
            let made = match connect(worker, &cluster, &host, &self.sharing, &self.asked, speaks, permit).await {
                Ok(c) if cluster.http.protocol == UpstreamProtocol::Alpn && self.negotiated_h1(&c.upstream) => {
                    let conn = self.began_h1(c, OpenGuard::new(self));
                    self.idle.borrow_mut().push((conn, Instant::now()));
                    return Ok(None);
                }
                Ok(c) => self.start_h2(c).await,
                Err(e) => Err(e),
            };
            if let Err(error) = made {
                self.failed.replace(Some((self.attempt.get(), error.clone())));
                return Err(error);
            }
        }
    }

    fn lease(self: &Rc<Pool>) -> Option<H2Lease> {
        let conns = self.multiplexed.borrow();
        let conn = conns.iter().find(|c| c.usable() && c.active.get() < c.capacity())?.clone();
        drop(conns);
        conn.active.set(conn.active.get() + 1);
        Some(H2Lease { conn, pool: self.clone() })
    }

    /// Starts HTTP/2 on a new connection.
    async fn start_h2(self: &Rc<Pool>, connected: Connected) -> Result<(), ConnectError> {
        let Connected { io, upstream } = connected;
        let cluster = upstream.cluster.clone();
        let http = &cluster.http;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(http.h2.stream_window)
            .initial_connection_window_size(http.h2.connection_window)
            .header_table_size(http.h2.table_size)
            .max_header_list_size(u32::try_from(http.max_headers_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(cluster.buffer_limit)
            // Mass aborts of tunnels would otherwise end connections that are as good as ever.
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(1024)
            // Bigger frames than 16 KiB save work where bodies are large; ztunnel offers 1 MiB.
            .max_frame_size(64 * 1024)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(|e| ConnectError::Failed(e.to_string().into()))?;
        cluster.stats.upstream_cx_http2_total.inc();
        let conn = Rc::new(H2Conn {
            sender,
            upstream,
            active: Cell::new(0),
            closed: Cell::new(false),
            last_used: Cell::new(Instant::now()),
        });
        // The driver must not hold the sender: a connection whose last handle is dropped ends, and so does the driver.
        let (driven, pool) = (Rc::downgrade(&conn), Rc::downgrade(self));
        let upstream = conn.upstream.clone();
        self.multiplexed.borrow_mut().push(conn);
        let keepalive = http.h2.keepalive;
        tokio::task::spawn_local(async move {
            drive(connection, keepalive).await;
            if let Some(conn) = driven.upgrade() {
                conn.retire();
            }
            if let Some(pool) = pool.upgrade() {
                pool.multiplexed.borrow_mut().retain(|c| !c.closed.get());
                pool.changed.notify_waiters();
            }
            drop(upstream);
        });
        Ok(())
    }

    /// Closes what the peer has closed, what is idle too long and what takes no more streams. False when the pool is empty.
    pub fn sweep(&self, now: Instant) -> bool {
        if self.retired() {
            self.close_idle();
        }
        let cluster = self.cluster.borrow();
        let timeout = cluster.http.idle_timeout;
        let expired = |since: Instant| timeout.is_some_and(|t| now.saturating_duration_since(since) >= t);
        let mut cx = Context::from_waker(Waker::noop());
        let mut idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.retain_mut(|(conn, since)| {
            let timed_out = expired(*since);
            if timed_out {
                cluster.stats.upstream_cx_idle_timeout.inc();
            }
            !timed_out && !conn.upstream.leaves() && !conn.io.is_readable(&mut cx)
        });
        // Nobody else ran meanwhile: this is one synchronous call on the worker's thread.
        let mut slot = self.idle.borrow_mut();
        slot.splice(0..0, idle);
        let mut conns = self.multiplexed.borrow_mut();
        conns.retain(|c| {
            let timed_out = c.active.get() == 0 && expired(c.last_used.get());
            if timed_out {
                cluster.stats.upstream_cx_idle_timeout.inc();
            }
            !timed_out && (c.usable() || c.active.get() > 0)
        });
        !(slot.is_empty() && conns.is_empty() && self.open.get() == 0 && !self.connecting.get())
    }

    /// Closes all that is idle, and lets what is busy end.
    pub fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        self.multiplexed.borrow_mut().iter().for_each(|c| c.retire());
    }
}

impl OpenGuard {
    fn new(pool: &Pool) -> OpenGuard {
        pool.open.set(pool.open.get() + 1);
        OpenGuard(pool.open.clone(), pool.changed.clone())
    }
}

#[allow(clippy::large_enum_variant, reason = "handed on once, at the beginning of an exchange")]
/// A place in a pool that lets the host choose the protocol.
pub enum Place {
    /// An HTTP/1.1 connection.
    H1(H1Conn),
    /// A stream's place on an HTTP/2 connection.
    H2(H2Lease),
}

/// What is spoken where the host chooses.
fn chosen_by_host(cluster: &Cluster) -> Option<Speaks> {
    (cluster.http.protocol == UpstreamProtocol::Alpn).then_some(Speaks::Http)
}

fn wrong_protocol() -> ConnectError {
    ConnectError::Failed("the host chose another protocol".into())
}

/// A request that waits for a connection; counted until it has one or gives up.
struct Pending {
    cluster: Arc<Cluster>,
    until: Instant,
    _permit: Permit,
}

impl Pending {
    fn new(cluster: &Arc<Cluster>) -> Result<Pending, ConnectError> {
        let Some(permit) = cluster.limits.pending.take() else {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(ConnectError::Overflow);
        };
        cluster.stats.upstream_rq_pending_active.inc();
        Ok(Pending { cluster: cluster.clone(), until: Instant::now() + PENDING_LIMIT, _permit: permit })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_pending_active.dec();
    }
}

struct Connecting(Rc<Pool>);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.changed.notify_waiters();
        self.0.changed.notify_one();
    }
}

/// Runs an HTTP/2 client connection to its end, with keepalive pings if the cluster asks for them.
async fn drive(
    mut connection: h2::client::Connection<Io, Bytes>,
    keepalive: Option<(std::time::Duration, std::time::Duration)>,
) {
    let Some((interval, timeout)) = keepalive else {
        let _ = connection.await;
        return;
    };
    let Some(mut pings) = connection.ping_pong() else { return };
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = tokio::time::sleep(interval) => {}
        }
        tokio::select! {
            _ = connection.as_mut() => return,
            answer = timeout_at(Some(Instant::now() + timeout), pings.ping(h2::Ping::opaque())) => {
                if !matches!(answer, Some(Ok(_))) {
                    return;
                }
            }
        }
    }
}
