//! A connection under the HTTP connection manager: which codec it speaks, and its streams one after another or side by side.

use std::cell::{Cell, OnceCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::header;
use tokio::sync::futures::Notified;
use waypost_filters::connection::{Connection, Direction};
use waypost_filters::head::{Protocol, Scheme};
use waypost_filters::stream::WireBytes;

use super::config::{Codec, HeaderCasing, HttpConnectionManager, Underscores};
use super::downstream::{Downstream, H1Server};
use super::h1::{self, H1Error, ParsedRequest, RequestLimits};
use super::stream::{self, Received};
use super::watch::Watch;
use crate::listener::drain::ChainState;
use crate::listener::serve::Served;
use crate::net::{Alarm, Io, clock};
use crate::worker::Worker;

mod serve_h2;

/// What tells an HTTP/2 connection from HTTP/1: as much of its preface (RFC 9113, 3.4) as Envoy looks at.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// Envoy's `overload.premature_reset_total_stream_count`: from half of so many streams that were reset before they were answered, a
/// connection is taken for an attack (CVE-2023-44487).
const PREMATURE_RESET_STREAMS: u32 = 500;

/// How long a stream may have lived to count as reset prematurely (Envoy: `overload.premature_reset_min_stream_lifetime_seconds`, 1 s).
pub const PREMATURE: Duration = Duration::from_secs(1);

/// What may wait to be written to an HTTP/1 client before its host is held back; Envoy's `per_connection_buffer_limit_bytes`.
const BUFFER_LIMIT: usize = 1 << 20;

/// A connection while it is served.
pub struct HttpConnection {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// Its configuration.
    pub hcm: Arc<HttpConnectionManager>,
    /// Whether its filter chain serves still.
    pub chain: Arc<ChainState>,
    /// What is known of it.
    pub info: Arc<Connection>,
    /// When it was given to the connection manager.
    start: Instant,
    /// Set when it takes no more requests: its age, its count of requests.
    pub closing: Cell<bool>,
    requests: Cell<u32>,
    active: Cell<u32>,
    last_active: Cell<Instant>,
    closed_streams: Cell<u32>,
    premature_resets: Cell<u32>,
    /// Bytes of HTTP/2 streams that have ended, received and sent, where there is a log to show them.
    bytes: Cell<(u64, u64)>,
    /// Rung when the HTTP/2 loop has to look at `closing` and the reset counts.
    changed: tokio::sync::Notify,
    h2: Cell<bool>,
    /// What its frames have shown, if it is HTTP/2.
    watch: OnceCell<Rc<Watch>>,
}

impl HttpConnection {
    fn new(
        worker: &Rc<Worker>,
        hcm: &Arc<HttpConnectionManager>,
        chain: &Arc<ChainState>,
        info: Arc<Connection>,
    ) -> HttpConnection {
        let now = Instant::now();
        hcm.stats.downstream_cx_total.inc();
        hcm.stats.downstream_cx_active.inc();
        if info.tls.is_some() {
            hcm.stats.downstream_cx_ssl_total.inc();
            hcm.stats.downstream_cx_ssl_active.inc();
        }
        HttpConnection {
            worker: worker.clone(),
            hcm: hcm.clone(),
            chain: chain.clone(),
            info,
            start: now,
            closing: Cell::new(false),
            requests: Cell::new(0),
            active: Cell::new(0),
            last_active: Cell::new(now),
            closed_streams: Cell::new(0),
            premature_resets: Cell::new(0),
            bytes: Cell::new((0, 0)),
            changed: tokio::sync::Notify::new(),
            h2: Cell::new(false),
            watch: OnceCell::new(),
        }
    }

    /// Why the codec gave the connection up, if it did.
    pub fn codec_error(&self) -> Option<&'static str> {
        self.watch.get().and_then(|w| w.error()).filter(|details| !details.is_empty())
    }

    /// A number for a new stream.
    pub fn next_stream(&self) -> u64 {
        self.worker.next_stream()
    }

    /// Counts a request; the last one that the connection may have closes it.
    fn count_request(&self) {
        let n = self.requests.get() + 1;
        self.requests.set(n);
        let max = self.hcm.limits.max_requests_per_connection;
        if max != 0 && n >= max && !self.closing.replace(true) {
            self.hcm.stats.downstream_cx_max_requests_reached.inc();
        }
    }

    /// Whether a response now has to say that the connection ends.
    pub fn ends(&self) -> bool {
        let shared = &self.worker.shared;
        if !self.closing.get() {
            if self.max_age_at().is_some_and(|at| Instant::now() >= at) {
                self.hcm.stats.downstream_cx_max_duration_reached.inc();
                self.closing.set(true);
            } else if self.drains() {
                self.hcm.stats.downstream_cx_drain_close.inc();
                self.closing.set(true);
            } else if shared.overload.disables_keepalive() {
                self.closing.set(true);
            }
        }
        self.closing.get()
    }

    /// Whether the process drains, or the filter chain.
    fn drains(&self) -> bool {
        let (drain, random) = (&self.worker.shared.drain, self.worker.random());
        drain.closes(self.info.direction == Direction::Inbound, random) || self.chain.closes(drain, random)
    }

    /// Tells the HTTP/2 loop to say goodbye.
    pub fn go_away(&self) {
        self.closing.set(true);
        self.changed.notify_one();
    }

    fn max_age_at(&self) -> Option<Instant> {
        self.hcm.timeouts.max_connection_duration.map(|d| self.start + d)
    }

    /// Adds up the bytes of HTTP/2 streams.
    pub fn count_bytes(&self, wire: WireBytes) {
        let (received, sent) = self.bytes.get();
        self.bytes.set((received + wire.received, sent + wire.sent));
    }

    /// Notes how a stream ended: too many that the client resets unanswered end the connection.
    pub fn stream_ended(&self, premature_reset: bool) {
        self.closed_streams.set(self.closed_streams.get() + 1);
        if premature_reset {
            self.premature_resets.set(self.premature_resets.get() + 1);
            if self.is_attacked() {
                self.changed.notify_one();
            }
        }
    }

    fn is_attacked(&self) -> bool {
        let (closed, premature) = (self.closed_streams.get(), self.premature_resets.get());
        if closed < PREMATURE_RESET_STREAMS { premature >= PREMATURE_RESET_STREAMS / 2 } else { premature > closed / 2 }
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        let stats = &self.hcm.stats;
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        stats.downstream_cx_length_ms.record(self.start.elapsed().as_millis() as u64);
        if self.info.tls.is_some() {
            stats.downstream_cx_ssl_active.dec();
        }
        if self.requests.get() > 0 || self.h2.get() {
            if self.h2.get() { stats.downstream_cx_http2_active.dec() } else { stats.downstream_cx_http1_active.dec() }
        }
    }
}

