//! `waypost demo`: a waypoint and an ingress on this machine, with the mesh around them that they need.
//!
//! ```text
//! waypost hbone get ══HBONE══▶ waypoint ══HBONE══▶ destination (as a ztunnel) ──▶ echo workload
//! curl ───────────────────────▶ ingress ─────────────────────────────────────────▶ echo workload
//! ```

pub mod certs;
mod destination;
pub mod dir;
mod proxy;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use self::certs::{file, put, spiffe};
use self::destination::Pod;
use self::dir::Dir;
use self::proxy::Proxy;
use super::args::{command, option};
use super::error::Error;
use super::exchange::exchange;
use super::hbone::client::{Client, Target};
use super::hbone::get;
use super::identity::Identity;
use super::sink::page::Page;
use super::sink::{self, Options};
use super::tunnel::Socket;

/// The bootstrap file, with names between `@` for what is known only when it runs.
const BOOTSTRAP: &str = include_str!("demo.yaml");

/// The service's address, which exists only as a CONNECT authority, and the pod's, as waypoint.yaml has them.
const SERVICE: &str = "127.2.0.10:80";
const POD: &str = "127.1.0.10:8080";

/// The command's arguments.
pub fn cli() -> Command {
    let path = |name, value, help| option(name, value, help).value_parser(clap::value_parser!(PathBuf));
    command("demo", "A waypoint and an ingress on this machine, with a mesh around them")
        .arg(Arg::new("check").long("check").action(ArgAction::SetTrue).help("send a request along each path, and end"))
        .arg(path("dir", "DIR", "keep certificates and configuration here"))
        .arg(path("proxy", "FILE", "run this binary (an Envoy, say) in the place of Waypost"))
}

/// Runs until Ctrl-C, or until the check is done.
pub fn run(m: &ArgMatches) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Whichever ends first, what was started and written is dropped: the child ends, the folder goes.
        // Signals are looked at first: Ctrl-C reaches the child as well, whose end is then no failure.
        tokio::select! {
            biased;
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            done = demonstrate(m) => done,
        }
    })
}

/// Where everything listens.
struct Ports {
    waypoint: SocketAddr,
    ingress: SocketAddr,
    admin: SocketAddr,
    destination: SocketAddr,
    workload: SocketAddr,
}

async fn demonstrate(m: &ArgMatches) -> Result<(), Error> {
    let dir = Dir::new(m.get_one::<PathBuf>("dir").map(PathBuf::as_path))?;
    certs::write(dir.path())?;
    let identity =
        |account| Identity::load(&at(&dir, account, "pem"), &at(&dir, account, "key"), &at(&dir, "ca", "pem"));

    let workload = sink::listen(loopback(0))?;
    let pod: SocketAddr = POD.parse().map_err(|e| Error::Usage(format!("{POD}: {e}")))?;
    let ports = Ports {
        waypoint: free("the waypoint", loopback(15008))?,
        ingress: free("the ingress", loopback(8080))?,
        admin: free("the admin port", loopback(15000))?,
        destination: free("the destination", SocketAddr::new(pod.ip(), 15008))?,
        workload: workload.local_addr()?,
    };
    let options = Arc::new(Options { home: Page::Echo, ..Options::default() });
    tokio::spawn(sink::accept(workload, None, options));
    let tls = TlsAcceptor::from(identity("backend")?.server()?);
    let pod = Pod { address: pod, workload: ports.workload };
    tokio::spawn(destination::serve(sink::listen(ports.destination)?, tls, pod));

    let config = dir.path().join("demo.yaml");
    put(&config, &bootstrap(&ports, dir.path()))?;
    let ours = std::env::current_exe()?;
    let binary = m.get_one::<PathBuf>("proxy").cloned().unwrap_or_else(|| ours.clone());
    let mut proxy = Proxy::start(&binary, &config, ports.admin).await?;
    if m.get_flag("check") {
        let client = |account| Client::new(ports.waypoint, &identity(account)?, Some(&spiffe("waypoint")));
        return check(&client("client")?, ports.ingress).await;
    }
    explain(&ours, &ports, dir.path())?;
    Err(proxy.ended().await)
}

