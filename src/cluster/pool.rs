//! Connection pools of one worker: HTTP/1.1 connections that wait for their next request, HTTP/2 connections with their streams.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use tokio::sync::Notify;

use super::connect::{AutoSni, ConnectError, Connected, PENDING_LIMIT, Sharing, UpstreamInfo, connect};
use super::{Cluster, Host};
use crate::net::alarm::timeout_at;
use crate::net::{Io, WriteQueue};
use crate::worker::Worker;

/// What tells two pools of a worker apart. A host belongs to one version of one cluster, so neither is named here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The host.
    pub host: u64,
    /// Shared, hashable filter state (spec: `FilterState::Object` that is `Hashable`).
    pub sharing: u64,
    /// HTTP/2 and HTTP/1 do not share connections.
    pub h2: bool,
}

/// Connections of one worker to one host.
pub struct Pool {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    sharing: Sharing,
    idle: RefCell<Vec<(H1Conn, Instant)>>,
    multiplexed: RefCell<Vec<Rc<H2Conn>>>,
    connecting: Cell<bool>,
    /// Connections of HTTP/1 that this pool has, idle or not.
    open: Rc<Cell<u32>>,
    /// Rung when a connection may have become usable.
    changed: Notify,
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

struct OpenGuard(Rc<Cell<u32>>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
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
        self.conn.last_used.set(Instant::now());
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
    pub fn new(cluster: Arc<Cluster>, host: Arc<Host>, sharing: Sharing) -> Rc<Pool> {
        Rc::new(Pool {
            cluster,
            host,
            sharing,
            idle: RefCell::default(),
            multiplexed: RefCell::default(),
            connecting: Cell::new(false),
            open: Rc::default(),
            changed: Notify::new(),
        })
    }

    /// An idle HTTP/1.1 connection, if there is one that is still good.
    pub fn take_idle(&self) -> Option<H1Conn> {
        loop {
            let (mut conn, _) = self.idle.borrow_mut().pop()?;
            // Data or an end that nobody asked for: the connection is of no more use.
            if conn.read.is_empty() && !conn.io.is_readable(&mut Context::from_waker(Waker::noop())) {
                return Some(conn);
            }
        }
    }

    /// An HTTP/1.1 connection: an idle one, or a new one.
    pub async fn h1(self: &Rc<Pool>, worker: &Rc<Worker>, sni: AutoSni) -> Result<H1Conn, ConnectError> {
        if let Some(conn) = self.take_idle() {
            return Ok(conn);
        }
        let stats = &self.cluster.stats;
        stats.upstream_rq_pending_total.inc();
        let permit = self.cluster.limits.connections.take();
        // A pool without any connection gets one whatever the limit, or its requests would wait for ever (so does Envoy's).
        if permit.is_none() && self.open.get() > 0 {
            stats.upstream_cx_overflow.inc();
            return self.wait_idle().await;
        }
        let open = self.count_open();
        let Connected { io, upstream } = connect(worker, &self.cluster, &self.host, &self.sharing, sni, permit).await?;
        stats.upstream_cx_http1_total.inc();
        Ok(H1Conn { io, read: BytesMut::new(), out: WriteQueue::default(), upstream, _open: open })
    }

    fn count_open(&self) -> OpenGuard {
        self.open.set(self.open.get() + 1);
        OpenGuard(self.open.clone())
    }

    async fn wait_idle(&self) -> Result<H1Conn, ConnectError> {
        let stats = &self.cluster.stats;
        let Some(_pending) = self.cluster.limits.pending.take() else {
            stats.upstream_rq_pending_overflow.inc();
            return Err(ConnectError::Overflow);
        };
        stats.upstream_rq_pending_active.inc();
        let got = timeout_at(Some(Instant::now() + PENDING_LIMIT), async {
            loop {
                let changed = self.changed.notified();
                if let Some(conn) = self.take_idle() {
                    return conn;
                }
                changed.await;
            }
        })
        .await;
        stats.upstream_rq_pending_active.dec();
        got.ok_or(ConnectError::Timeout)
    }

    /// Takes back a connection whose exchange is over and that can carry another.
    pub fn put_back(&self, conn: H1Conn) {
        let http = &self.cluster.http;
        let spent = http.max_requests_per_connection;
        if spent != 0 && conn.upstream.requests.get() >= spent {
            self.cluster.stats.upstream_cx_max_requests.inc();
            drop(conn);
        } else if http.max_connection_duration.is_some_and(|d| conn.upstream.start.elapsed() >= d) {
            drop(conn);
        } else {
            self.idle.borrow_mut().push((conn, Instant::now()));
        }
        self.changed.notify_one();
    }

    /// Somebody's connection ended instead of coming back.
    pub fn lost(&self) {
        self.changed.notify_one();
    }

    /// A place for a stream on an HTTP/2 connection: one that has room, or a new one.
    pub async fn h2(self: &Rc<Pool>, worker: &Rc<Worker>, sni: AutoSni) -> Result<H2Lease, ConnectError> {
        loop {
            if let Some(lease) = self.lease() {
                return Ok(lease);
            }
            if self.connecting.get() {
                // One connection is made at a time: it usually has room for all who wait.
                self.changed.notified().await;
                continue;
            }
            self.connecting.set(true);
            let _done = Connecting(self.clone());
            self.cluster.stats.upstream_rq_pending_total.inc();
            let permit = self.cluster.limits.connections.take();
            if permit.is_none() && !self.multiplexed.borrow().is_empty() {
                self.cluster.stats.upstream_cx_overflow.inc();
                self.cluster.stats.upstream_rq_pending_overflow.inc();
                return Err(ConnectError::Overflow);
            }
            let connected = connect(worker, &self.cluster, &self.host, &self.sharing, sni.clone(), permit).await?;
            self.start_h2(connected).await?;
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
        let http = &self.cluster.http;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(http.h2.stream_window)
            .initial_connection_window_size(http.h2.connection_window)
            .header_table_size(http.h2.table_size)
            .max_header_list_size(u32::try_from(http.max_headers_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(self.cluster.buffer_limit)
            // Mass aborts of tunnels would otherwise end connections that are as good as ever.
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(1024)
            // Bigger frames than 16 KiB save work where bodies are large; ztunnel offers 1 MiB.
            .max_frame_size(64 * 1024)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(|e| ConnectError::Failed(e.to_string().into()))?;
        self.cluster.stats.upstream_cx_http2_total.inc();
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
        let timeout = self.cluster.http.idle_timeout;
        let expired = |since: Instant| timeout.is_some_and(|t| now.saturating_duration_since(since) >= t);
        let mut cx = Context::from_waker(Waker::noop());
        let mut idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.retain_mut(|(conn, since)| {
            let timed_out = expired(*since);
            if timed_out {
                self.cluster.stats.upstream_cx_idle_timeout.inc();
            }
            !timed_out && !conn.io.is_readable(&mut cx)
        });
        // Nobody else ran meanwhile: this is one synchronous call on the worker's thread.
        let mut slot = self.idle.borrow_mut();
        slot.splice(0..0, idle);
        let mut conns = self.multiplexed.borrow_mut();
        conns.retain(|c| {
            let timed_out = c.active.get() == 0 && expired(c.last_used.get());
            if timed_out {
                self.cluster.stats.upstream_cx_idle_timeout.inc();
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
