//! Streams that become raw bytes: a CONNECT that ends here (RFC 9110, 9.3.6; HBONE), and upgrades that a host has accepted.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use waypost_filters::address::Address;
use waypost_filters::filter::LocalReply;
use waypost_filters::flags::Flag;
use waypost_filters::head::{Protocol, ResponseHead};

use super::downstream::Downstream;
use super::exchange::{self, Timers};
use super::failure::{connect_reply, reset_reply};
use super::filters::Chain;
use super::forward::bare;
use super::manager::HttpConnection;
use super::stream::ActiveStream;
use super::upstream::Upstream;
use crate::cluster::connect::{ConnectError, Sharing, connect, passthrough};
use crate::cluster::tls_options::{Speaks, TlsOptions};
use crate::cluster::{Cluster, Host};
use crate::listener::{inspect, internal, internal_connection, serve};
use crate::net::pump::{End, Limits, Pumped, pump};
use crate::net::{Io, clock};
use crate::route::ClusterPick;
use crate::tcp_proxy::{ActiveRequest, abort, choose_host};

/// Ends a CONNECT here: its bytes go to a host of the cluster as they are.
pub async fn terminate(
    active: &mut ActiveStream,
    mut down: Downstream<'_>,
    mut timers: Timers,
    chain: &Arc<Chain>,
    pick: &ClusterPick<'_>,
    cluster: &Arc<Cluster>,
) {
    let worker = active.connection.worker.clone();
    active.http.info.upstream.attempts = 1;
    let headers = Some(&active.http.request.headers);
    let Some(host) = choose_host(&worker, cluster, &active.http.info, headers, &[]) else {
        cluster.stats.upstream_cx_none_healthy.inc();
        let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream")
            .body("no healthy upstream")
            .flag(Flag::NoHealthyUpstream);
        return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
    };
    active.http.info.upstream.host = Some(host.info.clone());
    let counted = ActiveRequest::new(cluster, &host);
    let sharing = Sharing::of(&active.http.info.connection, Some(&active.http.info.filter_state));
    if let Address::Internal { listener, .. } = &host.info.address {
        return to_internal(active, down, chain, pick, cluster, &host, listener, sharing, counted).await;
    }
    let Some(permit) = cluster.limits.connections.take() else {
        cluster.stats.upstream_cx_overflow.inc();
        let reply = connect_reply(&ConnectError::Overflow, false);
        return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
    };
    let asked = TlsOptions::of(&host, &active.http.info);
    let connecting = connect(&worker, cluster, &host, &sharing, &asked, Speaks::Bytes, Some(permit));
    let connected = match exchange::guard(&mut down, &mut timers, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => {
            if let ConnectError::Failed(reason) = &error
                && !reason.is_empty()
            {
                active.http.info.upstream.transport_failure = Some(reason.clone());
            }
            let reply = failed(&error);
            return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
        }
        Err(stop) => return active.stopped(&mut down, Some(chain), stop, Some(pick.response_headers)).await,
    };
    active.http.info.upstream.local = Some(connected.upstream.local.clone());
    active.http.info.upstream.tls = connected.upstream.tls.clone();
    active.http.info.upstream.connection_id = Some(connected.upstream.id);
    let mut up = connected.io;
    accept(active, &mut down, chain, pick);
    let flushed = std::future::poll_fn(|cx| down.poll_flush(cx)).await;
    active.note_wire(&down);
    if flushed.is_ok()
        && let Some((mut io, early)) = down.into_raw()
    {
        let connection = active.connection.clone();
        let pumped = pump(&mut io, &mut up, early, limits(&timers, &connection)).await;
        ended(active, pumped, &mut io, &mut up);
    }
    drop((counted, connected.upstream));
}

fn failed(error: &ConnectError) -> LocalReply {
    let (reason, transport) = match error {
        ConnectError::Failed(t) => ("remote connection failure", Some(&**t)),
        ConnectError::Timeout => ("connection timeout", None),
        ConnectError::Terminated => ("connection termination", None),
        ConnectError::Overflow => ("overflow", None),
    };
    reset_reply(StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamConnectionFailure, reason, transport, false)
}

