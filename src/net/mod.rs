//! Sockets and streams of bytes, and the timers that watch over them.

pub mod alarm;
pub mod clock;
pub mod exchange;
pub mod io;
pub mod pump;
pub mod queue;
pub mod socket;
pub mod tcp;
pub mod tunnel;

pub use alarm::Alarm;
pub use io::Io;
pub use queue::WriteQueue;
pub use tunnel::Tunnel;

/// Where a connection was going before the kernel redirected it here (`SO_ORIGINAL_DST`).
pub fn original_destination(tcp: &tokio::net::TcpStream) -> Option<std::net::SocketAddr> {
    let socket = socket2::SockRef::from(tcp);
    let original = match tcp.local_addr() {
        Ok(std::net::SocketAddr::V4(_)) => socket.original_dst_v4(),
        Ok(std::net::SocketAddr::V6(_)) => socket.original_dst_v6(),
        Err(_) => return None,
    };
    original.ok()?.as_socket()
}
