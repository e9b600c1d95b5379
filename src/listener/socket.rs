//! Listening sockets: an address, and the listener that takes what is accepted there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwap;
use waypost_filters::address::Address;

use super::Listener;
use crate::net::socket::{ListenOptions, bind};
use crate::worker::{Command, WorkerHandle};

/// An address that is listened on, by one socket for each worker. A listener that takes another's place takes its sockets over, so that no
/// connection that waits to be accepted is lost.
pub struct ListenSocket {
    /// Where.
    pub address: Address,
    /// Whether it takes IPv4 as well; it cannot be changed later.
    ipv4_compat: bool,
    /// Whose connections are accepted here; loaded for each.
    pub listener: ArcSwap<Listener>,
    closed: AtomicBool,
}

impl ListenSocket {
    /// Whether accept loops are to end.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Ends the accept loops; each looks when it is told to ([`Command::StopListening`]).
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Whether it is what a listener wants at an address.
    pub(super) fn serves(&self, address: &Address, options: &ListenOptions) -> bool {
        !self.is_closed() && self.address == *address && self.ipv4_compat == options.ipv4_compat
    }
}

/// Sockets that have been bound and do not listen yet.
pub(super) struct Bound {
    pub socket: Arc<ListenSocket>,
    /// One for each worker.
    sockets: Vec<socket2::Socket>,
}

impl Bound {
    /// Binds an address for all workers: a socket for each, so that the kernel spreads connections, or one that they share.
    pub fn bind(address: &Address, listener: &Arc<Listener>, workers: usize) -> std::io::Result<Bound> {
        let options = &listener.options;
        let own = matches!(address, Address::Ip(_)) && options.reuse_port;
        let mut sockets: Vec<socket2::Socket> = Vec::with_capacity(workers);
        for _ in 0..workers {
            let socket = match sockets.first() {
                Some(first) if !own => first.try_clone()?,
                _ => bind(address, options)?,
            };
            sockets.push(socket);
        }
        let socket = ListenSocket {
            address: address.clone(),
            ipv4_compat: options.ipv4_compat,
            listener: ArcSwap::new(listener.clone()),
            closed: AtomicBool::new(false),
        };
        Ok(Bound { socket: Arc::new(socket), sockets })
    }

    /// Lets the kernel take connections.
    pub fn listen(&self, backlog: i32) -> std::io::Result<()> {
        self.sockets.iter().try_for_each(|s| s.listen(backlog))
    }

    /// Gives each worker its socket.
    pub fn serve(self, workers: &[WorkerHandle]) -> Arc<ListenSocket> {
        for (worker, socket) in workers.iter().zip(self.sockets) {
            let command = match &self.socket.address {
                Address::Pipe(_) => Command::ListenUnix(self.socket.clone(), socket.into()),
                _ => Command::Listen(self.socket.clone(), socket.into()),
            };
            // A worker that is gone serves nothing any more.
            let _ = worker.sender.send(command);
        }
        self.socket
    }
}
