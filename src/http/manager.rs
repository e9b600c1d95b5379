//! A connection under the HTTP connection manager: which codec it speaks, and its streams one after another or side by side.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Method, header};
use waypost_filters::connection::Connection;
use waypost_filters::head::{Protocol, RequestHead, Scheme};
use waypost_filters::stream::WireBytes;

use super::config::{Codec, HeaderCasing, HttpConnectionManager, Underscores};
use super::downstream::{Downstream, H1Server, H2Server};
use super::h1::{self, H1Error, ParsedRequest, RequestLimits};
use super::stream::{self, Received};
use super::wire;
use crate::listener::serve::Served;
use crate::net::{Alarm, Io};
use crate::worker::Worker;

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Envoy's `overload.premature_reset_total_stream_count`: from half of so many streams that were reset before they were answered, a
/// connection is taken for an attack (CVE-2023-44487).
const PREMATURE_RESET_STREAMS: u32 = 500;

/// What may wait to be written to an HTTP/1 client before its host is held back; Envoy's `per_connection_buffer_limit_bytes`.
const BUFFER_LIMIT: usize = 1 << 20;

/// A connection while it is served.
pub struct HttpConnection {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// Its configuration.
    pub hcm: Arc<HttpConnectionManager>,
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
}

static NEXT_STREAM: AtomicU64 = AtomicU64::new(1);

