//! Accept loops.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use waypost_filters::address::Address;
use waypost_filters::connection::Connection;

use super::{Handover, ListenSocket, Listener, serve};
use crate::net::Io;
use crate::worker::{Command, LoadGuard, Worker};

/// When the process has no file descriptor left, accepting again at once would only burn the CPU.
const ACCEPT_ERROR_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Serves a listening TCP socket.
pub fn listen(worker: &Rc<Worker>, to: Arc<ListenSocket>, socket: std::net::TcpListener) {
    let socket = match TcpListener::from_std(socket) {
        Ok(s) => s,
        Err(e) => {
            tracing::error!("listener {}: {e}", to.listener.load().name);
            return;
        }
    };
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        while !to.is_closed() {
            let stream = tokio::select! {
                biased;
                () = worker.stop_listening.notified() => continue,
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(e) => {
                        tracing::warn!("listener {}: accept: {e}", to.listener.load().name);
                        tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                        continue;
                    }
                },
            };
            let listener = to.listener.load_full();
            if let Some(stream) = balance(&worker, &listener, stream) {
                accepted(&worker, listener, stream);
            }
        }
    });
}

/// Serves a listening Unix socket.
pub fn listen_unix(worker: &Rc<Worker>, to: Arc<ListenSocket>, socket: std::os::unix::net::UnixListener) {
    let socket = match UnixListener::from_std(socket) {
        Ok(s) => s,
        Err(e) => {
            tracing::error!("listener {}: {e}", to.listener.load().name);
            return;
        }
    };
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        while !to.is_closed() {
            let stream = tokio::select! {
                biased;
                () = worker.stop_listening.notified() => continue,
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(e) => {
                        tracing::warn!("listener {}: accept: {e}", to.listener.load().name);
                        tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                        continue;
                    }
                },
            };
            let connection = Connection::new(to.address.clone(), Address::Pipe("".into()));
            start(&worker, to.listener.load_full(), Io::Unix(stream), connection);
        }
    });
}

/// With exact balance, gives a connection to the worker that has the fewest. None when it has been given away.
fn balance(worker: &Rc<Worker>, listener: &Arc<Listener>, stream: TcpStream) -> Option<TcpStream> {
    if !listener.exact_balance {
        return Some(stream);
    }
    let workers = worker.shared.workers.get()?;
    let own = worker.load.load(Relaxed);
    let (index, least) = workers.iter().enumerate().min_by_key(|(_, w)| w.load.load(Relaxed))?;
    if index == worker.index || least.load.load(Relaxed) >= own {
        return Some(stream);
    }
    match stream.into_std() {
        Ok(std) => {
            // The worker is gone only when the process ends.
            let load = LoadGuard::new(&least.load);
            let _ = least.sender.send(Command::Serve(Handover::Tcp(listener.clone(), std, load)));
            None
        }
        Err(e) => {
            tracing::warn!("a connection could not be handed over: {e}");
            None
        }
    }
}

/// Starts a TCP connection.
pub fn accepted(worker: &Rc<Worker>, listener: Arc<Listener>, stream: TcpStream) {
    // Envoy sets it on every connection.
    let _ = stream.set_nodelay(true);
    let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else {
        // The peer has gone already.
        return;
    };
    let connection = Connection::new(Address::Ip(plain(local)), Address::Ip(plain(remote)));
    start(worker, listener, Io::Tcp(stream), connection);
}

/// An IPv4 peer of a v6 socket, as IPv4.
fn plain(a: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(a.ip().to_canonical(), a.port())
}

fn start(worker: &Rc<Worker>, listener: Arc<Listener>, io: Io, mut connection: Connection) {
    // A connection over a limit is closed at once.
    let Some(places) = worker.shared.overload.admit(&listener.name) else { return };
    connection.listener = listener.name.clone();
    connection.direction = listener.direction;
    let load = LoadGuard::new(&worker.load);
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let _counted = (load, places);
        serve::serve(&worker, &listener, io, BytesMut::new(), connection).await;
    });
}