/// Serves a connection to its end. `read` has been read from it already.
pub async fn serve(
    worker: &Rc<Worker>,
    hcm: &Arc<HttpConnectionManager>,
    chain: &Arc<ChainState>,
    mut io: Io,
    mut read: BytesMut,
    info: Arc<Connection>,
) -> Served {
    let connection = HttpConnection::new(worker, hcm, chain, info);
    let h2 = match hcm.codec {
        Codec::Http1 => Some(false),
        Codec::Http2 => Some(true),
        Codec::Auto => match connection.info.tls.as_ref().and_then(|t| t.alpn.as_deref()) {
            Some("h2") => Some(true),
            Some(_) => Some(false),
            None => sniff(&connection, &mut io, &mut read).await,
        },
    };
    match h2 {
        // The codec would write before it has read; Envoy's does not.
        Some(true) if hcm.codec != Codec::Auto && sniff(&connection, &mut io, &mut read).await != Some(true) => {
            hcm.stats.downstream_cx_protocol_error.inc();
            Served::default()
        }
        Some(true) => {
            connection.h2.set(true);
            hcm.stats.downstream_cx_http2_total.inc();
            hcm.stats.downstream_cx_http2_active.inc();
            let connection = Rc::new(connection);
            serve_h2::serve_h2(connection.clone(), io.with_prefix(read.freeze())).await;
            let (received, sent) = connection.bytes.get();
            Served { protocol: Some(Protocol::Http2), received, sent }
        }
        Some(false) => serve_h1(&Rc::new(connection), io, read).await,
        None => Served::default(),
    }
}