/// Sends the 200 that accepts a CONNECT.
fn accept(active: &mut ActiveStream, down: &mut Downstream<'_>, chain: &Chain, pick: &ClusterPick<'_>) {
    active.http.info.details = Some(Cow::Borrowed("via_upstream"));
    // What Envoy takes for the upstream's answer is the connection.
    active.http.info.timing.first_upstream_received = Some(clock::since(active.http.info.start));
    active.set_response(bare(StatusCode::OK));
    pick.response_headers.apply_response(&mut active.http);
    active.send_head(down, Some(chain), false);
}

fn limits<'a>(timers: &Timers, connection: &'a HttpConnection) -> Limits<'a> {
    let until = [timers.duration_at, timers.upstream_duration_at].into_iter().flatten().min();
    Limits { idle: timers.idle, until, closed: Some(connection.chain.closed()) }
}

/// The internal hop of a waypoint: the CONNECT stream itself becomes the internal listener's connection.
#[allow(clippy::too_many_arguments, reason = "all that there is of a stream, handed on once")]
async fn to_internal(
    active: &mut ActiveStream,
    mut down: Downstream<'_>,
    chain: &Arc<Chain>,
    pick: &ClusterPick<'_>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    name: &str,
    sharing: Sharing,
    counted: ActiveRequest,
) {
    let worker = active.connection.worker.clone();
    let Some(listener) = internal::find(&worker, name) else {
        cluster.stats.upstream_cx_connect_fail.inc();
        let reply = failed(&ConnectError::Failed("internal_listener_not_found".into()));
        return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
    };
    let metadata = passthrough(&host.transport, cluster, host);
    // Without an inspector the filter chain is known before a byte has come, and so is that there is none: Envoy's internal connection is
    // closed before the CONNECT is answered then, which the client sees as 503. With one, the answer comes first and the stream is reset.
    let mut probe = internal_connection(&listener, sharing.filter_state.clone(), metadata.clone());
    for (filter, _) in &listener.filters {
        if matches!(filter, crate::listener::ListenerFilter::OriginalDst) {
            waypost_filters::listener::original_dst::restore_internal(&mut probe);
        }
    }
    if !inspect::reads(&listener, &probe) && serve::choose(&listener, &probe).is_none() {
        listener.stats.downstream_cx_total.inc();
        serve::refuse(&listener, probe);
        let reply = failed(&ConnectError::Failed("".into()));
        return active.reply(&mut down, Some(chain), reply, Some(pick.response_headers)).await;
    }
    let hop = Hop::new(cluster);
    let local = Address::Internal { listener: Arc::from("internal_client_address"), endpoint_id: Arc::from("") };
    active.http.info.upstream.local = Some(local);
    accept(active, &mut down, chain, pick);
    let flushed = std::future::poll_fn(|cx| down.poll_flush(cx)).await;
    active.note_wire(&down);
    if flushed.is_ok()
        && let Some((io, early)) = down.into_raw()
    {
        if let Io::Tunnel(tunnel) = &io {
            active.tunnel = Some(tunnel.bytes.clone());
        }
        internal::accept(&worker, listener, io.with_prefix(early), sharing.filter_state, metadata).await;
    }
    drop((counted, hop));
}

/// Counts the connection of an internal hop that is none.
struct Hop(Arc<Cluster>, Instant);

impl Hop {
    fn new(cluster: &Arc<Cluster>) -> Hop {
        cluster.stats.upstream_cx_total.inc();
        cluster.stats.upstream_cx_active.inc();
        Hop(cluster.clone(), Instant::now())
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.0.stats.upstream_cx_active.dec();
        self.0.stats.upstream_cx_destroy.inc();
        self.0.stats.upstream_cx_length_ms.record(self.1.elapsed().as_millis() as u64);
    }
}