fn at(dir: &Dir, name: &str, kind: &str) -> PathBuf {
    file(dir.path(), name, kind)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The address, or one beside it with a free port; says so.
fn free(what: &str, wanted: SocketAddr) -> Result<SocketAddr, Error> {
    if TcpListener::bind(wanted).is_ok() {
        return Ok(wanted);
    }
    let any = SocketAddr::new(wanted.ip(), 0);
    let other =
        TcpListener::bind(any).and_then(|l| l.local_addr()).map_err(|source| Error::Listen { address: any, source })?;
    writeln!(io::stdout(), "{wanted} is taken: {what} is at {other}")?;
    Ok(other)
}

fn bootstrap(ports: &Ports, dir: &Path) -> String {
    [
        ("@WAYPOINT@", ports.waypoint.port()),
        ("@INGRESS@", ports.ingress.port()),
        ("@ADMIN@", ports.admin.port()),
        ("@DESTINATION@", ports.destination.port()),
        ("@WORKLOAD@", ports.workload.port()),
    ]
    .iter()
    .fold(BOOTSTRAP.replace("@DIR@", &dir.display().to_string()), |text, (name, port)| {
        text.replace(name, &port.to_string())
    })
}

fn explain(program: &Path, ports: &Ports, dir: &Path) -> Result<(), Error> {
    let program = program.display();
    let tool = |what: &str, account: &str| {
        let (cert, key, ca) = (file(dir, account, "pem"), file(dir, account, "key"), file(dir, "ca", "pem"));
        let (cert, key, ca) = (cert.display(), key.display(), ca.display());
        format!("{program} hbone {what} --via {} --cert {cert} --key {key} --ca {ca}", ports.waypoint)
    };
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "\
A waypoint at {waypoint} (HBONE) for the service {SERVICE}, and an ingress at {ingress}; admin at http://{admin}/

Through the ingress:
  curl -i http://{ingress}/hello

Through the waypoint, as the workload `client`:
  {get} http://{SERVICE}/hello

Five seconds of load:
  {load} --streams 16 http://{SERVICE}/big/2

Configuration and certificates: {dir}
Each request shows below. Ctrl-C ends.
",
        waypoint = ports.waypoint,
        ingress = ports.ingress,
        admin = ports.admin,
        get = tool("get", "client"),
        load = tool("load", "client"),
        dir = dir.display(),
    )?;
    Ok(out.flush()?)
}

/// A request along each path: ingress and waypoint.
async fn check(client: &Client, ingress: SocketAddr) -> Result<(), Error> {
    let target = |path: &str| Target::parse(&format!("http://{SERVICE}{path}")).map_err(Error::Usage);
    let peer = |source| Error::Peer { address: ingress, source };
    let mut wire = Socket::new(TcpStream::connect(ingress).await.map_err(peer)?);
    let request = Bytes::from(format!("GET /check HTTP/1.1\r\nhost: {ingress}\r\n\r\n"));
    let limit = client.timeout;
    let answer = super::hbone::client::within(limit, "the ingress", async {
        exchange(&mut wire, &mut Bytes::new(), request).await.map_err(peer)
    });
    expect("ingress", answer.await?.status, 200)?;
    let (status, body) = get::once(client, &target("/check")?).await?;
    expect("waypoint", status, 200)?;
    if !String::from_utf8_lossy(&body).contains("x-waypoint") {
        return Err(Error::Failed("the workload did not see the header that the waypoint adds".into()));
    }
    Ok(())
}

fn expect(what: &str, status: u16, wanted: u16) -> Result<(), Error> {
    writeln!(io::stdout(), "{what}: {status}")?;
    if status == wanted { Ok(()) } else { Err(Error::Failed(format!("{what}: {status} in the place of {wanted}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_has_every_value() {
        let a = loopback(1);
        let ports = Ports { waypoint: a, ingress: a, admin: a, destination: a, workload: a };
        for name in ["@WAYPOINT@", "@INGRESS@", "@ADMIN@", "@DESTINATION@", "@WORKLOAD@", "@DIR@"] {
            assert!(BOOTSTRAP.contains(name), "{name}");
        }
        let text = bootstrap(&ports, Path::new("/nowhere"));
        let left = text.split('@').skip(1).find(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
        assert_eq!(left, None);
        assert!(text.contains("/nowhere/waypoint.pem"));
    }

    #[test]
    fn a_taken_port_is_not_used() {
        let taken = TcpListener::bind(loopback(0)).unwrap().local_addr();
        let held = TcpListener::bind(taken.unwrap()).unwrap();
        let wanted = held.local_addr().unwrap();
        assert_ne!(free("it", wanted).unwrap().port(), wanted.port());
    }
}
