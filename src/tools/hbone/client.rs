//! The client's side of HBONE, with ztunnel's TLS and HTTP/2 settings (its `src/proxy/h2/client.rs`).

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use rustls::pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::tools::args::{duration, identity, identity_args, option, value};
use crate::tools::error::Error;
use crate::tools::identity::Identity;
use crate::tools::sink::http2::{CONNECTION_WINDOW, FRAME, RESETS, STREAM_WINDOW};
use crate::tools::tunnel::Tunnel;

/// ztunnel's keepalive: a PING every ten seconds, answered within twenty.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WITHIN: Duration = Duration::from_secs(20);

/// How to open tunnels.
pub struct Client {
    via: SocketAddr,
    tls: TlsConnector,
    sources: Vec<IpAddr>,
    headers: HeaderMap,
    /// For opening a connection, and for opening a tunnel.
    pub timeout: Duration,
}

/// The arguments from which a `Client` is made.
pub fn args() -> Vec<Arg> {
    let mut args = vec![
        option("via", "ADDR", "the HBONE port").required(true).value_parser(clap::value_parser!(SocketAddr)),
        option("san", "URI", "the URI SAN that the peer's certificate must carry"),
        option("connect-header", "NAME: VALUE", "add a header to the CONNECT")
            .value_parser(header)
            .action(ArgAction::Append),
        option("source", "IP", "connect from this address; several (repeated, or with commas) take turns")
            .value_parser(clap::value_parser!(IpAddr))
            .value_delimiter(',')
            .action(ArgAction::Append),
        option("timeout", "TIME", "for opening a connection or a tunnel, and for an answer")
            .default_value("15s")
            .value_parser(duration),
    ];
    args.extend(identity_args(true));
    args
}

/// `name: value`.
pub fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("{text:?} is not NAME: VALUE"))?;
    let name = name.trim().parse().map_err(|e| format!("{name:?}: {e}"))?;
    Ok((name, value.trim().parse().map_err(|e| format!("{value:?}: {e}"))?))
}

/// Where a URL leads: the CONNECT authority (always with a port), and the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `host:port`.
    pub authority: String,
    /// The URL as given.
    pub uri: Uri,
}

impl Target {
    /// An `http://` URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|e| format!("{e}"))?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
        let authority = authority.ok_or("an http:// URL is needed")?;
        let authority = if authority.port().is_some() { authority.to_string() } else { format!("{authority}:80") };
        Ok(Self { authority, uri })
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |p| p.as_str())
    }

    /// The request's `host`.
    pub fn host(&self) -> &str {
        self.uri.authority().map_or("", |a| a.as_str())
    }

    /// A GET as bytes.
    pub fn get(&self, path: &str) -> Bytes {
        Bytes::from(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.host()))
    }
}

impl Client {
    /// A client as the arguments say.
    pub fn from_args(m: &ArgMatches) -> Result<Self, Error> {
        let usage = || Error::Usage("--via, --cert, --key and --ca are needed".into());
        let identity = identity(m)?.ok_or_else(usage)?;
        let mut client =
            Self::new(*m.get_one("via").ok_or_else(usage)?, &identity, m.get_one::<String>("san").map(String::as_str))?;
        client.sources = m.get_many("source").into_iter().flatten().copied().collect();
        client.headers =
            m.get_many::<(HeaderName, HeaderValue)>("connect-header").into_iter().flatten().cloned().collect();
        client.timeout = value(m, "timeout");
        Ok(client)
    }

    /// A client for the HBONE port `via`.
    pub fn new(via: SocketAddr, identity: &Identity, san: Option<&str>) -> Result<Self, Error> {
        let tls = TlsConnector::from(identity.client(san)?);
        Ok(Self { via, tls, sources: Vec::new(), headers: HeaderMap::new(), timeout: Duration::from_secs(15) })
    }

    /// Opens a connection; the `nth` chooses the source address.
    pub async fn connect(&self, nth: usize) -> Result<Connection, Error> {
        within(self.timeout, "the HBONE connection", self.handshake(nth)).await
    }

    async fn handshake(&self, nth: usize) -> Result<Connection, Error> {
        let peer = |source| Error::Peer { address: self.via, source };
        let http2 = |source| Error::Http2 { address: self.via, source };
        let socket = if self.via.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(peer)?;
        if let Some(source) = self.sources.get(nth % self.sources.len().max(1)) {
            socket.bind(SocketAddr::new(*source, 0)).map_err(peer)?;
        }
        let tcp = socket.connect(self.via).await.map_err(peer)?;
        tcp.set_nodelay(true).map_err(peer)?;
        let tls = self.tls.connect(ServerName::IpAddress(self.via.ip().into()), tcp).await.map_err(peer)?;
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_header_list_size(16 * 1024)
            .enable_push(false)
            .max_concurrent_reset_streams(RESETS)
            .max_local_error_reset_streams(None)
            .handshake(tls)
            .await
            .map_err(http2)?;
        let pings = connection.ping_pong();
        let broken = Arc::new(AtomicBool::new(false));
        let flag = broken.clone();
        let driver = tokio::spawn(async move {
            let _ = connection.await;
            flag.store(true, Ordering::Relaxed);
        });
        if let Some(pings) = pings {
            tokio::spawn(keep_alive(pings, driver, broken.clone()));
        }
        Ok(Connection { requests, broken, headers: self.headers.clone(), timeout: self.timeout, via: self.via })
    }
}

