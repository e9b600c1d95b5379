//! `waypost sink`: the cheapest backend there is, so that what a benchmark measures is the proxy in front of it.

mod http1;
pub mod http2;
pub mod page;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::args::{command, identity, identity_args, option, value};
use super::error::Error;

/// What all connections of a sink share.
#[derive(Clone, Debug)]
pub struct Options {
    /// CONNECTs to these ports are echoed as bytes.
    pub tcp_ports: Vec<RangeInclusive<u16>>,
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    pub max_streams: u32,
    /// What is answered where a path names no page.
    pub home: page::Page,
}

impl Default for Options {
    fn default() -> Self {
        // ztunnel advertises 200.
        Self { tcp_ports: Vec::new(), max_streams: 200, home: page::Page::Ok }
    }
}

/// Every thread has as many listeners as the sink has addresses; the kernel spreads the connections.
const BACKLOG: u32 = 4096;

/// The command's arguments.
pub fn cli() -> Command {
    let address = |name, help| {
        option(name, "ADDR", help).value_parser(clap::value_parser!(SocketAddr)).num_args(1..).action(ArgAction::Append)
    };
    command("sink", "A backend that answers HTTP at the least cost: /, /echo, /big/N, /slow/RATE, gRPC")
        .arg(address("http", "serve HTTP/1.1, and HTTP/2 by prior knowledge, here"))
        .arg(address("hbone", "serve HTTP inside CONNECT over mTLS here"))
        .args(identity_args(false))
        .arg(
            option(
                "tcp-port",
                "PORTS",
                "echo the bytes of CONNECTs to this port or range (9000-9999) instead of serving HTTP",
            )
            .value_parser(ports)
            .action(ArgAction::Append),
        )
        .arg(
            option("max-streams", "N", "HTTP/2 streams per connection")
                .default_value("200")
                .value_parser(clap::value_parser!(u32)),
        )
        .arg(
            Arg::new("threads")
                .long("threads")
                .value_name("N")
                .default_value("1")
                .value_parser(clap::value_parser!(u16).range(1..=256)),
        )
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let number = |t: &str| t.parse::<u16>().map_err(|e| format!("{t:?}: {e}"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Ok(number(first)?..=number(last)?)
}

/// Serves until it is killed.
pub fn run(m: &ArgMatches) -> Result<(), Error> {
    let addresses = |name| m.get_many::<SocketAddr>(name).into_iter().flatten().copied().collect::<Vec<_>>();
    let (http, hbone) = (addresses("http"), addresses("hbone"));
    if http.is_empty() && hbone.is_empty() {
        return Err(Error::Usage("sink needs --http or --hbone".into()));
    }
    let tls = match identity(m)? {
        Some(identity) => Some(TlsAcceptor::from(identity.server()?)),
        None if hbone.is_empty() => None,
        None => return Err(Error::Usage("--hbone needs --cert, --key and --ca".into())),
    };
    let options = Arc::new(Options {
        tcp_ports: m.get_many("tcp-port").into_iter().flatten().cloned().collect(),
        max_streams: value(m, "max-streams"),
        home: page::Page::Ok,
    });
    let threads: Vec<_> = (0..value::<u16>(m, "threads"))
        .map(|_| {
            let (http, hbone, tls, options) = (http.clone(), hbone.clone(), tls.clone(), options.clone());
            std::thread::spawn(move || thread(&http, &hbone, tls.as_ref(), &options))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| Error::Failed("a thread of the sink panicked".into()))??;
    }
    Ok(())
}

fn thread(
    http: &[SocketAddr],
    hbone: &[SocketAddr],
    tls: Option<&TlsAcceptor>,
    options: &Arc<Options>,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let plain = http.iter().map(|a| Ok((listen(*a)?, None)));
        let tunnels = hbone.iter().map(|a| Ok((listen(*a)?, tls.cloned())));
        let listeners: Vec<_> = plain.chain(tunnels).collect::<Result<_, Error>>()?;
        let accepting: Vec<_> =
            listeners.into_iter().map(|(l, tls)| tokio::spawn(accept(l, tls, options.clone()))).collect();
        for task in accepting {
            task.await.map_err(|_| Error::Failed("a listener of the sink panicked".into()))?;
        }
        Ok(())
    })
}

/// Binds with SO_REUSEPORT: a waypoint's listener on 0.0.0.0 may hold the port, and the kernel prefers the more specific address.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| Error::Listen { address, source })
}

/// Accepts for ever; with TLS the port takes tunnels.
pub async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, options: Arc<Options>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of files: some connection has to end first.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        match &tls {
            Some(tls) => drop(tokio::spawn(hbone(stream, tls.clone(), options.clone()))),
            None => drop(tokio::spawn(http2::plain(stream, options.clone()))),
        }
    }
}

/// One HBONE connection: mTLS, HTTP/2, CONNECT.
async fn hbone(stream: TcpStream, tls: TlsAcceptor, options: Arc<Options>) {
    if let Ok(io) = tls.accept(stream).await {
        let _ = http2::serve(io, options, true).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges() {
        assert_eq!(ports("9000"), Ok(9000..=9000));
        assert_eq!(ports("9000-9999"), Ok(9000..=9999));
        assert!(ports("9000-").is_err() && ports("x").is_err() && ports("70000").is_err());
    }

    #[test]
    fn arguments() {
        let parse = |line: &str| cli().try_get_matches_from(line.split_whitespace());
        assert!(parse("--http 127.0.0.1:1 --http 127.0.0.1:2 --threads 2").is_ok());
        assert!(parse("--http nowhere").is_err());
        let none = run(&parse("").unwrap());
        assert!(matches!(none, Err(Error::Usage(_))));
        let open = run(&parse("--hbone 127.0.0.1:1").unwrap());
        assert!(matches!(open, Err(Error::Usage(_))));
    }
}
