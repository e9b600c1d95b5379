//! One stream under the connection manager: rules, filters, route, answer, log line.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use waypost_filters::connection::Direction;
use waypost_filters::filter::{LocalReply, Step};
use waypost_filters::flags::Flag;
use waypost_filters::format::header_ops::HeaderOpsChain;
use waypost_filters::format::{AccessLogType, FormatContext};
use waypost_filters::head::{Protocol, RequestHead, ResponseHead, Scheme};
use waypost_filters::stream::{HttpStream, StreamInfo};

use super::downstream::{Downstream, H1Server, Lost};
use super::exchange::{Stop, Timer, Timers};
use super::failure;
use super::filters::Chain;
use super::forward;
use super::h1::H1Error;
use super::manager::{HttpConnection, PREMATURE};
use super::rules::{local_reply, request::mutate_request, response::mutate_response};
use super::spare;
use super::watch::Refused;
use crate::net::clock;
use crate::route::{Action, Route};

/// How long a request waits for its routes at most. Envoy has no limit of its own there.
const ON_DEMAND: Duration = Duration::from_secs(15);

/// `x-envoy-attempt-count`
pub const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// `x-envoy-decorator-operation`
const X_ENVOY_DECORATOR_OPERATION: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");

/// A request whose head has been received.
pub struct Received {
    /// The head.
    pub head: RequestHead,
    /// Its protocol.
    pub protocol: Protocol,
    /// How many bytes it took; 0 where the codec does not say.
    pub header_bytes: usize,
}

/// A stream that is counted and logged when it is dropped, however it ends.
pub struct ActiveStream {
    /// The connection.
    pub connection: Rc<HttpConnection>,
    /// What filters see.
    pub http: HttpStream,
    /// Whether there was a head that could be read; without one the log line has no method and path.
    has_head: bool,
    /// Whether a response's head has been sent.
    pub responded: bool,
    /// Whether the client reset the stream.
    pub client_reset: bool,
    /// `include_attempt_count_in_response` of the virtual host, once there is a cluster to try.
    pub attempt_in_response: bool,
    /// What the response is to say as `x-envoy-decorator-operation`.
    decorator: Option<HeaderValue>,
    /// Bytes of a tunnel that this stream became.
    pub tunnel: Option<Arc<crate::net::tunnel::ByteCount>>,
}

impl ActiveStream {
    fn new(
        connection: &Rc<HttpConnection>,
        head: RequestHead,
        protocol: Option<Protocol>,
        has_head: bool,
    ) -> ActiveStream {
        let stats = &connection.hcm.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        let now = clock::now();
        let mut info = StreamInfo::new(connection.info.clone(), connection.next_stream(), now, clock::wall(now));
        info.protocol = protocol;
        let http = HttpStream {
            info,
            request: head,
            response: None,
            response_trailers: None,
            reroute: false,
            body: Default::default(),
        };
        ActiveStream {
            connection: connection.clone(),
            http,
            has_head,
            responded: false,
            client_reset: false,
            attempt_in_response: false,
            decorator: None,
            tunnel: None,
        }
    }

    /// Whether the response's headers are looked at again after they were sent.
    pub fn keeps_headers(&self) -> bool {
        !self.connection.hcm.access_logs.is_empty()
    }

    /// Notes the bytes on the wire, for the log line.
    pub fn note_wire(&mut self, down: &Downstream<'_>) {
        if self.keeps_headers() {
            let wire = down.wire();
            let of = &mut self.http.info.downstream_wire;
            of.received = of.headers_received + wire.received;
            (of.sent, of.headers_sent) = (wire.sent, wire.headers_sent);
        }
    }

