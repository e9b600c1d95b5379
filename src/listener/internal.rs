//! Internal listeners: connections that never leave the process.
//!
//! Envoy copies every byte of such a connection through two sockets in user space. Here the byte stream itself is handed over: a CONNECT
//! stream is the internal listener's connection, and where the listener's chain ends in a tunnelling TCP proxy, whoever connects gets that
//! proxy's own CONNECT stream. Only chains that need bytes of their own get a pipe.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::BytesMut;
use waypost_filters::filter::NetworkStep;
use waypost_filters::filter_state::FilterState;
use waypost_filters::metadata::Metadata;

use super::network::Named;
use super::serve::{choose, refuse, serve};
use super::{Handover, Listener, StreamHandover, Terminal, inspect, internal_connection};
use crate::cluster::connect::{ConnectError, FarSide, Guard};
use crate::net::Io;
use crate::worker::{Command, LoadGuard, Worker, WorkerHandle};

/// `bootstrap.internal_listener.buffer_size_kb` in istiod's bootstrap; the buffer of each direction of a pipe.
const PIPE_BYTES: usize = 64 * 1024;

/// A stream goes to another worker only when that one has this many fewer: moving costs a wake-up of another thread.
const HANDOVER_MARGIN: usize = 2;

/// The internal listener of a name.
pub fn find(worker: &Worker, name: &str) -> Option<Arc<Listener>> {
    worker.shared.listeners.load().internal.get(name).cloned()
}

/// Serves a byte stream as a connection of an internal listener, here or on a less busy worker, and waits for its end.
pub async fn accept(
    worker: &Rc<Worker>,
    listener: Arc<Listener>,
    io: Io,
    filter_state: FilterState,
    metadata: Metadata,
) {
    if let Some(to) = less_busy(worker) {
        let (done, ended) = tokio::sync::oneshot::channel();
        // Counted there at once, or a burst of streams would all go to the same worker.
        let load = LoadGuard::new(&to.load);
        let stream = Handover::Stream(Box::new(StreamHandover { listener, io, filter_state, metadata, done, load }));
        if to.sender.send(Command::Serve(stream)).is_ok() {
            // It is dropped, not sent, when the stream has ended.
            let _ = ended.await;
        }
        return;
    }
    let load = LoadGuard::new(&worker.load);
    run(worker, listener, io, filter_state, metadata, load).await;
}

/// Serves it here. Boxed, since an internal listener may lead to another one.
pub fn run<'a>(
    worker: &'a Rc<Worker>,
    listener: Arc<Listener>,
    io: Io,
    filter_state: FilterState,
    metadata: Metadata,
    load: LoadGuard,
) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
    Box::pin(async move {
        let _load = load;
        let connection = internal_connection(&listener, filter_state, metadata);
        serve(worker, &listener, io, BytesMut::new(), connection).await;
    })
}

/// Another worker that has clearly less to do.
fn less_busy(worker: &Worker) -> Option<&WorkerHandle> {
    let workers = worker.shared.workers.get()?;
    if workers.len() < 2 {
        return None;
    }
    let own = worker.load.load(Relaxed);
    let (index, least) = workers.iter().map(|w| w.load.load(Relaxed)).enumerate().min_by_key(|(_, load)| *load)?;
    workers.get(index).filter(|_| index != worker.index && least + HANDOVER_MARGIN <= own)
}

/// Connects to an internal listener.
pub async fn connect(
    worker: &Rc<Worker>,
    name: &str,
    filter_state: FilterState,
    metadata: Metadata,
) -> Result<(Io, Guard), ConnectError> {
    let Some(listener) = find(worker, name) else {
        return Err(ConnectError::Failed("internal_listener_not_found".into()));
    };
    let mut connection = internal_connection(&listener, filter_state, metadata);
    for (filter, disabled) in &listener.filters {
        if matches!(filter, super::ListenerFilter::OriginalDst) && !disabled.disabled(connection.local.port()) {
            waypost_filters::listener::original_dst::restore_internal(&mut connection);
        }
    }
    if !inspect::reads(&listener, &connection) {
        let Some(chain) = choose(&listener, &connection) else {
            listener.stats.downstream_cx_total.inc();
            refuse(&listener, connection);
            return Err(ConnectError::Terminated);
        };
        if let (Terminal::Tcp(proxy), None) = (&chain.terminal, &chain.tls)
            && proxy.tunneling.is_some()
        {
            listener.stats.downstream_cx_total.inc();
            let active = super::serve::Active::new(&listener, std::time::Instant::now());
            connection.filter_chain = chain.name.clone();
            for Named { filter, .. } in chain.network.iter() {
                if let NetworkStep::Close(_) = filter.on_new_connection(&mut connection) {
                    return Err(ConnectError::Terminated);
                }
            }
            let opened = Box::pin(crate::tcp_proxy::open_fused(worker, proxy, Arc::new(connection))).await;
            return match opened {
                Ok((io, session)) => {
                    let session = Box::new((session, active));
                    Ok((io, Some(FarSide { chain: chain.state.clone(), session })))
                }
                Err(_) => Err(ConnectError::Terminated),
            };
        }
    }
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let worker = worker.clone();
    // The connection is built again there: what was learnt here was needed only to choose the way.
    let (filter_state, metadata) = (connection.filter_state, connection.metadata);
    let load = LoadGuard::new(&worker.load);
    tokio::task::spawn_local(async move {
        run(&worker, listener, Io::Pipe(far), filter_state, metadata, load).await;
    });
    Ok((Io::Pipe(near), None))
}
