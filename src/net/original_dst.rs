//! The address that a redirected connection was meant for (`envoy.filters.listener.original_dst` on real sockets).

use std::net::SocketAddr;

/// `SO_ORIGINAL_DST` of a socket that iptables redirected; none where none was.
#[cfg(target_os = "linux")]
pub fn original_dst(socket: &tokio::net::TcpStream) -> Option<SocketAddr> {
    let local = socket.local_addr().ok()?;
    let socket = socket2::SockRef::from(socket);
    let address = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    address.ok()?.as_socket()
}

/// There is no such thing elsewhere.
#[cfg(not(target_os = "linux"))]
pub fn original_dst(_socket: &tokio::net::TcpStream) -> Option<SocketAddr> {
    None
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_direct_connection_was_meant_for_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let _client = client.unwrap();
        // The kernel has no entry for it, or, where connection tracking is on, the address itself.
        assert!(super::original_dst(&accepted.unwrap().0).is_none_or(|a| a == address));
    }
}