    /// Runs the response filters and the last rules over the head, and sends it.
    pub fn send_head(&mut self, down: &mut Downstream<'_>, chain: Option<&Chain>, end: bool) {
        if self.attempt_in_response
            && let Some(response) = &mut self.http.response
        {
            let attempts = HeaderValue::from(self.http.info.upstream.attempts.max(1));
            response.headers.insert(X_ENVOY_ATTEMPT_COUNT, attempts);
        }
        if let Some(chain) = chain {
            self.http.body.none = end;
            for filter in chain.filters.iter().rev() {
                filter.on_response(&mut self.http);
            }
        }
        let hcm = &self.connection.hcm;
        let now = self.http.info.start_time
            + self.http.info.timing.first_upstream_received.unwrap_or_else(|| clock::since(self.http.info.start));
        mutate_response(hcm, &mut self.http, now);
        if let (Some(operation), Some(response)) = (self.decorator.take(), &mut self.http.response) {
            response.headers.insert(X_ENVOY_DECORATOR_OPERATION, operation);
        }
        if self.connection.ends() {
            down.close_after();
            if !down.is_h1() {
                self.connection.go_away();
            }
        }
        if !down.request_ended() && down.is_h1() {
            // The rest of the request cannot be told from a next one. An accepted upgrade has no such rest.
            hcm.stats.downstream_rq_response_before_rq_complete.inc();
            down.close_after();
        }
        let keep = self.keeps_headers();
        let Some(response) = &mut self.http.response else { return };
        self.http.info.response_code = response.status.as_u16();
        // The head of an upstream's response goes out as soon as it came: one look at the clock serves both.
        let timing = &mut self.http.info.timing;
        timing.first_downstream_sent =
            timing.first_upstream_received.or_else(|| Some(clock::since(self.http.info.start)));
        self.responded = true;
        down.send_head(response, end, keep);
    }

    /// Answers here.
    pub async fn reply(
        &mut self,
        down: &mut Downstream<'_>,
        chain: Option<&Chain>,
        reply: LocalReply,
        route: Option<&HeaderOpsChain>,
    ) {
        if reply.close {
            down.close_after();
        }
        let body = local_reply::apply(reply, &mut self.http, &self.connection.hcm, route);
        let body = if self.http.request.method == Method::HEAD { Bytes::new() } else { body };
        self.send_head(down, chain, body.is_empty());
        let body = match self.http.body.encoder.take() {
            Some(mut encoder) => encoder.encode(body, true),
            None => body,
        };
        self.http.info.bytes_sent = body.len() as u64;
        if !body.is_empty() {
            down.send_data(body);
            down.finish(None);
        }
        self.flush(down).await;
    }

