//! The router: a request goes to a host of its route's cluster, and the response comes back.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, StatusCode};
use waypost_filters::filter::LocalReply;
use waypost_filters::flags::Flag;
use waypost_filters::head::{Protocol, RequestHead, ResponseHead};

use super::downstream::Downstream;
use super::exchange::{self, Moved, Stop, Timers};
use super::filters::Chain;
use super::rules::response::set_upstream_service_time;
use super::rules::timeouts::{Circumstances, RouteTimeouts, request_timeouts};
use super::stream::ActiveStream;
use super::tunnel;
use super::upstream::{Broken, H1Client, H2Client, Upstream};
use crate::cluster::connect::{AutoSni, ConnectError, Sharing};
use crate::cluster::{Cluster, Host, UpstreamProtocol};
use crate::route::{ClusterPick, Forward, RetryOn, Route};
use crate::tcp_proxy::{ActiveRequest, choose_host};
use crate::worker::Worker;

/// Envoy's words for how an upstream failed: status, flag, reason.
pub fn describe(broken: Broken) -> (StatusCode, Flag, &'static str) {
    match broken {
        Broken::Terminated => {
            (StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamConnectionTermination, "connection termination")
        }
        Broken::Reset => (StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamRemoteReset, "remote reset"),
        Broken::Refused => (StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamRemoteReset, "remote refused stream reset"),
        Broken::Protocol => (StatusCode::BAD_GATEWAY, Flag::UpstreamProtocolError, "protocol error"),
    }
}

/// The local reply to a reset before the response's head.
pub fn reset_reply(status: StatusCode, flag: Flag, reason: &str, transport: Option<&str>, retried: bool) -> LocalReply {
    let body = if retried {
        format!(
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: {reason}"
        )
    } else {
        format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}")
    };
    let reason = reason.replace(' ', "_");
    let details = match transport {
        Some(t) if !t.is_empty() => {
            format!("upstream_reset_before_response_started{{{reason}|{}}}", t.replace(' ', "_"))
        }
        _ => format!("upstream_reset_before_response_started{{{reason}}}"),
    };
    LocalReply::new(status, details).body(body).flag(flag)
}

/// The local reply to a connection that could not be made.
fn connect_reply(error: &ConnectError, retried: bool) -> LocalReply {
    match error {
        ConnectError::Failed(reason) => reset_reply(
            StatusCode::SERVICE_UNAVAILABLE,
            Flag::UpstreamConnectionFailure,
            "remote connection failure",
            Some(reason),
            retried,
        ),
        ConnectError::Timeout => reset_reply(
            StatusCode::SERVICE_UNAVAILABLE,
            Flag::UpstreamConnectionFailure,
            "connection timeout",
            None,
            retried,
        ),
        ConnectError::Terminated => {
            let (status, flag, reason) = describe(Broken::Terminated);
            reset_reply(status, flag, reason, None, retried)
        }
        ConnectError::Overflow => {
            let mut reply =
                reset_reply(StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamOverflow, "overflow", None, retried);
            reply.headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
            reply
        }
    }
}

/// An attempt's way of failing that may be worth another.
enum Failure {
    Connect(ConnectError),
    Broken(Broken),
}

