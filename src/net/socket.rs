//! Listening and connecting sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use waypost_filters::address::Address;

/// Envoy asks the kernel for this many waiting connections (`tcp_backlog_size`'s default is the kernel's own limit, 4096 on Linux).
pub const DEFAULT_BACKLOG: i32 = 4096;

/// What a listener asks of its sockets.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// `tcp_backlog_size`.
    pub backlog: i32,
    /// `enable_reuse_port`.
    pub reuse_port: bool,
    /// `transparent`/`freebind` are not supported; `ipv4_compat` of a v6 address.
    pub ipv4_compat: bool,
    /// Mode bits of a Unix socket (`pipe.mode`).
    pub pipe_mode: u32,
}

/// Binds a socket to listen on; it does not yet.
pub fn bind(address: &Address, options: &ListenOptions) -> io::Result<Socket> {
    let socket = match address {
        Address::Ip(a) => {
            let s = Socket::new(Domain::for_address(*a), Type::STREAM, Some(Protocol::TCP))?;
            s.set_reuse_address(true)?;
            if options.reuse_port {
                s.set_reuse_port(true)?;
            }
            if a.is_ipv6() {
                s.set_only_v6(!options.ipv4_compat)?;
            }
            s.bind(&(*a).into())?;
            s
        }
        Address::Pipe(path) => {
            let s = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            if !path.starts_with('@') {
                // A socket file that an earlier process left behind; anything else makes bind fail.
                use std::os::unix::fs::FileTypeExt;
                if std::fs::metadata(&**path).is_ok_and(|m| m.file_type().is_socket()) {
                    std::fs::remove_file(&**path)?;
                }
            }
            s.bind(&unix_address(path)?)?;
            if options.pipe_mode != 0 {
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&**path, std::fs::Permissions::from_mode(options.pipe_mode))?;
            }
            s
        }
        Address::Internal { .. } => return Err(io::Error::other("an internal address has no socket")),
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn unix_address(path: &str) -> io::Result<SockAddr> {
    match path.strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(path),
    }
}

/// `upstream_connection_options.tcp_keepalive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Probes before the connection is given up.
    pub probes: Option<u32>,
}

/// Opens a TCP connection; the caller sets a time limit.
pub async fn connect_tcp(
    to: SocketAddr,
    from: Option<SocketAddr>,
    keepalive: Option<Keepalive>,
) -> io::Result<tokio::net::TcpStream> {
    let socket = if to.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    if let Some(from) = from {
        socket.bind(from)?;
    }
    socket.set_nodelay(true)?;
    if let Some(k) = keepalive {
        let mut options = TcpKeepalive::new();
        if let Some(t) = k.time {
            options = options.with_time(t);
        }
        if let Some(i) = k.interval {
            options = options.with_interval(i);
        }
        if let Some(p) = k.probes {
            options = options.with_retries(p);
        }
        socket2::SockRef::from(&socket).set_tcp_keepalive(&options)?;
    }
    socket.connect(to).await
}

/// Opens a connection to a Unix socket.
pub async fn connect_unix(path: &str) -> io::Result<tokio::net::UnixStream> {
    match path.strip_prefix('@') {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(stream)
        }
        None => tokio::net::UnixStream::connect(path).await,
    }
}