    /// Waits until the response is on its way; a client that does not read is given `stream_idle_timeout`.
    async fn flush(&mut self, down: &mut Downstream<'_>) {
        let mut timers = Timers { idle: self.connection.hcm.timeouts.stream_idle, ..Timers::default() };
        timers.active_at = Some(clock::now());
        let done = std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(done) = down.poll_flush(cx) {
                return std::task::Poll::Ready(done.is_ok());
            }
            timers.poll(cx).map(|_| false)
        })
        .await;
        if done && !down.request_ended() {
            // What the client sent before it saw the answer would make the close of its connection a reset, and it is counted.
            std::future::poll_fn(|cx| std::task::Poll::Ready(down.discard(cx))).await;
        }
        self.note_wire(down);
        if done {
            self.http.info.timing.last_downstream_sent = Some(clock::since(self.http.info.start));
        } else {
            down.reset(Reason::CANCEL);
        }
    }

    /// Cuts a response short, once what there is of it is on its way.
    async fn cut(&mut self, down: &mut Downstream<'_>, reason: Reason) {
        if !down.is_h1() {
            // A reset throws away what its connection's task has not written: that task goes first.
            tokio::task::yield_now().await;
        }
        down.reset(reason);
    }

    /// Notes how much of the request has come in, and when that was all.
    pub fn note_request(&mut self, bytes: u64, timers: &Timers) {
        let info = &mut self.http.info;
        info.bytes_received = bytes;
        if self.http.request.upgrade.is_some() || self.http.request.is_connect() {
            // It has no end before its connection has.
            return;
        }
        info.timing.request_received =
            info.timing.request_received.or(timers.received_at.map(|at| at.saturating_duration_since(info.start)));
    }

    /// Ends the stream for what stopped it.
    pub async fn stopped(
        &mut self,
        down: &mut Downstream<'_>,
        chain: Option<&Chain>,
        stop: Stop,
        route: Option<&HeaderOpsChain>,
    ) {
        let hcm = self.connection.hcm.clone();
        self.note_wire(down);
        let info = &mut self.http.info;
        match stop {
            Stop::Downstream(Lost::Reset(reason)) => {
                self.client_reset = true;
                if down.is_h1() {
                    info.flags.set(Flag::DownstreamConnectionTermination);
                    info.details = Some(Cow::Borrowed("downstream_remote_disconnect"));
                } else {
                    hcm.stats.downstream_rq_rx_reset.inc();
                    let (flag, details) = match (self.connection.codec_error(), reason) {
                        (Some(details), _) => (Flag::DownstreamProtocolError, details),
                        (None, Some(Reason::REFUSED_STREAM)) => (Flag::DownstreamRemoteReset, "http2.remote_refuse"),
                        (None, Some(_)) => (Flag::DownstreamRemoteReset, "http2.remote_reset"),
                        (None, None) => (Flag::DownstreamConnectionTermination, "downstream_remote_disconnect"),
                    };
                    info.flags.set(flag);
                    info.details = Some(Cow::Borrowed(details));
                }
                down.close_after();
            }
            Stop::Downstream(Lost::Message) => {
                // The codec has reset the stream; Envoy's words for that are those of a client's reset.
                self.client_reset = true;
                hcm.stats.downstream_cx_protocol_error.inc();
                info.flags.set(Flag::DownstreamProtocolError);
                info.details = Some(Cow::Borrowed(self.connection.codec_error().unwrap_or("http2.remote_reset")));
            }
            Stop::Downstream(Lost::Protocol(error)) => {
                hcm.stats.downstream_cx_protocol_error.inc();
                if self.responded {
                    info.flags.set(Flag::DownstreamProtocolError);
                    self.cut(down, Reason::PROTOCOL_ERROR).await;
                } else {
                    let reply = bad_request(&error);
                    self.reply(down, chain, reply, None).await;
                }
            }
            Stop::Timeout(timer) => {
                let (status, body, details, flag): (StatusCode, &'static str, &'static str, Option<Flag>) = match timer
                {
                    Timer::Route => (
                        StatusCode::GATEWAY_TIMEOUT,
                        "upstream request timeout",
                        "response_timeout",
                        Some(Flag::UpstreamRequestTimeout),
                    ),
                    Timer::PerTry => (
                        StatusCode::GATEWAY_TIMEOUT,
                        "upstream request timeout",
                        "upstream_per_try_timeout",
                        Some(Flag::UpstreamRequestTimeout),
                    ),
                    Timer::Idle => {
                        hcm.stats.downstream_rq_idle_timeout.inc();
                        let complete = down.request_ended();
                        if !complete {
                            down.close_after();
                        }
                        let status = if complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
                        (status, "stream timeout", "stream_idle_timeout", Some(Flag::StreamIdleTimeout))
                    }
                    Timer::Request => {
                        hcm.stats.downstream_rq_timeout.inc();
                        (StatusCode::REQUEST_TIMEOUT, "request timeout", "request_overall_timeout", None)
                    }
                    Timer::Duration => {
                        hcm.stats.downstream_rq_max_duration_reached.inc();
                        (StatusCode::GATEWAY_TIMEOUT, "downstream duration timeout", "max_duration_timeout", None)
                    }
                    Timer::UpstreamDuration => (
                        StatusCode::GATEWAY_TIMEOUT,
                        "upstream max stream duration reached",
                        "upstream_max_stream_duration_reached",
                        Some(Flag::UpstreamMaxStreamDurationReached),
                    ),
                };
                if self.responded {
                    info.details = Some(Cow::Borrowed(details));
                    if let Some(flag) = flag {
                        info.flags.set(flag);
                    }
                    self.cut(down, Reason::INTERNAL_ERROR).await;
                    hcm.stats.downstream_rq_tx_reset.inc();
                } else {
                    let mut reply = LocalReply::new(status, details).body(body);
                    reply.flag = flag;
                    if timer == Timer::Duration && self.http.request.is_grpc() {
                        // DEADLINE_EXCEEDED, where the other timers say UNAVAILABLE.
                        reply.grpc_status = Some(4);
                    }
                    self.reply(down, chain, reply, route).await;
                }
            }
            Stop::Upstream(broken) => {
                let (status, flag, reason) = failure::describe(broken);
                if self.responded {
                    info.flags.set(flag);
                    info.details = Some(Cow::Owned(format!(
                        "upstream_reset_after_response_started{{{}}}",
                        reason.replace(' ', "_")
                    )));
                    self.cut(down, Reason::INTERNAL_ERROR).await;
                    hcm.stats.downstream_rq_tx_reset.inc();
                } else {
                    let reply = failure::reset_reply(status, flag, reason, None, self.http.info.upstream.attempts > 1);
                    self.reply(down, chain, reply, route).await;
                }
            }
        }
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        let hcm = &self.connection.hcm;
        let info = &mut self.http.info;
        if let Some(bytes) = &self.tunnel {
            use std::sync::atomic::Ordering::Relaxed;
            info.bytes_received = bytes.received.load(Relaxed);
            info.bytes_sent = bytes.sent.load(Relaxed);
        }
        if self.connection.chain.is_closed() {
            info.flags.set(Flag::DownstreamConnectionTermination);
            info.details = Some(Cow::Borrowed("downstream_local_disconnect(filter_chain_is_being_removed)"));
        }
        let took = clock::since(info.start);
        info.timing.complete = Some(took);
        hcm.stats.downstream_rq_active.dec();
        hcm.stats.downstream_rq_classes.count(info.response_code);
        hcm.stats.downstream_rq_time.record(took.as_millis() as u64);
        if self.client_reset && info.protocol == Some(Protocol::Http2) {
            self.connection.stream_ended(!self.responded && took < PREMATURE);
        } else {
            self.connection.stream_ended(false);
        }
        if !hcm.access_logs.is_empty() {
            self.connection.count_bytes(self.http.info.downstream_wire);
            let cx = FormatContext {
                info: &self.http.info,
                request: self.has_head.then_some(&self.http.request),
                response: self.http.response.as_ref(),
                trailers: self.http.response_trailers.as_ref(),
                local_reply_body: "",
                access_log_type: AccessLogType::DownstreamEnd,
            };
            for log in &hcm.access_logs {
                log.record(&cx);
            }
        }
        spare::keep(std::mem::take(&mut self.http.request.headers));
        if let Some(response) = self.http.response.take() {
            spare::keep(response.headers);
        }
    }
}

