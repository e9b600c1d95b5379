//! The proxy, as the agent of a pod starts it.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use super::{Config, Dir, Message, Wire, until};

/// The binary under test; `WAYPOST_E2E_BINARY` names another, an Envoy to compare with.
fn binary() -> String {
    std::env::var("WAYPOST_E2E_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_waypost").to_owned())
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    child: Child,
    dir: Dir,
    config: Config,
    admin: SocketAddr,
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    Command::new(binary()).args(args).stdin(Stdio::null()).output().unwrap()
}

impl Config {
    /// Starts it, with one worker unless `args` say otherwise, and waits until it is ready.
    pub async fn start(self) -> Proxy {
        let dir = Dir::new();
        let file = dir.write("bootstrap.yaml", &self.yaml());
        let admin_file = dir.join("admin");
        let log = File::create(dir.join("log")).unwrap();
        let mut command = Command::new(binary());
        command.arg("-c").arg(file).arg("--admin-address-path").arg(&admin_file);
        command.args(["--disable-hot-restart", "-l", "info", "--file-flush-interval-msec", "20"]);
        if !self.args.iter().any(|a| a == "--concurrency") {
            command.args(["--concurrency", "1"]);
        }
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let mut proxy = Proxy { child, dir, config: self, admin: SocketAddr::from(([127, 0, 0, 1], 0)) };
        until("the proxy is up", || {
            let up = proxy.look(&admin_file);
            async move {
                let Some(admin) = up else { return false };
                let Ok(mut wire) = Wire::try_connect(admin).await else { return false };
                wire.get("/ready").await.status() == 200
            }
        })
        .await;
        proxy
    }
}

impl Proxy {
    /// The admin address, once it is known; fails when the process has ended.
    fn look(&mut self, file: &std::path::Path) -> Option<SocketAddr> {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the proxy ended with {status}:\n{}\n{}", self.log(), self.config.yaml());
        }
        self.admin = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        Some(self.admin)
    }

    /// Where a listener listens.
    pub fn addr(&self, name: &str) -> SocketAddr {
        self.config.addr(name)
    }

    /// Where the listener `main` listens.
    pub fn main(&self) -> SocketAddr {
        self.addr("main")
    }

    /// A client's connection to the listener `main`.
    pub async fn connect(&self) -> Wire {
        Wire::connect(self.main()).await
    }

    /// One request to `main` on a connection of its own.
    pub async fn get(&self, path: &str) -> Message {
        self.connect().await.get(path).await
    }

    /// Whether `main` takes no more connections.
    pub async fn refuses(&self) -> bool {
        Wire::try_connect(self.main()).await.is_err()
    }

    /// What it has written on stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// GET on the admin port.
    pub async fn admin(&self, path: &str) -> Message {
        Wire::connect(self.admin).await.get(path).await
    }

    /// POST on the admin port.
    pub async fn post(&self, path: &str) -> Message {
        let mut wire = Wire::connect(self.admin).await;
        wire.send(format!("POST {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\n\r\n")).await;
        wire.message().await
    }

    /// A counter or gauge; 0 where there is none.
    pub async fn stat(&self, name: &str) -> u64 {
        let text = self.admin("/stats").await.text();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(0, |v| v.parse().unwrap())
    }

    pub async fn until_stat(&self, name: &str, value: u64) {
        until(&format!("{name} is {value}"), || async { self.stat(name).await == value }).await;
    }

    /// Sends a signal: `TERM`, `USR1`.
    pub fn signal(&self, name: &str) {
        // The shell's own kill: a minimal machine has no other.
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        until("the proxy has ended", || {
            let ended = self.child.try_wait().unwrap().is_some();
            async move { ended }
        })
        .await;
        self.child.wait().unwrap()
    }

    /// Waits for the end of the process, which must be a good one.
    pub async fn ended_well(&mut self) {
        let status = self.ended().await;
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{}", self.log());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Shown with the failed test only.
            eprintln!("--- the proxy's log:\n{}", self.log());
        }
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
