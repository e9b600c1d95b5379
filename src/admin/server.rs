//! The admin thread: an HTTP/1.1 server on a runtime of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use waypost_filters::access_log::Sink;

use super::AdminState;

/// `admin` of the bootstrap.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// `address`
    pub address: SocketAddr,
    /// `access_log`: lines in Envoy's default format.
    pub access_log: Vec<Arc<dyn Sink>>,
}

/// Starts the admin thread; the address is the one that was bound.
pub fn start(config: AdminConfig, state: Arc<AdminState>) -> std::io::Result<(JoinHandle<()>, SocketAddr)> {
    let _ = (config, state);
    Err(std::io::ErrorKind::Unsupported.into())
}
