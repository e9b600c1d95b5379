//! The proxy of the demonstration: this program once more, in a child process, as the agent of a pod starts it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::tools::error::Error;
use crate::tools::exchange::exchange;
use crate::tools::hbone::client::within;
use crate::tools::tunnel::Socket;

/// How long a proxy may take to start, and to end.
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// A running proxy; ended when dropped.
pub struct Proxy {
    child: Child,
    admin: SocketAddr,
}

impl Proxy {
    /// Starts `binary` with a bootstrap file and waits until it is ready. Its access log goes to our standard output.
    pub async fn start(binary: &Path, config: &Path, admin: SocketAddr) -> Result<Self, Error> {
        let mut command = Command::new(binary);
        // A request is to show when it was made, not with the ten seconds' flush of Envoy.
        command.args(["--file-flush-interval-msec", "100"]);
        command.arg("-c").arg(config).args(["--concurrency", "2", "--disable-hot-restart", "-l", "warning"]);
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.map_err(|source| Error::File { path: binary.to_owned(), source })?;
        let mut proxy = Self { child, admin };
        within(START, "the proxy", proxy.ready()).await?;
        Ok(proxy)
    }

    async fn ready(&mut self) -> Result<(), Error> {
        loop {
            self.alive()?;
            if self.ready_status().await.is_some_and(|status| status == 200) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// An error when it has ended by itself.
    pub fn alive(&mut self) -> Result<(), Error> {
        match self.child.try_wait()? {
            Some(status) => Err(Error::Failed(format!("the proxy ended: {status}"))),
            None => Ok(()),
        }
    }

    /// Returns when it has ended by itself.
    pub async fn ended(&mut self) -> Error {
        loop {
            match self.alive() {
                Ok(()) => tokio::time::sleep(LOOK).await,
                Err(e) => return e,
            }
        }
    }

    async fn ready_status(&self) -> Option<u16> {
        let mut wire = Socket::new(TcpStream::connect(self.admin).await.ok()?);
        let request = Bytes::from_static(b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        Some(exchange(&mut wire, &mut Bytes::new(), request).await.ok()?.status)
    }
}

impl Proxy {
    /// Asks the admin port for the end; false where nobody listens there (any more, or yet).
    fn quit(&self) -> bool {
        let ask = || {
            let mut admin = std::net::TcpStream::connect_timeout(&self.admin, STOP)?;
            admin.set_read_timeout(Some(STOP))?;
            admin.write_all(
                b"POST /quitquitquit HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            )?;
            admin.read(&mut [0; 1])
        };
        ask().is_ok()
    }
}

/// Ends it by the admin port, so that its logs are written, and by force where that takes too long.
impl Drop for Proxy {
    fn drop(&mut self) {
        let end = Instant::now() + STOP;
        if matches!(self.child.try_wait(), Ok(None)) && self.quit() {
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(LOOK);
            }
        }
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