/// The answer to a request that the codec could not read.
fn bad_request(error: &H1Error) -> LocalReply {
    let mut reply = LocalReply::new(error.status, error.details).body(error.body).closing();
    reply.flag = error.flag_dpe.then_some(Flag::DownstreamProtocolError);
    reply
}

fn empty_head() -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: None,
        path: None,
        upgrade: None,
        headers: HeaderMap::new(),
        original_path: None,
    }
}

/// Answers a request whose head could not be read.
pub async fn refuse(connection: &Rc<HttpConnection>, server: &mut H1Server, error: H1Error) {
    server.close = true;
    server.body = None;
    server.method = Method::GET;
    server.protocol = Protocol::Http11;
    let mut active = ActiveStream::new(connection, empty_head(), Some(Protocol::Http11), !error.before_head);
    if error == H1Error::HEADERS_TOO_LARGE {
        // All that came of it was head.
        active.http.info.downstream_wire.headers_received = server.read.len() as u64;
    }
    active.reply(&mut Downstream::H1(server), None, bad_request(&error), None).await;
}

/// Answers a client that takes too long over a head: `request_headers_timeout`, or `stream_idle_timeout` if `idle`.
pub async fn header_timeout(connection: &Rc<HttpConnection>, server: &mut H1Server, idle: bool) {
    let stats = &connection.hcm.stats;
    if idle {
        stats.downstream_rq_idle_timeout.inc()
    } else {
        stats.downstream_rq_header_timeout.inc()
    }
    server.close = true;
    server.body = None;
    server.method = Method::GET;
    server.protocol = Protocol::Http11;
    let mut active = ActiveStream::new(connection, empty_head(), Some(Protocol::Http11), false);
    let reply = if idle {
        LocalReply::new(StatusCode::REQUEST_TIMEOUT, "stream_idle_timeout")
            .body("stream timeout")
            .flag(Flag::StreamIdleTimeout)
    } else {
        LocalReply::new(StatusCode::REQUEST_TIMEOUT, "request_header_timeout").body("request header timeout")
    };
    let reply = reply.closing();
    active.reply(&mut Downstream::H1(server), None, reply, None).await;
}

