//! An HTTP/2 connection and its streams, side by side.

use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, header};
use waypost_filters::head::{Protocol, RequestHead, Scheme};

use super::{BUFFER_LIMIT, HttpConnection};
use crate::http::downstream::{Downstream, H2Server};
use crate::http::h2_request::{self, Refusal};
use crate::http::stream::{self, Received};
use crate::http::watch::{MANY_RESETS, Refused, Watch, Watched};
use crate::http::wire;
use crate::net::{Alarm, Io, clock};

/// How far the end of a connection is. As in Envoy it is announced first, and `drain_timeout` later the last stream is named: what a client
/// that hears the first opens in between is served.
#[derive(Clone, Copy)]
enum Goodbye {
    Unsaid,
    /// Since when the client knows that it should open no more streams.
    Announced(Instant),
    /// Since when nothing has come of the connection: the last stream was named, the client has read.
    Last(Instant),
}

pub(super) async fn serve_h2(connection: Rc<HttpConnection>, io: Io) {
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
        .max_pending_accept_reset_streams(MANY_RESETS as usize);
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    let watch = connection.watch.get_or_init(|| Watch::new(options)).clone();
    let handshake = crate::net::alarm::timeout_at(
        hcm.timeouts.connection_idle.map(|d| connection.start + d),
        builder.handshake::<Watched, Bytes>(Watched::new(io, watch.clone(), hcm.timeouts.delayed_close)),
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
    let mut goodbye = Goodbye::Unsaid;
    let mut attacked = false;
    let mut alarm = Alarm::default();
    let mut leave = std::pin::pin!(connection.worker.close_idle_clients.notified());
    loop {
        if connection.closing.get() && matches!(goodbye, Goodbye::Unsaid) {
            goodbye = Goodbye::Announced(Instant::now());
            h2.graceful_shutdown();
        }
        // With its last stream the connection ends by itself, if the client reads; one that does not is not waited for. A deadline that has
        // passed must change something: this loop would not give the thread back otherwise.
        let idle_at = match goodbye {
            Goodbye::Announced(at) => Some(at + hcm.timeouts.drain),
            _ if connection.active.get() > 0 => None,
            Goodbye::Unsaid => hcm.timeouts.connection_idle.map(|d| connection.last_active.get() + d),
            Goodbye::Last(at) => Some(
                at.max(connection.last_active.get())
                    + hcm.timeouts.drain
                    + hcm.timeouts.delayed_close.unwrap_or_default(),
            ),
        };
        let age_at = connection.max_age_at().filter(|_| !connection.closing.get());
        // The codec asks one question at a time, and between the two goodbyes it has one open.
        let pinging = !matches!(goodbye, Goodbye::Announced(_));
        let (next_ping, next_pong) = (ping_at.filter(|_| pinging), pong_by.filter(|_| pinging));
        let deadline = [idle_at, age_at, next_ping, next_pong].into_iter().flatten().min();
        let pong = async {
            match &mut pings {
                Some((_, p)) if pong_by.is_some() => std::future::poll_fn(|cx| p.poll_pong(cx)).await.is_ok(),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            accepted = std::future::poll_fn(|cx| {
                let mut accepted = h2.poll_accept(cx);
                while accepted.is_pending() && watch.settle() {
                    accepted = h2.poll_accept(cx);
                }
                if accepted.is_pending() && watch.has_refused() { Poll::Ready(None) } else { accepted.map(Some) }
            }) => match accepted {
                // Nothing to hand over, but something to log.
                None => {
                    while let Some(refused) = watch.take_refused() {
                        stream::log_refused(&connection, refused);
                    }
                }
                Some(Some(Ok((request, respond)))) => {
                    watch.accepted(respond.stream_id().as_u32());
                    connection.active.set(connection.active.get() + 1);
                    connection.count_request();
                    hcm.stats.downstream_rq_http2_total.inc();
                    let connection = connection.clone();
                    tokio::task::spawn_local(request_h2(connection, request, respond));
                }
                Some(Some(Err(e))) => {
                    tracing::debug!("h2: {e}");
                    if !watch.calmed() && (!e.is_io() || watch.error().is_some()) {
                        hcm.stats.downstream_cx_protocol_error.inc();
                    }
                    break;
                }
                Some(None) => break,
            },
            _ = drain.changed() => {
                if *drain.borrow() {
                    connection.ends();
                }
            }
            // The process ends, whatever the strategy of its drain: a client that waits would be cut off.
            () = leave.as_mut(), if !connection.closing.get() => {
                hcm.stats.downstream_cx_drain_close.inc();
                connection.closing.set(true);
            }
            () = connection.changed.notified() => {
                if watch.error().is_some() {
                    hcm.stats.downstream_cx_protocol_error.inc();
                    break;
                }
                if !attacked && connection.is_attacked() {
                    attacked = true;
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
                if next_pong.is_some_and(|at| now >= at) {
                    tracing::debug!("h2: no answer to a ping");
                    break;
                }
                if next_ping.is_some_and(|at| now >= at)
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
                match goodbye {
                    _ if idle_at.is_none_or(|at| now < at) => {}
                    Goodbye::Unsaid => {
                        hcm.stats.downstream_cx_idle_timeout.inc();
                        connection.closing.set(true);
                    }
                    Goodbye::Announced(_) => {
                        watch.name_last_stream();
                        goodbye = Goodbye::Last(now);
                        if let Some(((interval, timeout), _)) = &pings {
                            ping_at = Some(now + *interval);
                            pong_by = pong_by.map(|_| now + *timeout);
                        }
                    }
                    Goodbye::Last(_) if watch.take_wrote() => goodbye = Goodbye::Last(now),
                    Goodbye::Last(_) => break,
                }
            }
        }
    }
    if watch.calmed() {
        hcm.stats.downstream_rq_too_many_premature_resets.inc();
    }
    while let Some(refused) = watch.take_refused().or_else(|| watch.take_unseen()) {
        stream::log_refused(&connection, refused);
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
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let _ended = StreamEnd(connection.clone());
    let (mut parts, recv) = request.into_parts();
    let refused = match h2_request::check(&connection.hcm, &mut parts) {
        Ok(()) => None,
        Err(Refusal::Limit(details)) => {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            Some(Refused { details, protocol: false })
        }
        Err(Refusal::Message(details)) if connection.hcm.http2.stream_error => {
            respond.send_reset(h2::Reason::PROTOCOL_ERROR);
            Some(Refused { details, protocol: true })
        }
        Err(Refusal::Message(details)) => {
            if let Some(watch) = connection.watch.get() {
                watch.fail(details);
            }
            connection.changed.notify_one();
            Some(Refused { details, protocol: true })
        }
    };
    if let Some(refused) = refused {
        return stream::log_refused(&connection, refused);
    }
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
        self.0.last_active.set(clock::now());
        if self.0.active.get() == 0 {
            // The loop may have to begin counting idle time.
            self.0.changed.notify_one();
        }
    }
}

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