/// Sends a request on.
pub async fn forward(
    active: &mut ActiveStream,
    mut down: Downstream<'_>,
    mut timers: Timers,
    chain: &Arc<Chain>,
    route: &Arc<Route>,
    to: &Forward,
    random: u64,
) {
    let hcm = active.connection.hcm.clone();
    let Some(pick) = route.pick_cluster(&active.http.request, random) else { return };
    let Some(cluster) = pick.slot.current.load_full() else {
        hcm.stats.no_cluster.inc();
        let reply = LocalReply::new(to.cluster_not_found, "cluster_not_found").flag(Flag::NoClusterFound);
        return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
    };
    active.http.info.upstream.cluster = Some(cluster.names.clone());
    active.http.info.upstream.cluster_metadata = (!cluster.metadata.is_empty()).then(|| cluster.metadata.clone());
    prepare(active, &mut timers, chain, route, to, &pick, &cluster);
    if (active.http.request.is_connect())
        && let Some(upgrade) = to.upgrades.get(b"CONNECT")
        && upgrade.connect.is_some()
    {
        return tunnel::terminate(active, down, timers, chain, &pick, &cluster).await;
    }
    let Some(_permit) = cluster.limits.requests.take() else {
        cluster.stats.upstream_rq_pending_overflow.inc();
        cluster.stats.upstream_rq_active_overflow.inc();
        let reply = connect_reply(&ConnectError::Overflow, false);
        return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
    };
    let upgrading = active.http.request.upgrade.is_some() || active.http.request.is_connect();
    let ended = down.request_ended() && !upgrading;
    let mut moved = Moved { request_ended: down.request_ended(), ..Moved::default() };
    if moved.request_ended {
        timers.request_ended();
        active.http.info.timing.request_received = Some(active.http.info.start.elapsed());
    }
    let worker = active.connection.worker.clone();
    let sharing = if cluster.shares {
        Sharing::of(&active.http.info.connection, Some(&active.http.info.filter_state))
    } else {
        Sharing::default()
    };
    let attempts_max = 1 + to.retry.as_ref().map_or(0, |r| r.num_retries);
    let mut tried: Vec<u64> = Vec::new();
    let attempt_header = route.virtual_host.include_request_attempt_count;
    loop {
        let avoid: &[u64] = if to.retry.as_ref().is_some_and(|r| r.previous_hosts) { &tried } else { &[] };
        let headers = Some(&active.http.request.headers);
        let Some(host) = choose_host(&worker, &cluster, &active.http.info.connection, headers, avoid) else {
            cluster.stats.upstream_cx_none_healthy.inc();
            active.http.info.upstream.attempts = active.http.info.upstream.attempts.max(1);
            let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream")
                .body("no healthy upstream")
                .flag(Flag::NoHealthyUpstream);
            return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
        };
        active.http.info.upstream.attempts += 1;
        active.http.info.upstream.host = Some(host.info.clone());
        if attempt_header {
            let count = HeaderValue::from(active.http.info.upstream.attempts);
            active.http.request.headers.insert("x-envoy-attempt-count", count);
        }
        let counted = ActiveRequest::new(&cluster, &host);
        let opened = {
            let opening =
                open(&worker, &cluster, &host, &sharing, &active.http.request, active.http.info.protocol, ended);
            exchange::guard(&mut down, &mut timers, opening).await
        };
        let failure = match opened {
            Err(stop) => {
                cluster.stats.upstream_rq_cancelled.inc();
                drop(counted);
                return active.stopped(&mut down, Some(chain), stop, Some(pick.response_headers)).await;
            }
            Ok(Err(failure)) => failure,
            Ok(Ok(mut up)) => {
                note_upstream(active, &up);
                let mut informational = Vec::new();
                let headed = exchange::head(&mut down, &mut up, &mut moved, &mut timers, |_, r| {
                    informational.push(r.head.status)
                })
                .await;
                drop(informational);
                match headed {
                    Ok(response) => {
                        let fail = response.head.status.is_server_error();
                        count_response(&cluster, &host, response.head.status, fail);
                        return respond(active, down, timers, chain, &pick, &cluster, up, response, moved, counted)
                            .await;
                    }
                    Err(Stop::Upstream(broken)) => {
                        note_upstream_wire(active, &up);
                        up.cancel();
                        if broken != Broken::Terminated {
                            cluster.stats.upstream_rq_rx_reset.inc();
                        }
                        if broken == Broken::Protocol {
                            cluster.stats.upstream_cx_protocol_error.inc();
                        }
                        Failure::Broken(broken)
                    }
                    Err(stop) => {
                        note_stop(&cluster, &stop);
                        note_upstream_wire(active, &up);
                        up.cancel();
                        active.http.info.bytes_received = moved.request;
                        drop(counted);
                        return active.stopped(&mut down, Some(chain), stop, Some(pick.response_headers)).await;
                    }
                }
            }
        };
        host.counts.errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        drop(counted);
        tried.push(host.id);
        if let Failure::Connect(ConnectError::Failed(reason)) = &failure {
            active.http.info.upstream.transport_failure = Some(reason.clone());
        }
        let retriable = to.retry.as_ref().is_some_and(|r| allows(r.on, &failure)) && moved.request == 0;
        if retriable && active.http.info.upstream.attempts < attempts_max {
            cluster.stats.upstream_rq_retry.inc();
            continue;
        }
        let retried = active.http.info.upstream.attempts > 1;
        if retriable {
            cluster.stats.upstream_rq_retry_limit_exceeded.inc();
            active.http.info.flags.set(Flag::UpstreamRetryLimitExceeded);
        }
        cluster.stats.response(503);
        active.http.info.bytes_received = moved.request;
        match failure {
            Failure::Connect(error) => {
                let reply = connect_reply(&error, retried);
                active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
            }
            Failure::Broken(broken) => {
                let (status, flag, reason) = describe(broken);
                let reply = reset_reply(status, flag, reason, None, retried);
                active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
            }
        }
        return;
    }
}

