//! A connection's way from its listener to the network filter that takes its bytes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use waypost_filters::connection::Connection;
use waypost_filters::filter::NetworkStep;
use waypost_filters::flags::Flag;
use waypost_filters::format::FormatContext;
use waypost_filters::head::Protocol;
use waypost_filters::stream::StreamInfo;

use super::drain::until_closed;
use super::inspect::{self, Refused};
use super::network::Named;
use super::{FilterChain, Listener, Terminal};
use crate::net::Io;
use crate::net::alarm::timeout_at;
use crate::net::exchange::exchange;
use crate::worker::Worker;

/// What went over a connection, for the listener's own log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// The protocol, where it is HTTP.
    pub protocol: Option<Protocol>,
    /// Bytes from the client; TLS not counted.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
}

/// Serves a connection to its end.
pub async fn serve(
    worker: &Rc<Worker>,
    listener: &Arc<Listener>,
    mut io: Io,
    mut read: BytesMut,
    mut connection: Connection,
) {
    let stats = &listener.stats;
    let start = Instant::now();
    stats.downstream_pre_cx_active.inc();
    let inspected = inspect::run(listener, &mut io, &mut read, &mut connection).await;
    stats.downstream_pre_cx_active.dec();
    if let Err(why) = inspected {
        match why {
            Refused::Timeout => stats.downstream_pre_cx_timeout.inc(),
            Refused::Error => stats.downstream_listener_filter_error.inc(),
        }
        return io.break_off();
    }
    stats.downstream_cx_total.inc();
    let Some(chain) = choose(listener, &connection) else {
        refuse(listener, connection);
        // A connection that no chain takes is closed with unread data in its socket, which makes the kernel send a reset, as Envoy's does.
        return io.break_off();
    };
    let _active = Active::new(listener, start);
    connection.filter_chain = chain.name.clone();
    if let Some(tls) = &chain.tls {
        let io_with_bytes = io.with_prefix(read.split().freeze());
        let handshake = crate::tls::accept(tls, io_with_bytes, stats.ssl.get().map(|s| &**s));
        match timeout_at(chain.handshake_timeout.map(|t| start + t), handshake).await {
            Some(Ok((stream, session))) => {
                io = stream;
                connection.transport_protocol = "tls";
                connection.tls = Some(session);
            }
            Some(Err(reason)) => {
                tracing::debug!("listener {}: TLS: {reason}", listener.name);
                connection.transport_failure = Some(reason).filter(|r| !r.is_empty());
                log(listener, &Arc::new(connection), Served::default(), None, None);
                return;
            }
            None => {
                stats.downstream_cx_transport_socket_connect_timeout.inc();
                return;
            }
        }
    }
    for Named { filter, .. } in chain.network.iter() {
        if let NetworkStep::Close(reason) = filter.on_new_connection(&mut connection) {
            log(listener, &Arc::new(connection), Served::default(), None, Some(reason.as_ref().into()));
            return io.break_off();
        }
    }
    if let (Some(filter), Some(session)) = (&chain.exchange, &connection.tls)
        && filter.agreed(session)
    {
        // As long as the handshake may take: it is part of how the two sides meet.
        match timeout_at(chain.handshake_timeout.map(|t| start + t), exchange(io, filter)).await {
            Some(Ok(exchanged)) => io = exchanged,
            failed => {
                let reason = failed.and_then(Result::err).map_or_else(|| "timeout".to_owned(), |e| e.to_string());
                tracing::debug!("listener {}: metadata exchange: {reason}", listener.name);
                return;
            }
        }
    }
    let connection = Arc::new(connection);
    let serving = std::pin::pin!(async {
        match &chain.terminal {
            Terminal::Http(hcm) => {
                crate::http::manager::serve(worker, hcm, &chain.state, io, read, connection.clone()).await
            }
            Terminal::Tcp(proxy) => {
                crate::tcp_proxy::serve(worker, proxy, &chain.state, io, read.freeze(), connection.clone()).await
            }
            Terminal::Echo => echo(io, read).await,
            Terminal::DirectResponse(body) => direct_response(io, body.clone()).await,
            Terminal::Nothing => Served::default(),
        }
    });
    let served = until_closed(worker, &chain.state, serving).await.unwrap_or_default();
    if !listener.access_logs.is_empty() {
        log(listener, &connection, served, None, None);
    }
}

/// The filter chain that takes a connection.
pub fn choose(listener: &Listener, connection: &Connection) -> Option<Arc<FilterChain>> {
    let chains = listener.chains.load();
    chains.all.get(chains.chain_match.find(connection)?).cloned()
}

/// Counts and logs a connection that no chain takes.
pub fn refuse(listener: &Listener, connection: Connection) {
    listener.stats.no_filter_chain_match.inc();
    log(listener, &Arc::new(connection), Served::default(), Some(Flag::NoRouteFound), None);
}

/// Writes the listener's own access log.
fn log(
    listener: &Listener,
    connection: &Arc<Connection>,
    served: Served,
    flag: Option<Flag>,
    termination: Option<Arc<str>>,
) {
    if listener.access_logs.is_empty() {
        return;
    }
    let now = Instant::now();
    let age = connection.start.elapsed().unwrap_or_default();
    let mut info =
        StreamInfo::of_connection(connection.clone(), 0, now.checked_sub(age).unwrap_or(now), connection.start);
    if let Some(flag) = flag {
        info.flags.set(flag);
        info.details = Some("filter_chain_not_found".into());
    }
    info.termination_details = termination.map(|t| t.to_string().into());
    (info.protocol, info.bytes_received, info.bytes_sent) = (served.protocol, served.received, served.sent);
    info.timing.complete = Some(age);
    for log in &listener.access_logs {
        log.record(&FormatContext::of_info(&info));
    }
}

/// Counts a connection while it lives.
pub struct Active {
    listener: Arc<Listener>,
    start: Instant,
}

impl Active {
    /// Counts one more.
    pub fn new(listener: &Arc<Listener>, start: Instant) -> Active {
        listener.stats.downstream_cx_active.inc();
        Active { listener: listener.clone(), start }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.listener.stats.downstream_cx_active.dec();
        self.listener.stats.downstream_cx_destroy.inc();
        self.listener.stats.downstream_cx_length_ms.record(self.start.elapsed().as_millis() as u64);
    }
}

/// `envoy.filters.network.echo`: what comes in goes out.
async fn echo(mut io: Io, read: BytesMut) -> Served {
    use tokio::io::AsyncWriteExt;
    let mut data = read;
    let mut served = Served::default();
    loop {
        served.received += data.len() as u64;
        if io.write_all(&data).await.is_err() || io.flush().await.is_err() {
            return served;
        }
        served.sent = served.received;
        data.clear();
        match std::future::poll_fn(|cx| io.poll_fill(cx, &mut data)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    let _ = io.shutdown().await;
    served
}

/// `envoy.filters.network.direct_response`: one answer, then the end.
async fn direct_response(mut io: Io, body: bytes::Bytes) -> Served {
    use tokio::io::AsyncWriteExt;
    let written = io.write_all(&body).await.is_ok();
    if written {
        let _ = io.shutdown().await;
    }
    Served { sent: if written { body.len() as u64 } else { 0 }, ..Served::default() }
}