/// Passes the bytes on after a host has accepted an upgrade or CONNECT.
#[allow(clippy::too_many_arguments, reason = "all that there is of an exchange, handed on once")]
pub async fn upgraded(
    active: &mut ActiveStream,
    mut down: Downstream<'_>,
    timers: Timers,
    chain: &Arc<Chain>,
    pick: &ClusterPick<'_>,
    mut head: ResponseHead,
    up: Upstream,
    counted: ActiveRequest,
) {
    let hcm = active.connection.hcm.clone();
    let connection = head.headers.get(http::header::CONNECTION).cloned();
    // HTTP/1 says 101 where HTTP/2 says 200.
    if active.http.request.upgrade.is_some() {
        head.status = if down.is_h1() { StatusCode::SWITCHING_PROTOCOLS } else { StatusCode::OK };
        if active.http.info.protocol == Some(Protocol::Http2) {
            head.headers.remove(http::header::CONNECTION);
            head.headers.remove(http::header::UPGRADE);
        } else if let Some(kind) = &active.http.request.upgrade {
            head.headers.insert(http::header::UPGRADE, kind.clone());
        }
    }
    active.http.info.details = Some(Cow::Borrowed("via_upstream"));
    active.set_response(head);
    pick.response_headers.apply_response(&mut active.http);
    active.send_head(&mut down, Some(chain), false);
    if active.http.request.upgrade.is_some()
        && let Some(response) = &mut active.http.response
    {
        // Inside Envoy an upgrade is HTTP/1's whatever the client speaks, and so it is logged.
        active.http.info.response_code = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        if let Some(said) = connection {
            response.headers.insert(http::header::CONNECTION, said);
        }
    }
    hcm.stats.downstream_cx_upgrades_total.inc();
    hcm.stats.downstream_cx_upgrades_active.inc();
    let flushed = std::future::poll_fn(|cx| down.poll_flush(cx)).await;
    active.note_wire(&down);
    if flushed.is_ok()
        && let (Some((mut io, early)), Some((mut upstream, keep))) = (down.into_raw(), up.into_raw())
    {
        let connection = active.connection.clone();
        let pumped = pump(&mut io, &mut upstream, early, limits(&timers, &connection)).await;
        ended(active, pumped, &mut io, &mut upstream);
        drop(keep);
    }
    hcm.stats.downstream_cx_upgrades_active.dec();
    drop(counted);
}

/// Notes how a tunnel ended, and passes a reset on.
fn ended(active: &mut ActiveStream, pumped: Pumped, down: &mut Io, up: &mut Io) {
    let info = &mut active.http.info;
    info.bytes_received = pumped.received;
    info.bytes_sent = pumped.sent;
    for (wire, received, sent) in [
        (&mut info.downstream_wire, pumped.received, pumped.sent),
        (&mut info.upstream_wire, pumped.sent, pumped.received),
    ] {
        wire.received += received;
        wire.sent += sent;
    }
    match pumped.end {
        // The end of an HTTP/1 client's direction is the end of its connection, as Envoy has it.
        End::Clean if pumped.downstream_first && !matches!(down, Io::Tunnel(_)) => {
            info.flags.set(Flag::DownstreamConnectionTermination);
            info.details = Some(Cow::Borrowed("downstream_remote_disconnect"));
        }
        End::Clean => {
            let now = clock::since(info.start);
            info.timing.request_received.get_or_insert(now);
            info.timing.last_downstream_sent = Some(now);
        }
        End::Downstream(_) => {
            let (flag, details) = if matches!(down, Io::Tunnel(_)) {
                (Flag::DownstreamRemoteReset, "http2.remote_reset")
            } else {
                (Flag::DownstreamConnectionTermination, "downstream_remote_disconnect")
            };
            info.flags.set(flag);
            info.details = Some(Cow::Borrowed(details));
            active.client_reset = true;
            abort(up);
        }
        End::Upstream(_) => {
            info.flags.set(Flag::UpstreamConnectionTermination);
            abort(down);
        }
        End::Idle => info.flags.set(Flag::StreamIdleTimeout),
        End::Expired => info.flags.set(Flag::DurationTimeout),
        // Noted for whatever a closed filter chain had open.
        End::Closed => {}
    }
}