impl HttpConnection {
    fn new(worker: &Rc<Worker>, hcm: &Arc<HttpConnectionManager>, info: Arc<Connection>) -> HttpConnection {
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
        }
    }

    /// A number for a new stream.
    pub fn next_stream(&self) -> u64 {
        NEXT_STREAM.fetch_add(1, Relaxed)
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
            if shared.drain.closes(self.worker.random()) {
                self.hcm.stats.downstream_cx_drain_close.inc();
                self.closing.set(true);
            } else if shared.overload.disables_keepalive() {
                self.closing.set(true);
            }
        }
        self.closing.get()
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
    mut io: Io,
    mut read: BytesMut,
    info: Arc<Connection>,
) -> Served {
    let connection = HttpConnection::new(worker, hcm, info);
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
        Some(true) => {
            connection.h2.set(true);
            hcm.stats.downstream_cx_http2_total.inc();
            hcm.stats.downstream_cx_http2_active.inc();
            let connection = Rc::new(connection);
            serve_h2(connection.clone(), io.with_prefix(read.freeze())).await;
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
enum Next {
    Request(Box<ParsedRequest>),
    Bad(H1Error),
    HeaderTimeout,
    /// `stream_idle_timeout` in the middle of a head.
    Idle,
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
    loop {
        let next = next_request(connection, &mut server, &limits, scheme, &mut alarm).await;
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
            Next::Request(parsed) => request_h1(connection, &mut server, *parsed).await,
            Next::Bad(error) => {
                hcm.stats.downstream_cx_protocol_error.inc();
                stream::refuse(connection, &mut server, error).await;
            }
            Next::HeaderTimeout => stream::header_timeout(connection, &mut server, false).await,
            Next::Idle => stream::header_timeout(connection, &mut server, true).await,
            Next::Over => {}
        }
        connection.active.set(0);
        connection.last_active.set(Instant::now());
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
) -> Next {
    let timeouts = &connection.hcm.timeouts;
    let mut begun: Option<Instant> = None;
    std::future::poll_fn(|cx| {
        loop {
            if !server.read.is_empty() {
                match h1::parse_request(&mut server.read, &mut server.scan, limits, scheme) {
                    Ok(Some(parsed)) => {
                        server.scan = h1::ScanState::default();
                        return Poll::Ready(Next::Request(Box::new(parsed)));
                    }
                    Ok(None) => {
                        if begun.is_none() && !server.read.is_empty() {
                            begun = Some(Instant::now());
                        }
                    }
                    Err(e) => return Poll::Ready(Next::Bad(e)),
                }
            }
            match server.io.poll_fill(cx, &mut server.read) {
                Poll::Ready(Ok(n)) if n > 0 => server.filled += n as u64,
                Poll::Ready(_) => return Poll::Ready(Next::Over),
                Poll::Pending => break,
            }
        }
        if server.read.is_empty() {
            // A connection that waits for its next request holds no buffers: ten thousand of them are common.
            server.read = BytesMut::new();
            server.out.release();
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
    if connection.max_age_at().is_some_and(|at| Instant::now() >= at) && !connection.closing.replace(true) {
        hcm.stats.downstream_cx_max_duration_reached.inc();
    }
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

async fn serve_h2(connection: Rc<HttpConnection>, io: Io) {
    let hcm = connection.hcm.clone();
    let options = &hcm.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .header_table_size(options.hpack_table_size)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_header_list_size(u32::try_from(hcm.limits.max_request_headers_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(BUFFER_LIMIT)
        // Streams that end in error here are cheap: what a peer provokes is counted as premature resets instead.
        .max_local_error_reset_streams(None)
        // Streams that a client resets before they were accepted; the counting of premature resets comes later and sees fewer.
        .max_pending_accept_reset_streams((PREMATURE_RESET_STREAMS / 2) as usize)
        .max_frame_size(64 * 1024);
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    let handshake = crate::net::alarm::timeout_at(
        hcm.timeouts.connection_idle.map(|d| connection.start + d),
        builder.handshake::<Io, Bytes>(io),
    );
    let mut h2 = match handshake.await {
        Some(Ok(h2)) => h2,
        Some(Err(e)) => {
            tracing::debug!("h2: {e}");
            hcm.stats.downstream_cx_protocol_error.inc();
            return;
        }
        None => return,
    };
    let mut drain = connection.worker.shared.drain.subscribe();
    drain.borrow_and_update();
    let mut pings = options.keepalive.as_ref().and_then(|k| Some((k.interval?, k.timeout))).zip(h2.ping_pong());
    let mut ping_at = pings.as_ref().map(|((interval, _), _)| Instant::now() + *interval);
    let mut pong_by: Option<Instant> = None;
    let mut goodbye_at: Option<Instant> = None;
    let mut attacked = false;
    let mut alarm = Alarm::default();
    loop {
        if connection.closing.get() && goodbye_at.is_none() {
            goodbye_at = Some(Instant::now());
            h2.graceful_shutdown();
        }
        // After the goodbye the connection ends when the client has answered it; a client that does not is not waited for. A deadline that
        // has passed must change something: this loop would not give the thread back otherwise.
        let idle_at = match goodbye_at {
            _ if connection.active.get() > 0 => None,
            None => hcm.timeouts.connection_idle.map(|d| connection.last_active.get() + d),
            Some(at) => Some(at.max(connection.last_active.get()) + hcm.timeouts.drain),
        };
        let age_at = connection.max_age_at().filter(|_| !connection.closing.get());
        let deadline = [idle_at, age_at, ping_at, pong_by].into_iter().flatten().min();
        let pong = async {
            match &mut pings {
                Some((_, p)) if pong_by.is_some() => std::future::poll_fn(|cx| p.poll_pong(cx)).await.is_ok(),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    connection.active.set(connection.active.get() + 1);
                    connection.count_request();
                    hcm.stats.downstream_rq_http2_total.inc();
                    let connection = connection.clone();
                    tokio::task::spawn_local(request_h2(connection, request, respond));
                }
                Some(Err(e)) => {
                    tracing::debug!("h2: {e}");
                    if !e.is_io() {
                        hcm.stats.downstream_cx_protocol_error.inc();
                    }
                    break;
                }
                None => break,
            },
            _ = drain.changed() => {
                if *drain.borrow() {
                    connection.ends();
                }
            }
            () = connection.changed.notified() => {
                if !attacked && connection.is_attacked() {
                    attacked = true;
                    connection.closing.set(true);
                    hcm.stats.downstream_rq_too_many_premature_resets.inc();
                    h2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                }
            }
            answered = pong => {
                pong_by = None;
                if !answered {
                    break;
                }
            }
            () = wait(&mut alarm, deadline) => {
                let now = Instant::now();
                if pong_by.is_some_and(|at| now >= at) {
                    tracing::debug!("h2: no answer to a ping");
                    break;
                }
                if ping_at.is_some_and(|at| now >= at)
                    && let Some(((interval, timeout), p)) = &mut pings
                {
                    ping_at = Some(now + *interval);
                    if pong_by.is_none() && p.send_ping(h2::Ping::opaque()).is_ok() {
                        pong_by = Some(now + *timeout);
                    }
                }
                if age_at.is_some_and(|at| now >= at) {
                    hcm.stats.downstream_cx_max_duration_reached.inc();
                    connection.closing.set(true);
                }
                if connection.active.get() == 0 && idle_at.is_some_and(|at| now >= at) {
                    if goodbye_at.is_some() {
                        break;
                    }
                    hcm.stats.downstream_cx_idle_timeout.inc();
                    connection.closing.set(true);
                }
            }
        }
    }
}

async fn wait(alarm: &mut Alarm, deadline: Option<Instant>) {
    match deadline {
        Some(at) => alarm.until(at).await,
        None => std::future::pending().await,
    }
}

async fn request_h2(
    connection: Rc<HttpConnection>,
    request: http::Request<h2::RecvStream>,
    respond: h2::server::SendResponse<Bytes>,
) {
    let _ended = StreamEnd(connection.clone());
    let (parts, recv) = request.into_parts();
    let http::request::Parts { method, uri, headers, mut extensions, .. } = parts;
    let protocol = extensions.remove::<h2::ext::Protocol>();
    let uri = uri.into_parts();
    let scheme = match uri.scheme.as_ref().map(|s| s.as_str()) {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        _ if connection.info.tls.is_some() => Scheme::Https,
        _ => Scheme::Http,
    };
    let value = |text: &str| http::HeaderValue::from_str(text).ok();
    let mut head = RequestHead {
        method,
        scheme,
        authority: uri.authority.and_then(|a| value(a.as_str())),
        path: uri.path_and_query.and_then(|p| value(p.as_str())),
        upgrade: None,
        headers,
        original_path: None,
    };
    if let Some(protocol) = protocol {
        // RFC 8441: what is an upgrade in HTTP/1 is a CONNECT with a protocol here.
        head.method = Method::GET;
        head.upgrade = value(protocol.as_str());
    } else if head.method == Method::CONNECT {
        head.path = None;
    }
    settle(&mut head);
    let header_bytes =
        if connection.hcm.access_logs.is_empty() { 0 } else { wire::request_head(&head, wire::Coding::Client) };
    let received = Received { head, protocol: Protocol::Http2, header_bytes: header_bytes as usize };
    stream::run(&connection, received, Downstream::H2(Box::new(H2Server::new(respond, recv)))).await;
}

/// Gives back a stream's place, however it ends.
struct StreamEnd(Rc<HttpConnection>);

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
        self.0.last_active.set(Instant::now());
        if self.0.active.get() == 0 {
            // The loop may have to begin counting idle time.
            self.0.changed.notify_one();
        }
    }
}

/// How long a stream may have lived to count as reset prematurely (Envoy: `overload.premature_reset_min_stream_lifetime_seconds`, 1 s).
pub const PREMATURE: Duration = Duration::from_secs(1);

/// Makes one cookie header of an HTTP/2 client's crumbs, and takes `host` for what it is (RFC 9113, 8.2.3 and 8.3.1).
fn settle(head: &mut RequestHead) {
    if let Some(host) = head.headers.remove(header::HOST)
        && head.authority.is_none()
    {
        head.authority = Some(host);
    }
    let mut crumbs = head.headers.get_all(header::COOKIE).iter();
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let mut joined = first.as_bytes().to_vec();
        for crumb in std::iter::once(second).chain(crumbs) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(crumb.as_bytes());
        }
        if let Ok(cookie) = http::HeaderValue::from_bytes(&joined) {
            head.headers.insert(header::COOKIE, cookie);
        }
    }
}