/// Logs a client that went away in the middle of a head.
pub fn cut_short(connection: &Rc<HttpConnection>) {
    let mut active = ActiveStream::new(connection, empty_head(), Some(Protocol::Http11), false);
    active.client_reset = true;
    active.http.info.flags.set(Flag::DownstreamConnectionTermination);
    active.http.info.details = Some(Cow::Borrowed("downstream_remote_disconnect"));
}

/// Logs a request that the codec refused, or that is refused before it is one.
pub fn log_refused(connection: &Rc<HttpConnection>, refused: Refused) {
    let mut active = ActiveStream::new(connection, empty_head(), Some(Protocol::Http2), false);
    active.http.info.details = Some(Cow::Borrowed(refused.details));
    let flag = if refused.protocol { Flag::DownstreamProtocolError } else { Flag::DownstreamRemoteReset };
    active.http.info.flags.set(flag);
}

/// Serves one request to its end.
pub async fn run(connection: &Rc<HttpConnection>, received: Received, mut down: Downstream<'_>) {
    let Received { head, protocol, header_bytes } = received;
    let mut active = ActiveStream::new(connection, head, Some(protocol), true);
    active.http.info.downstream_wire.headers_received = header_bytes as u64;
    let hcm = &connection.hcm;
    let timeouts = &hcm.timeouts;
    let start = active.http.info.start;
    let mut timers = Timers {
        idle: timeouts.stream_idle,
        active_at: timeouts.stream_idle.map(|_| start),
        request_at: timeouts.request.filter(|_| !down.request_ended()).map(|d| start + d),
        duration_at: timeouts.max_stream_duration.map(|d| start + d),
        alarm: down.take_alarm(),
        ..Timers::default()
    };
    if down.request_ended() {
        timers.received_at = Some(start);
        active.note_request(0, &timers);
    }
    if connection.worker.shared.overload.stops_requests() {
        let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "overload").body("envoy overloaded");
        return active.reply(&mut down, None, reply, None).await;
    }
    // One table for the whole request, whatever RDS does meanwhile, unless it has to wait for one.
    let mut table = hcm.routes.load(&active.http.request);
    let internal_only = table.get().map_or(&[][..], |t| &t.internal_only_headers);
    if let Err(reply) = mutate_request(hcm, internal_only, &mut active.http) {
        return active.reply(&mut down, None, *reply, None).await;
    }
    if hcm.routes.scoped() {
        // What the key is made of may have changed.
        table = hcm.routes.load(&active.http.request);
    }
    let random = connection.worker.random();
    let mut route = table.get().and_then(|t| t.find(&active.http, random)).cloned();
    note_route(&mut active.http.info, route.as_ref());
    active.decorate(route.as_deref());
    let Some(mut chain) = chain_of(&active.http, hcm, route.as_deref()) else {
        if let Some(Action::Forward(_)) = route.as_ref().map(|r| &r.action)
            && let Some(pick) = route.as_ref().and_then(|r| r.pick_cluster(&active.http.request, random))
            && let Some(cluster) = pick.slot.current.load_full()
        {
            active.http.info.upstream.cluster = Some(cluster.names.clone());
        }
        hcm.stats.downstream_rq_ws_on_non_ws_route.inc();
        let reply = LocalReply::new(StatusCode::FORBIDDEN, "upgrade_failed").closing();
        return active.reply(&mut down, None, reply, None).await;
    };
    let mut at = 0;
    while let Some(filter) = chain.filters.get(at) {
        let mut step = filter.on_request(&mut active.http);
        loop {
            match step {
                Step::Continue => break,
                Step::FindRoute => {
                    if route.is_none()
                        && let Some(answer) = hcm.routes.ask(&active.http.request)
                    {
                        let answer = tokio::time::timeout(ON_DEMAND, answer);
                        if let Err(stop) = super::exchange::guard(&mut down, &mut timers, answer).await {
                            return active.stopped(&mut down, Some(&chain), stop, None).await;
                        }
                        table = hcm.routes.load(&active.http.request);
                        route = table.get().and_then(|t| t.find(&active.http, random)).cloned();
                        note_route(&mut active.http.info, route.as_ref());
                        if route.is_some() {
                            let Some(whole) = chain_of(&active.http, hcm, route.as_deref()) else {
                                hcm.stats.downstream_rq_ws_on_non_ws_route.inc();
                                let reply = LocalReply::new(StatusCode::FORBIDDEN, "upgrade_failed").closing();
                                return active.reply(&mut down, Some(&chain), reply, None).await;
                            };
                            chain = Arc::new(whole.resumed(&chain, at));
                        }
                    }
                    break;
                }
                Step::Respond(mut reply) => {
                    // What follows a request that was to become a tunnel is not HTTP.
                    reply.close |= down.is_h1() && tunnels(&active.http.request);
                    return active.reply(&mut down, Some(&chain), reply, None).await;
                }
                Step::Wait(future) => match super::exchange::guard(&mut down, &mut timers, future).await {
                    Ok(resume) => step = resume(&mut active.http),
                    Err(stop) => return active.stopped(&mut down, Some(&chain), stop, None).await,
                },
            }
        }
        at += 1;
    }
    if std::mem::take(&mut active.http.reroute) {
        if hcm.routes.scoped() {
            table = hcm.routes.load(&active.http.request);
        }
        route = table.get().and_then(|t| t.find(&active.http, random)).cloned();
        note_route(&mut active.http.info, route.as_ref());
        if let Some(details) = route.as_ref().and_then(|r| chain.closed_on(&r.filters)) {
            let mut reply = LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, details).flag(Flag::NoFilterConfigFound);
            reply.close = down.is_h1() && tunnels(&active.http.request);
            return active.reply(&mut down, Some(&chain), reply, None).await;
        }
    }
    drop(table);
    let Some(route) = route else {
        hcm.stats.no_route.inc();
        let mut reply = LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").flag(Flag::NoRouteFound);
        reply.close = active.http.request.is_connect() && down.is_h1();
        return active.reply(&mut down, Some(&chain), reply, None).await;
    };
    match &route.action {
        Action::Forward(to) => forward::forward(&mut active, down, timers, &chain, &route, to, random).await,
        Action::DirectResponse(direct) => {
            hcm.stats.rq_direct_response.inc();
            let reply = LocalReply::new(direct.status, "direct_response");
            let body = direct.body.clone();
            active.direct(&mut down, &chain, reply, body, &route).await;
        }
        Action::Redirect(redirect) => {
            hcm.stats.rq_redirect.inc();
            let keep_original = !chain.router.suppress_envoy_headers;
            let location = route.redirect_location(&mut active.http, keep_original);
            let mut reply = LocalReply::new(redirect.status, "direct_response");
            if let Some(location) = location {
                reply.headers.insert(http::header::LOCATION, location);
            }
            active.reply(&mut down, Some(&chain), reply, Some(&route.response_headers)).await;
        }
        Action::NonForwarding => {
            let reply =
                LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "cluster_not_found").flag(Flag::NoClusterFound);
            active.reply(&mut down, Some(&chain), reply, Some(&route.response_headers)).await;
        }
    }
}

