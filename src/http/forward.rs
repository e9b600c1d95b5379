//! The router: a request goes to a host of its route's cluster, and the response comes back.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use waypost_filters::filter::LocalReply;
use waypost_filters::flags::Flag;
use waypost_filters::head::{Protocol, ResponseHead};

use super::downstream::Downstream;
use super::exchange::{self, Moved, Stop, Timer, Timers};
use super::failure::{Failure, allows, allows_response, connect_reply, describe, reset_reply};
use super::filters::Chain;
use super::open::open;
use super::retry::pause;
use super::rules::response::set_upstream_service_time;
use super::rules::timeouts::{Circumstances, RouteTimeouts, request_timeouts};
use super::stream::{ActiveStream, X_ENVOY_ATTEMPT_COUNT};
use super::tunnel;
use super::upstream::{Broken, Upstream};
use super::wire;
use crate::cluster::connect::{ConnectError, Sharing};
use crate::cluster::{Cluster, Host};
use crate::net::clock;
use crate::route::{ClusterPick, Forward, Route};
use crate::tcp_proxy::{ActiveRequest, choose_host};

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
    let connection = active.connection.clone();
    let hcm = &connection.hcm;
    let Some(pick) = route.pick_cluster(&active.http.request, random) else { return };
    let Some(cluster) = pick.slot.current.load_full() else {
        hcm.stats.no_cluster.inc();
        let reply = LocalReply::new(to.cluster_not_found, "cluster_not_found").flag(Flag::NoClusterFound);
        return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
    };
    active.http.info.upstream.cluster = Some(cluster.names.clone());
    active.http.info.upstream.cluster_metadata = (!cluster.metadata.is_empty()).then(|| cluster.metadata.clone());
    active.attempt_in_response = route.virtual_host.include_attempt_count_in_response;
    prepare(active, &mut timers, chain, route, to, &pick, &cluster);
    if (active.http.request.is_connect())
        && let Some(upgrade) = to.upgrades.get(b"CONNECT")
        && upgrade.connect.is_some()
    {
        return tunnel::terminate(active, down, timers, chain, &pick, &cluster).await;
    }
    let upgrading = active.http.request.upgrade.is_some() || active.http.request.is_connect();
    let mut moved = Moved { request_ended: down.request_ended(), ..Moved::default() };
    if moved.request_ended {
        timers.request_ended();
    }
    let worker = &connection.worker;
    let sharing = if cluster.shares {
        Sharing::of(&active.http.info.connection, Some(&active.http.info.filter_state))
    } else {
        Sharing::default()
    };
    let attempts_max = 1 + to.retry.as_ref().map_or(0, |r| r.num_retries);
    let mut tried: Vec<u64> = Vec::new();
    let (mut permit, mut retry_permit) = (None, None);
    // What `x-envoy-is-timeout-retry` says of an attempt after the first.
    let mut timed_out = false;
    let attempt_header = route.virtual_host.include_request_attempt_count;
    loop {
        let avoid: &[u64] = if to.retry.as_ref().is_some_and(|r| r.previous_hosts) { &tried } else { &[] };
        let headers = Some(&active.http.request.headers);
        let Some(host) = choose_host(worker, &cluster, &active.http.info, headers, avoid) else {
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
            active.http.request.headers.insert(X_ENVOY_ATTEMPT_COUNT, count);
        }
        if route.virtual_host.include_is_timeout_retry_header && active.http.info.upstream.attempts > 1 {
            let said = HeaderValue::from_static(if timed_out { "true" } else { "false" });
            active.http.request.headers.insert("x-envoy-is-timeout-retry", said);
        }
        // Its place is kept over all attempts.
        if permit.is_none() {
            permit = cluster.limits.requests.take();
        }
        if permit.is_none() {
            cluster.stats.upstream_rq_pending_overflow.inc();
            cluster.stats.upstream_rq_active_overflow.inc();
            let reply = connect_reply(&ConnectError::Overflow, false);
            return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
        }
        let counted = ActiveRequest::new(&cluster, &host);
        // An attempt before this one may have read the end of a request that had no body.
        if down.request_ended() && !moved.request_ended {
            moved.request_ended = true;
            timers.request_ended();
        }
        let ended = moved.request_ended && !upgrading;
        timers.begin_attempt(moved.request_ended);
        let opened = {
            let opening = open(worker, &cluster, &host, &sharing, &active.http.request, &active.http.info, ended);
            exchange::guard(&mut down, &mut timers, opening).await
        };
        let failure = match opened {
            Err(Stop::Timeout(Timer::PerTry)) => Failure::Timeout,
            Err(stop) => {
                cluster.stats.upstream_rq_cancelled.inc();
                drop(counted);
                return active.stopped(&mut down, Some(chain), stop, Some(pick.response_headers)).await;
            }
            Ok(Err(failure)) => failure,
            Ok(Ok(mut up)) => {
                note_upstream(active, &up);
                let headed = exchange::head(&mut down, &mut up, &mut moved, &mut timers, |down, response| {
                    if hcm.proxy_100_continue && response.head.status == StatusCode::CONTINUE {
                        down.send_informational(StatusCode::CONTINUE, response.head.headers);
                    }
                })
                .await;
                match headed {
                    Ok(response) => {
                        let fail = response.head.status.is_server_error();
                        count_response(&cluster, &host, response.head.status, fail);
                        let retry = to.retry.as_ref().filter(|r| {
                            moved.request_ended
                                && !upgrading
                                && moved.replayable()
                                && allows_response(r, &response.head)
                        });
                        if let Some(retry) = retry {
                            if active.http.info.upstream.attempts >= attempts_max {
                                cluster.stats.upstream_rq_retry_limit_exceeded.inc();
                                active.http.info.flags.set(Flag::UpstreamRetryLimitExceeded);
                            } else {
                                match pause(active, &mut down, &mut timers, &cluster, retry, &mut retry_permit).await {
                                    Ok(true) => {
                                        note_upstream_wire(active, &up);
                                        if response.end {
                                            up.done();
                                        } else {
                                            up.cancel();
                                        }
                                        drop(counted);
                                        tried.push(host.id);
                                        timed_out = false;
                                        continue;
                                    }
                                    Ok(false) => {}
                                    Err(stop) => {
                                        up.cancel();
                                        drop(counted);
                                        return active
                                            .stopped(&mut down, Some(chain), stop, Some(pick.response_headers))
                                            .await;
                                    }
                                }
                            }
                        } else if retry_permit.is_some() {
                            cluster.stats.upstream_rq_retry_success.inc();
                        }
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
                    Err(Stop::Timeout(Timer::PerTry)) => {
                        note_upstream_wire(active, &up);
                        up.cancel();
                        cluster.stats.upstream_rq_tx_reset.inc();
                        Failure::Timeout
                    }
                    Err(stop) => {
                        note_stop(&cluster, &stop);
                        note_upstream_wire(active, &up);
                        up.cancel();
                        active.note_request(moved.request, &timers);
                        drop(counted);
                        return active.stopped(&mut down, Some(chain), stop, Some(pick.response_headers)).await;
                    }
                }
            }
        };
        host.state.counts.errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        drop(counted);
        tried.push(host.id);
        timed_out = matches!(failure, Failure::Timeout);
        if let Failure::Connect(ConnectError::Failed(reason)) = &failure
            && !reason.is_empty()
        {
            active.http.info.upstream.transport_failure = Some(reason.clone());
        }
        let retriable = to.retry.as_ref().is_some_and(|r| allows(r.on, &failure)) && moved.replayable();
        if matches!(failure, Failure::Timeout) {
            cluster.stats.upstream_rq_per_try_timeout.inc();
        }
        let mut overflow = false;
        if retriable
            && active.http.info.upstream.attempts < attempts_max
            && let Some(retry) = &to.retry
        {
            match pause(active, &mut down, &mut timers, &cluster, retry, &mut retry_permit).await {
                Ok(true) => continue,
                Ok(false) => overflow = true,
                Err(stop) => {
                    return active.stopped(&mut down, Some(chain), stop, Some(pick.response_headers)).await;
                }
            }
        }
        let retried = active.http.info.upstream.attempts > 1;
        if retriable && !overflow {
            cluster.stats.upstream_rq_retry_limit_exceeded.inc();
            active.http.info.flags.set(Flag::UpstreamRetryLimitExceeded);
        }
        if !matches!(failure, Failure::Timeout) {
            cluster.stats.response(503);
        }
        if !moved.request_ended {
            // Envoy reads on while it connects: a request that has come in by now is complete.
            let (bytes, ended) = std::future::poll_fn(|cx| std::task::Poll::Ready(down.discard(cx))).await;
            moved.request += bytes;
            if ended {
                timers.request_ended();
            }
        }
        active.note_request(moved.request, &timers);
        match failure {
            Failure::Connect(error) => {
                let reply = connect_reply(&error, retried);
                active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
            }
            Failure::Timeout => {
                let stop = Stop::Timeout(Timer::PerTry);
                active.stopped(&mut down, Some(chain), stop, Some(pick.response_headers)).await;
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
    let hcm = &active.connection.hcm;
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
    timers.active_at = limits.idle.map(|_| clock::now());
    timers.duration_at = limits.max_stream_duration.map(|d| start + d);
    timers.upstream_duration = cluster.http.max_stream_duration;
    timers.per_try = limits.per_try;
    route.finalize_request(&mut active.http, pick, !suppress);
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
    info.timing.first_upstream_sent = Some(clock::since(info.start));
}

fn note_upstream_wire(active: &mut ActiveStream, up: &Upstream) {
    let mut counted = up.wire();
    if matches!(up, Upstream::H2(_)) && active.keeps_headers() {
        let coding = if up.info().requests.get() > 1 { wire::Coding::Again } else { wire::Coding::First };
        counted.headers_sent = wire::request_head(&active.http.request, coding);
        counted.sent += counted.headers_sent;
        counted.headers_received = active.http.info.upstream_wire.headers_received;
        counted.received += counted.headers_received;
    }
    // All attempts count.
    let total = &mut active.http.info.upstream_wire;
    total.sent += counted.sent;
    total.headers_sent += counted.headers_sent;
    total.received += counted.received;
    total.headers_received = counted.headers_received;
}

fn note_stop(cluster: &Cluster, stop: &Stop) {
    match stop {
        Stop::Timeout(Timer::Route) => cluster.stats.upstream_rq_timeout.inc(),
        Stop::Timeout(Timer::PerTry) => cluster.stats.upstream_rq_per_try_timeout.inc(),
        Stop::Timeout(Timer::UpstreamDuration) => cluster.stats.upstream_rq_max_duration_reached.inc(),
        _ => {}
    }
    cluster.stats.upstream_rq_tx_reset.inc();
}

fn count_response(cluster: &Cluster, host: &Host, status: StatusCode, fail: bool) {
    use std::sync::atomic::Ordering::Relaxed;
    cluster.stats.upstream_rq_completed.inc();
    cluster.stats.response(status.as_u16());
    if fail {
        host.state.counts.errors.fetch_add(1, Relaxed)
    } else {
        host.state.counts.successes.fetch_add(1, Relaxed)
    };
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
    let received = clock::since(active.http.info.start);
    active.http.info.timing.first_upstream_received = Some(received);
    let super::upstream::Response { mut head, end, upgrade, .. } = response;
    if active.keeps_headers() {
        active.http.info.upstream_wire.headers_received = wire::response_head(head.status, &head.headers);
    }
    let took = received.saturating_sub(active.http.info.timing.first_upstream_sent.unwrap_or_default());
    cluster.stats.upstream_rq_time.record(took.as_millis() as u64);
    // It counts from the end of the request, which an upgrade does not have.
    let upgrading = active.http.request.upgrade.is_some() || active.http.request.is_connect();
    if !chain.router.suppress_envoy_headers && moved.request_ended && !upgrading {
        set_upstream_service_time(&mut head.headers, took);
    }
    let requested = active.http.request.upgrade.is_some() || active.http.request.is_connect();
    let upgraded = requested && (upgrade || (matches!(up, Upstream::H2(_)) && head.status.is_success()));
    if upgraded {
        note_upstream_wire(active, &up);
        return tunnel::upgraded(active, down, timers, chain, pick, head, up, counted).await;
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it.
        note_upstream_wire(active, &up);
        up.cancel();
        return active
            .stopped(&mut down, Some(chain), Stop::Upstream(Broken::Protocol), Some(pick.response_headers))
            .await;
    }
    let mut end = end;
    if head.status.as_u16() < 400
        && active.http.request.upgrade.as_ref().is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"))
    {
        // A websocket handshake that the host does not take up has no body to pass on, unless it is an error that says why.
        active.http.info.details = Some(Cow::Borrowed("websocket_handshake_unsuccessful"));
        head.headers.remove(http::header::CONTENT_LENGTH);
        end = true;
        moved.request_ended = true;
    }
    if requested {
        // What came for the protocol that is not to be.
        moved.request += down.early();
        down.close_after();
        moved.request_ended = true;
    }
    active.http.info.details.get_or_insert(Cow::Borrowed("via_upstream"));
    active.set_response(head);
    pick.response_headers.apply_response(&mut active.http);
    active.send_head(&mut down, Some(chain), end);
    let ended = exchange::body(&mut down, &mut up, &mut moved, &mut timers, &mut active.http.body.encoder, end).await;
    active.note_request(moved.request, &timers);
    active.http.info.bytes_sent = moved.response;
    active.http.response_trailers = moved.trailers.take();
    let over = Some(clock::since(active.http.info.start));
    active.http.info.timing.last_upstream_received = over;
    active.note_wire(&down);
    note_upstream_wire(active, &up);
    match ended {
        Ok(()) => {
            down.leave_alarm(std::mem::take(&mut timers.alarm));
            // A response that is complete before its request ends the request: dropping the stream says that nobody waits for the rest.
            active.http.info.timing.last_downstream_sent = over;
            if requested {
                // What a host makes of a connection after an upgrade it has refused is its own affair: nobody else's request goes there.
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
