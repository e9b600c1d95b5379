//! What a test is told with: a proxy in a process of its own, backends and clients in the test's.

mod backend;
mod certs;
mod config;
mod control;
pub mod frames;
mod h2;
mod inside;
mod proxy;
mod wire;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use self::backend::{Backend, Gate, ok};
pub use self::certs::{Ca, Pair, tls_offering, tls_to};
pub use self::config::{Config, H2_UPSTREAM, TO_A, cluster, hcm, http_options, log_to, pipe, socket, tcp_proxy};
pub use self::control::ControlPlane;
pub use self::frames::Frames;
pub use self::h2::{H2, h2_echo, read_all};
pub use self::inside::Inside;
pub use self::proxy::{Proxy, run};
pub use self::wire::{Message, Wire};

/// How long anything may take that is to happen at once: far more than it needs, so that only what never comes fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `probe` says yes; fails by name when that takes too long.
pub async fn until<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !probe().await {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a future; fails by name when that takes too long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// A folder that goes with the test.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // The path of a Unix socket holds 107 bytes: not under target/.
        let path = std::env::temp_dir().join(format!("waypost-e2e-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file as a control plane does: whole, or not at all.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, fresh) = (self.join(name), self.join(&format!(".{name}.new")));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