/// Notes for filters and logs by which route a stream goes.
pub fn note_route(info: &mut StreamInfo, route: Option<&Arc<Route>>) {
    if let Some(route) = route {
        info.route_name = (!route.name.is_empty()).then(|| route.name.clone());
        info.virtual_host = Some(route.virtual_host.name.clone());
        info.virtual_host_metadata = route.virtual_host.metadata.clone();
        info.route_metadata = route.metadata.clone();
    }
}

/// Whether a request asks for a tunnel or an upgrade.
fn tunnels(request: &RequestHead) -> bool {
    request.is_connect() || request.upgrade.is_some()
}

/// The filter chain of a request, as its route wants it. None where it asks for an upgrade that is not allowed.
pub fn chain_of(
    stream: &HttpStream,
    hcm: &super::config::HttpConnectionManager,
    route: Option<&Route>,
) -> Option<Arc<Chain>> {
    let kind: Option<&[u8]> = match &stream.request.upgrade {
        Some(kind) => Some(kind.as_bytes()),
        // A CONNECT that no route takes is a 404, not a refused upgrade.
        None if stream.request.is_connect() && route.is_some() => Some(b"CONNECT"),
        None => None,
    };
    let chain = match kind {
        None => &hcm.chain,
        Some(kind) => {
            let of_route = route.and_then(|r| match &r.action {
                Action::Forward(f) => f.upgrades.get(kind).map(|u| u.enabled),
                _ => None,
            });
            hcm.upgrade(kind, of_route)?
        }
    };
    let chain = chain.load();
    Some(route.and_then(|r| r.filters.chain(&chain)).unwrap_or(chain))
}