/// Whether the connection begins with the HTTP/2 preface. None if it ends first.
async fn sniff(connection: &HttpConnection, io: &mut Io, read: &mut BytesMut) -> Option<bool> {
    let mut alarm = Alarm::default();
    let deadline = connection.hcm.timeouts.connection_idle.map(|d| connection.start + d);
    std::future::poll_fn(|cx| {
        loop {
            let seen = read.len().min(PREFACE.len());
            if read.get(..seen) != PREFACE.get(..seen) {
                return Poll::Ready(Some(false));
            }
            if seen == PREFACE.len() {
                return Poll::Ready(Some(true));
            }
            match io.poll_fill(cx, read) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                // What came of the preface is no request.
                Poll::Ready(_) if read.is_empty() => return Poll::Ready(None),
                Poll::Ready(_) => return Poll::Ready(Some(false)),
                Poll::Pending => break,
            }
        }
        let Some(at) = deadline else { return Poll::Pending };
        if alarm.poll(cx, at).is_ready() {
            connection.hcm.stats.downstream_cx_idle_timeout.inc();
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

fn request_limits(hcm: &HttpConnectionManager) -> RequestLimits {
    RequestLimits {
        max_headers_bytes: hcm.limits.max_request_headers_bytes,
        max_headers_count: hcm.limits.max_headers_count,
        accept_http_10: hcm.http1.accept_http_10,
        default_host_for_http_10: hcm.http1.default_host.clone(),
        allow_absolute_url: hcm.http1.allow_absolute_url,
        allow_chunked_length: hcm.http1.allow_chunked_length,
        underscores: match hcm.limits.underscores {
            Underscores::Allow => h1::Underscores::Allow,
            Underscores::Reject => h1::Underscores::Reject,
            Underscores::Drop => h1::Underscores::Drop,
        },
        allow_custom_methods: hcm.http1.allow_custom_methods,
        preserve_case: false,
    }
}

/// What the wait for a request ends with.
#[allow(clippy::large_enum_variant, reason = "it is nearly always a request, for which a box would be an allocation")]
enum Next {
    Request(ParsedRequest),
    Bad(H1Error),
    HeaderTimeout,
    /// `stream_idle_timeout` in the middle of a head.
    Idle,
    /// The client went away in the middle of a head.
    Cut,
    Over,
}

async fn serve_h1(connection: &Rc<HttpConnection>, io: Io, read: BytesMut) -> Served {
    let hcm = &connection.hcm;
    let limits = request_limits(hcm);
    let scheme = if connection.info.tls.is_some() { Scheme::Https } else { Scheme::Http };
    let mut server = H1Server::new(io, read, BUFFER_LIMIT);
    server.enable_trailers = hcm.http1.enable_trailers;
    server.proper_case = hcm.http1.casing == HeaderCasing::ProperCaseWords;
    let mut alarm = Alarm::default();
    let mut leave = std::pin::pin!(connection.worker.close_idle_clients.notified());
    loop {
        server.begin_head();
        let next = next_request(connection, &mut server, &limits, scheme, &mut alarm, leave.as_mut()).await;
        if matches!(next, Next::Over) {
            break;
        }
        if connection.requests.get() == 0 {
            hcm.stats.downstream_cx_http1_total.inc();
            hcm.stats.downstream_cx_http1_active.inc();
        }
        connection.count_request();
        connection.active.set(1);
        hcm.stats.downstream_rq_http1_total.inc();
        match next {
            Next::Request(parsed) => request_h1(connection, &mut server, parsed).await,
            Next::Bad(error) => {
                hcm.stats.downstream_cx_protocol_error.inc();
                stream::refuse(connection, &mut server, error).await;
            }
            Next::HeaderTimeout => stream::header_timeout(connection, &mut server, false).await,
            Next::Idle => stream::header_timeout(connection, &mut server, true).await,
            Next::Cut => {
                stream::cut_short(connection);
                break;
            }
            Next::Over => {}
        }
        connection.active.set(0);
        connection.last_active.set(clock::now());
        if server.close {
            linger(connection, &mut server).await;
            break;
        }
    }
    let protocol = (connection.requests.get() > 0).then_some(Protocol::Http11);
    Served { protocol, received: server.filled, sent: server.out.total() }
}

/// Waits for the head of the next request.
async fn next_request(
    connection: &HttpConnection,
    server: &mut H1Server,
    limits: &RequestLimits,
    scheme: Scheme,
    alarm: &mut Alarm,
    mut leave: Pin<&mut Notified<'_>>,
) -> Next {
    let timeouts = &connection.hcm.timeouts;
    let mut begun: Option<Instant> = None;
    std::future::poll_fn(|cx| {
        loop {
            if !server.read.is_empty() {
                match h1::parse_request(&mut server.read, &mut server.scan, limits, scheme) {
                    Ok(Some(parsed)) => {
                        server.scan = h1::ScanState::default();
                        return Poll::Ready(Next::Request(parsed));
                    }
                    Ok(None) => {
                        if begun.is_none() && !server.read.is_empty() {
                            begun = Some(clock::now());
                        }
                    }
                    Err(e) => return Poll::Ready(Next::Bad(e)),
                }
            }
            match server.io.poll_fill(cx, &mut server.read) {
                Poll::Ready(Ok(n)) if n > 0 => server.filled += n as u64,
                Poll::Ready(_) if !server.read.is_empty() => return Poll::Ready(Next::Cut),
                Poll::Ready(_) => return Poll::Ready(Next::Over),
                Poll::Pending => break,
            }
        }
        if server.read.is_empty() {
            // A connection that waits for its next request holds no buffers: ten thousand of them are common.
            crate::net::io::keep_spare(std::mem::take(&mut server.read));
            server.out.release();
        }
        // The process is about to end, and nobody is owed an answer here.
        if begun.is_none() && leave.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Next::Over);
        }
        let headers_at = begun.zip(timeouts.request_headers).map(|(at, d)| at + d);
        let idle_at = timeouts.connection_idle.filter(|_| begun.is_none()).map(|d| connection.last_active.get() + d);
        // A request begins with its first byte, for Envoy's timers too: a head that does not go on is an idle stream.
        let stalled_at = begun.zip(timeouts.stream_idle).map(|(at, d)| at + d);
        let age_at = connection.max_age_at();
        let Some(at) = [headers_at, stalled_at, idle_at, age_at].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if alarm.poll(cx, at).is_pending() {
            return Poll::Pending;
        }
        if Some(at) == headers_at {
            return Poll::Ready(Next::HeaderTimeout);
        }
        if Some(at) == stalled_at {
            return Poll::Ready(Next::Idle);
        }
        if Some(at) == idle_at {
            connection.hcm.stats.downstream_cx_idle_timeout.inc();
        } else {
            connection.hcm.stats.downstream_cx_max_duration_reached.inc();
        }
        Poll::Ready(Next::Over)
    })
    .await
}

async fn request_h1(connection: &Rc<HttpConnection>, server: &mut H1Server, parsed: ParsedRequest) {
    let ParsedRequest { mut head, protocol, body, keep_alive, expect_continue, header_bytes, .. } = parsed;
    let hcm = &connection.hcm;
    server.begin(body);
    server.protocol = protocol;
    server.method = head.method.clone();
    server.close = !keep_alive || connection.ends();
    server.keep_alive_10 = protocol == Protocol::Http10 && keep_alive;
    if expect_continue && !hcm.proxy_100_continue {
        head.headers.remove(header::EXPECT);
        server.owes_continue = true;
    }
    let received = Received { head, protocol, header_bytes };
    stream::run(connection, received, Downstream::H1(server)).await;
    if server.body.is_some() {
        // What is left of a body cannot be told from a next request.
        server.close = true;
    }
}

/// Closes after a response: the client may still be sending, and a reset would destroy the response on its way. So the end is announced,
/// and what comes in is thrown away for `delayed_close_timeout`.
async fn linger(connection: &HttpConnection, server: &mut H1Server) {
    let timeouts = &connection.hcm.timeouts;
    // Without a `delayed_close_timeout` the end comes with the last byte; a client that does not take it is idle.
    let Some(patience) = timeouts.delayed_close.or(timeouts.connection_idle) else { return };
    let mut until = Instant::now() + patience;
    let mut left = server.out.len();
    let mut ended = false;
    let mut alarm = Alarm::default();
    std::future::poll_fn(|cx| {
        // A client that reads, however slowly, gets all of it; one that does not is waited for once.
        if !ended {
            let end = match server.io.poll_drain(cx, &mut server.out) {
                Poll::Ready(Ok(())) if timeouts.delayed_close.is_none() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => server.io.poll_end(cx),
                other => other,
            };
            match end {
                Poll::Ready(Ok(())) => {
                    ended = true;
                    until = Instant::now() + patience;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending if server.out.len() < left => {
                    left = server.out.len();
                    until = Instant::now() + patience;
                }
                Poll::Pending => {}
            }
        }
        while server.out.is_empty() {
            server.read.clear();
            match server.io.poll_fill(cx, &mut server.read) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        let over = alarm.poll(cx, until);
        if over.is_ready() {
            connection.hcm.stats.downstream_cx_delayed_close_timeout.inc();
        }
        over
    })
    .await;
}
