//! What can go wrong in a tool, told in one line.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The failure of a tool.
///
/// Only a tunnel that was refused says `CONNECT`, followed by the status: scripts tell it from a tunnel cut later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificate or key that can be used.
    #[error("{}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificates and key do not make a TLS configuration.
    #[error("TLS configuration: {0}")]
    Tls(String),
    /// A port could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TCP or TLS with the peer failed.
    #[error("cannot connect to {address}: {source}")]
    Peer {
        /// The peer.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The HTTP/2 connection with the peer failed.
    #[error("HTTP/2 with {address}: {source}")]
    Http2 {
        /// The peer.
        address: SocketAddr,
        /// Why.
        source: h2::Error,
    },
    /// The tunnel was not opened: RFC 9110, section 9.3.6, anything but 2xx; ztunnel takes only 200.
    #[error("CONNECT refused: {status} for {authority}")]
    Refused {
        /// What was answered.
        status: u16,
        /// Where the tunnel should have gone.
        authority: String,
    },
    /// The tunnel was cut, or what came out of it is no HTTP.
    #[error("the tunnel to {authority} failed: {reason}")]
    Tunnel {
        /// Where the tunnel went.
        authority: String,
        /// Why.
        reason: String,
    },
    /// It took longer than allowed.
    #[error("{what}: not within {limit:?}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The runtime, standard input or standard output failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The tool ran, and what it saw was not what it should be.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// A tunnel that failed after it was opened.
    pub fn tunnel(authority: &str, reason: impl ToString) -> Self {
        Self::Tunnel { authority: authority.to_owned(), reason: reason.to_string() }
    }
}