impl ActiveStream {
    /// Answers with a route's body of bytes, which need not be text.
    async fn direct(
        &mut self,
        down: &mut Downstream<'_>,
        chain: &Arc<Chain>,
        reply: LocalReply,
        body: Bytes,
        route: &Arc<Route>,
    ) {
        let text = String::from_utf8_lossy(&body).into_owned();
        self.reply(down, Some(chain), reply.body(text), Some(&route.response_headers)).await;
    }

    /// Tells the other side of a span what the route calls it: the host of an outbound listener, the client of any other one.
    fn decorate(&mut self, route: Option<&Route>) {
        if self.connection.hcm.tracing.is_none() {
            return;
        }
        let operation = route.and_then(|r| r.decorator.as_ref()).and_then(|d| d.propagated.clone());
        let headers = &mut self.http.request.headers;
        if self.connection.info.direction == Direction::Outbound {
            if let Some(operation) = operation {
                headers.insert(X_ENVOY_DECORATOR_OPERATION, operation);
            }
        } else {
            // Where the client has a name for it, that is the span's and nobody is told of ours.
            let named = headers.remove(X_ENVOY_DECORATOR_OPERATION).is_some_and(|name| !name.is_empty());
            self.decorator = operation.filter(|_| !named);
        }
    }

    /// The status and headers of the response so far.
    pub fn set_response(&mut self, head: ResponseHead) {
        // Header rules may show the code.
        self.http.info.response_code = head.status.as_u16();
        self.http.response = Some(head);
    }
}