/// Header rules, rewrites and timeouts, before the first attempt.
fn prepare(
    active: &mut ActiveStream,
    timers: &mut Timers,
    chain: &Chain,
    route: &Route,
    to: &Forward,
    pick: &ClusterPick<'_>,
    cluster: &Cluster,
) {
    let suppress = chain.router.suppress_envoy_headers;
    let hcm = active.connection.hcm.clone();
    let retry = to.retry.as_deref();
    let of_route = RouteTimeouts {
        timeout: to.timeout.unwrap_or_default(),
        idle: to.idle_timeout,
        per_try: retry.and_then(|r| r.per_try_timeout).unwrap_or_default(),
        per_try_idle: retry.and_then(|r| r.per_try_idle_timeout).unwrap_or_default(),
        max_grpc_timeout: to.max_grpc_timeout,
        grpc_timeout_offset: to.grpc_timeout_offset,
        uses_stream_duration: to.max_stream_duration.is_some(),
        max_stream_duration: to.max_stream_duration.and_then(|d| d.max),
        grpc_timeout_header_max: to.max_stream_duration.and_then(|d| d.grpc_timeout_header_max),
        grpc_timeout_header_offset: to.max_stream_duration.and_then(|d| d.grpc_timeout_header_offset),
        hedge_on_per_try_timeout: false,
    };
    let with = Circumstances {
        grpc: active.http.request.is_grpc(),
        respect_expected: chain.router.respect_expected_rq_timeout,
        suppress_headers: suppress,
        stream_idle: hcm.timeouts.stream_idle,
        max_stream_duration: hcm.timeouts.max_stream_duration,
    };
    let limits = request_timeouts(&mut active.http.request.headers, &of_route, with);
    let start = active.http.info.start;
    timers.route = limits.global;
    timers.idle = limits.idle;
    timers.active_at = limits.idle.map(|_| Instant::now());
    timers.duration_at = limits.max_stream_duration.map(|d| start + d);
    timers.upstream_duration_at = cluster.http.max_stream_duration.map(|d| Instant::now() + d);
    timers.per_try_at = limits.per_try.map(|d| Instant::now() + d);
    route.finalize_request(&mut active.http, pick, !suppress);
    if let Some(decorator) = route.decorator.as_ref().filter(|d| d.propagate && !suppress)
        && hcm.tracing.is_some()
        && let Ok(value) = HeaderValue::from_str(&decorator.operation)
    {
        active.http.request.headers.insert("x-envoy-decorator-operation", value);
    }
}

fn note_upstream(active: &mut ActiveStream, up: &Upstream) {
    let upstream = up.info();
    let info = &mut active.http.info;
    info.upstream.local = Some(upstream.local.clone());
    info.upstream.tls = upstream.tls.clone();
    info.upstream.connection_id = Some(upstream.id);
    info.upstream.protocol = Some(match up {
        Upstream::H1(_) => Protocol::Http11,
        Upstream::H2(_) => Protocol::Http2,
    });
    info.timing.first_upstream_sent = Some(info.start.elapsed());
}

fn note_upstream_wire(active: &mut ActiveStream, up: &Upstream) {
    if let Some(wire) = up.wire() {
        active.http.info.upstream_wire = wire;
    }
}

fn note_stop(cluster: &Cluster, stop: &Stop) {
    match stop {
        Stop::Timeout(exchange::Timer::Route) => cluster.stats.upstream_rq_timeout.inc(),
        Stop::Timeout(exchange::Timer::PerTry) => cluster.stats.upstream_rq_per_try_timeout.inc(),
        Stop::Timeout(exchange::Timer::UpstreamDuration) => cluster.stats.upstream_rq_max_duration_reached.inc(),
        _ => {}
    }
    cluster.stats.upstream_rq_tx_reset.inc();
}

fn count_response(cluster: &Cluster, host: &Host, status: StatusCode, fail: bool) {
    use std::sync::atomic::Ordering::Relaxed;
    cluster.stats.upstream_rq_completed.inc();
    cluster.stats.response(status.as_u16());
    if fail {
        host.counts.errors.fetch_add(1, Relaxed)
    } else {
        host.counts.successes.fetch_add(1, Relaxed)
    };
}

/// Whether a policy lets such a failure be tried again.
fn allows(on: RetryOn, failure: &Failure) -> bool {
    match failure {
        Failure::Connect(ConnectError::Failed(_) | ConnectError::Timeout) => {
            on.any(RetryOn::CONNECT_FAILURE)
                || on.any(RetryOn::FIVE_XX)
                || on.any(RetryOn::GATEWAY_ERROR)
                || on.any(RetryOn::RESET)
                || on.any(RetryOn::RESET_BEFORE_REQUEST)
        }
        Failure::Connect(ConnectError::Terminated) => {
            on.any(RetryOn::FIVE_XX) || on.any(RetryOn::GATEWAY_ERROR) || on.any(RetryOn::RESET)
        }
        Failure::Connect(ConnectError::Overflow) => false,
        Failure::Broken(Broken::Refused) => {
            on.any(RetryOn::REFUSED_STREAM)
                || on.any(RetryOn::FIVE_XX)
                || on.any(RetryOn::GATEWAY_ERROR)
                || on.any(RetryOn::RESET)
        }
        Failure::Broken(_) => on.any(RetryOn::FIVE_XX) || on.any(RetryOn::GATEWAY_ERROR) || on.any(RetryOn::RESET),
    }
}