async fn keep_alive(mut pings: h2::PingPong, driver: tokio::task::JoinHandle<()>, broken: Arc<AtomicBool>) {
    while !broken.load(Ordering::Relaxed) {
        tokio::time::sleep(PING_EVERY).await;
        if !matches!(tokio::time::timeout(PING_WITHIN, pings.ping(h2::Ping::opaque())).await, Ok(Ok(_))) {
            driver.abort();
            broken.store(true, Ordering::Relaxed);
        }
    }
}

/// Fails by name when the time is over.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::Late { what: what.to_owned(), limit }),
    }
}

/// An HTTP/2 connection on which tunnels are opened.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    broken: Arc<AtomicBool>,
    headers: HeaderMap,
    timeout: Duration,
    via: SocketAddr,
}

impl Connection {
    /// How many streams the peer takes at a time.
    pub fn max_streams(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Whether no tunnel can be opened any more.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Whether a tunnel can be opened: not on a broken connection, nor after the peer's GOAWAY, which leaves open tunnels alone.
    async fn takes_more(&self) -> bool {
        let mut requests = self.requests.clone();
        let state = poll_fn(|cx| Poll::Ready(requests.poll_ready(cx))).await;
        !self.is_broken() && !matches!(state, Poll::Ready(Err(_)))
    }

    /// Sends CONNECT; the answer is still to come.
    pub async fn start(&self, authority: &str) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), Error> {
        let http2 = |source| Error::Http2 { address: self.via, source };
        let mut requests = self.requests.clone().ready().await.map_err(|e| {
            self.broken.store(true, Ordering::Relaxed);
            http2(e)
        })?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = authority.parse().map_err(|e| Error::Usage(format!("{authority}: {e}")))?;
        *request.headers_mut() = self.headers.clone();
        requests.send_request(request, false).map_err(http2)
    }

    /// Opens a tunnel; anything but 200 refuses it.
    pub async fn open(&self, authority: &str) -> Result<Tunnel, Error> {
        within(self.timeout, &format!("the tunnel to {authority}"), async {
            let (response, send) = self.start(authority).await?;
            let response = response.await.map_err(|e| Error::tunnel(authority, e))?;
            if response.status() != StatusCode::OK {
                return Err(Error::Refused { status: response.status().as_u16(), authority: authority.to_owned() });
            }
            Ok(Tunnel::new(send, response.into_body()))
        })
        .await
    }
}

/// A connection that is opened anew when it broke, shared by the streams that use it.
pub struct Renewed {
    client: Arc<Client>,
    nth: usize,
    current: Mutex<Option<Connection>>,
}

impl Renewed {
    /// `n` of them, all connected.
    pub async fn connect(client: &Arc<Client>, n: usize) -> Result<Vec<Arc<Self>>, Error> {
        let mut all = Vec::with_capacity(n);
        for nth in 0..n {
            let connection = client.connect(nth).await?;
            all.push(Arc::new(Self { client: client.clone(), nth, current: Mutex::new(Some(connection)) }));
        }
        Ok(all)
    }

    /// The connection that works.
    pub async fn get(&self) -> Result<Connection, Error> {
        let mut current = self.current.lock().await;
        match &*current {
            Some(connection) if connection.takes_more().await => Ok(connection.clone()),
            _ => {
                *current = None;
                let connection = self.client.connect(self.nth).await?;
                Ok(current.insert(connection).clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let t = Target::parse("http://127.2.0.10/x/%2e%2e/admin?a=b").unwrap();
        assert_eq!((t.authority.as_str(), t.path(), t.host()), ("127.2.0.10:80", "/x/%2e%2e/admin?a=b", "127.2.0.10"));
        assert_eq!(Target::parse("http://[::1]:8080").unwrap().authority, "[::1]:8080");
        assert_eq!(Target::parse("http://h:1").unwrap().path(), "/");
        assert!(Target::parse("https://h/").is_err() && Target::parse("/x").is_err() && Target::parse("").is_err());
    }

    #[test]
    fn headers() {
        assert_eq!(header("X-A: b: c").unwrap(), (HeaderName::from_static("x-a"), HeaderValue::from_static("b: c")));
        assert!(header("x").is_err() && header("a b: c").is_err() && header("a: b\nc").is_err());
    }
}