/// Gets a connection and begins the exchange.
async fn open(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    sharing: &Sharing,
    head: &RequestHead,
    downstream: Option<Protocol>,
    end: bool,
) -> Result<Upstream, Failure> {
    let sni: AutoSni = cluster
        .http
        .auto_sni
        .then(|| std::str::from_utf8(head.authority_bytes()).ok())
        .flatten()
        .map(|authority| host_of(authority).into());
    let h2 = match cluster.http.protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::Downstream => downstream == Some(Protocol::Http2),
        // Both are offered; the pool of HTTP/2 falls back when the host chooses HTTP/1.
        UpstreamProtocol::Alpn => true,
    };
    let pool = worker.pool(cluster, host, sharing, &sni, h2);
    if h2 {
        let lease = pool.h2(worker, sni).await.map_err(Failure::Connect)?;
        let client = H2Client::begin(lease, head, end).await.map_err(Failure::Broken)?;
        return Ok(Upstream::H2(Box::new(client)));
    }
    let conn = match pool.take_idle() {
        Some(conn) => conn,
        // Boxed: making a connection takes far more state than using one.
        None => Box::pin(pool.h1(worker, sni)).await.map_err(Failure::Connect)?,
    };
    Ok(Upstream::H1(Box::new(H1Client::begin(conn, pool, head, end))))
}

/// An authority without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => authority,
    }
}

#[allow(clippy::too_many_arguments, reason = "all that there is of an exchange, handed on once")]
async fn respond(
    active: &mut ActiveStream,
    mut down: Downstream<'_>,
    mut timers: Timers,
    chain: &Arc<Chain>,
    pick: &ClusterPick<'_>,
    cluster: &Arc<Cluster>,
    mut up: Upstream,
    response: super::upstream::Response,
    mut moved: Moved,
    counted: ActiveRequest,
) {
    let received = active.http.info.start.elapsed();
    active.http.info.timing.first_upstream_received = Some(received);
    let super::upstream::Response { mut head, end, upgrade, .. } = response;
    let sent_at = active.http.info.timing.first_upstream_sent.unwrap_or_default();
    cluster.stats.upstream_rq_time.record(received.saturating_sub(sent_at).as_millis() as u64);
    if !chain.router.suppress_envoy_headers {
        set_upstream_service_time(&mut head.headers, received.saturating_sub(sent_at));
    }
    let requested = active.http.request.upgrade.is_some() || active.http.request.is_connect();
    let upgraded = requested && (upgrade || (matches!(up, Upstream::H2(_)) && head.status.is_success()));
    if upgraded {
        return tunnel::upgraded(active, down, timers, chain, pick, head, up, counted).await;
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it.
        up.cancel();
        return active
            .stopped(&mut down, Some(chain), Stop::Upstream(Broken::Protocol), Some(pick.response_headers))
            .await;
    }
    let mut end = end;
    if active.http.request.upgrade.as_ref().is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        // A websocket handshake that the host does not take up has no body to pass on.
        active.http.info.details = Some(Cow::Borrowed("websocket_handshake_unsuccessful"));
        head.headers.remove(http::header::CONTENT_LENGTH);
        end = true;
        moved.request_ended = true;
    }
    if requested {
        down.close_after();
        moved.request_ended = true;
    }
    active.http.info.details.get_or_insert(Cow::Borrowed("via_upstream"));
    active.set_response(head);
    pick.response_headers.apply_response(&mut active.http);
    active.send_head(&mut down, Some(chain), end);
    let ended = exchange::body(&mut down, &mut up, &mut moved, &mut timers, end).await;
    active.http.info.bytes_received = moved.request;
    active.http.info.bytes_sent = moved.response;
    active.http.response_trailers = moved.trailers.take();
    active.http.info.timing.last_upstream_received = Some(active.http.info.start.elapsed());
    active.note_wire(&down);
    note_upstream_wire(active, &up);
    match ended {
        Ok(()) => {
            down.leave_alarm(std::mem::take(&mut timers.alarm));
            // A response that is complete before its request ends the request: nobody waits for the rest of it.
            if !moved.request_ended {
                down.refuse_rest();
            }
            if active.http.info.details.as_deref() == Some("websocket_handshake_unsuccessful") {
                up.cancel();
            } else {
                up.done();
            }
        }
        Err(stop) => {
            note_stop(cluster, &stop);
            up.cancel();
            active.stopped(&mut down, Some(chain), stop, None).await;
        }
    }
    drop(counted);
}

/// A response without a body.
pub fn bare(status: StatusCode) -> ResponseHead {
    ResponseHead { status, headers: http::HeaderMap::new() }
}
