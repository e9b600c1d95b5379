//! The request to be explained, and how it comes.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use waypost_filters::connection::{CertificateInfo, TlsSession};
use waypost_filters::head::{Protocol, RequestHead, Scheme};

use crate::tools::args::{option, value};
use crate::tools::error::Error;
use crate::tools::hbone::client::header;

/// What is asked.
#[derive(Debug)]
pub struct Ask {
    /// Where it enters.
    pub entry: Entry,
    /// What comes, the outermost layer first.
    pub layers: Layers,
    /// The client's address.
    pub source: SocketAddr,
    /// The random number of every choice.
    pub random: u64,
}

/// Where a connection enters.
#[derive(Debug)]
pub enum Entry {
    /// At a listener by its name.
    Name(String),
    /// At a port, of an address or of any.
    Port(Option<IpAddr>, u16),
}

/// What a connection carries: HTTP or bytes, perhaps within a CONNECT.
pub type Layers = VecDeque<Layer>;

/// One layer of what a connection carries.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The TLS around it.
    pub tls: Option<Tls>,
    /// The layer.
    pub content: Content,
}

/// What a layer is.
#[derive(Clone, Debug)]
pub enum Content {
    /// An HTTP request; a CONNECT holds the next layer.
    Http(Box<RequestHead>, Protocol),
    /// Anything else.
    Bytes,
}

/// A client's TLS.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// SNI.
    pub server_name: Option<String>,
    /// ALPN.
    pub alpn: Vec<String>,
    /// The URI in its certificate.
    pub peer: Option<String>,
}

impl Layer {
    /// A CONNECT, as HBONE has it.
    pub fn connect(authority: HeaderValue, tls: Option<Tls>) -> Layer {
        let head = RequestHead {
            method: Method::CONNECT,
            scheme: Scheme::Https,
            authority: Some(authority),
            path: None,
            upgrade: None,
            headers: HeaderMap::new(),
            original_path: None,
        };
        Layer { tls, content: Content::Http(Box::new(head), Protocol::Http2) }
    }
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.content {
            Content::Bytes => f.write_str("bytes")?,
            Content::Http(head, protocol) => {
                let text = |v: &Option<HeaderValue>| {
                    v.as_ref().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default()
                };
                let (authority, path) = (text(&head.authority), text(&head.path));
                match head.is_connect() {
                    true => write!(f, "CONNECT {authority}")?,
                    false => write!(f, "{} {path} of {authority:?} ({})", head.method, protocol.name())?,
                }
            }
        }
        f.write_str(if self.tls.is_some() { " in TLS" } else { "" })
    }
}

impl Tls {
    /// The session, once the handshake is over. A peer without a name has no certificate.
    pub fn session(&self) -> TlsSession {
        let certificate =
            |uri: &String| Arc::new(CertificateInfo { uri_sans: vec![uri.clone()], ..Default::default() });
        let peer = self.peer.as_ref().map(certificate);
        TlsSession {
            version: "TLSv1.3",
            cipher: "TLS_AES_256_GCM_SHA384",
            alpn: self.alpn.first().map(|a| a.as_str().into()),
            peer_validated: peer.is_some(),
            peer,
            ..TlsSession::default()
        }
    }
}

/// The arguments.
pub fn args(command: Command) -> Command {
    let flag = |name, help| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let many = |name, value, help| option(name, value, help).action(ArgAction::Append);
    command
        .arg(option("listener", "NAME", "enter at the listener of this name"))
        .arg(option("address", "[IP:]PORT", "enter at the listener of this address; else the URL's port says which"))
        .arg(option("hbone", "VIP:PORT", "come through a CONNECT to this authority, to the listener connect_terminate"))
        .arg(option("request", "METHOD", "the method; GET is the default").short('X'))
        .arg(many("header", "NAME: VALUE", "add a header").short('H').value_parser(header))
        .arg(option("peer", "SPIFFE", "the client's identity, such as spiffe://cluster.local/ns/default/sa/client"))
        .arg(option("source", "IP[:PORT]", "the client's address; 127.0.0.1:40000 is the default"))
        .arg(option("sni", "NAME", "come over TLS with this server name; with --hbone, inside the tunnel"))
        .arg(many("alpn", "PROTOCOL", "offer this protocol in that TLS, once for each"))
        .arg(flag("tls", "come over TLS, as a URL with https does"))
        .arg(flag("http2", "speak HTTP/2; HTTP/1.1 is the default"))
        .arg(flag("tcp", "send bytes that are no HTTP"))
        .arg(
            option("random", "NUMBER", "the random number of weighted clusters, fractions and hosts; 0 is the default")
                .value_parser(clap::value_parser!(u64)),
        )
        .arg(Arg::new("url").value_name("URL").help("http://host/path, or a path; / is the default"))
}

/// What the arguments ask.
pub fn ask(m: &ArgMatches) -> Result<Ask, Error> {
    let text = |name: &str| m.get_one::<String>(name).cloned();
    let usage = |what: &str, text: &str| Error::Usage(format!("{what}: {text:?}"));
    let hbone = text("hbone");
    let url = Url::parse(&text("url").unwrap_or_else(|| "/".to_owned()))?;
    let source = text("source").unwrap_or_else(|| "127.0.0.1".to_owned());
    let source = source
        .parse::<SocketAddr>()
        // A port of those that the kernel gives to clients.
        .or_else(|_| source.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 40_000)))
        .map_err(|_| usage("--source is no address", &source))?;
    let entry = match (text("listener"), text("address"), &hbone, url.port) {
        (Some(name), ..) => Entry::Name(name),
        (None, Some(address), ..) => match (address.parse::<SocketAddr>(), address.parse::<u16>()) {
            (Ok(a), _) => Entry::Port(Some(a.ip()), a.port()),
            (_, Ok(port)) => Entry::Port(None, port),
            _ => return Err(usage("--address is no address", &address)),
        },
        // The name that istiod gives it.
        (None, None, Some(_), _) => Entry::Name("connect_terminate".to_owned()),
        (None, None, None, Some(port)) => Entry::Port(url.ip, port),
        _ => return Err(Error::Usage("where does it enter? --hbone, --listener, --address or a URL say so".into())),
    };
    let peer = text("peer");
    let (sni, alpn) = (text("sni"), m.get_many::<String>("alpn").into_iter().flatten().cloned().collect::<Vec<_>>());
    let over_tls = m.get_flag("tls") || url.https || sni.is_some() || !alpn.is_empty();
    let http2 = m.get_flag("http2") || alpn.first().is_some_and(|a| a == "h2");
    let inner_peer = peer.clone().filter(|_| hbone.is_none());
    let tls = over_tls.then(|| {
        let host = url.host.as_deref().map(|h| h.rsplit_once(':').map_or(h, |(h, _)| h).to_owned());
        let server_name = sni.or(host).filter(|h| h.parse::<IpAddr>().is_err()).map(|h| h.to_ascii_lowercase());
        let ours = || vec![if http2 { "h2" } else { "http/1.1" }.to_owned()];
        let alpn = if alpn.is_empty() && !m.get_flag("tcp") { ours() } else { alpn };
        Tls { server_name, alpn, peer: inner_peer }
    });
    let content = if m.get_flag("tcp") {
        Content::Bytes
    } else {
        let authority = url.host.clone().or_else(|| hbone.clone());
        let protocol = if http2 { Protocol::Http2 } else { Protocol::Http11 };
        Content::Http(Box::new(head(m, authority, &url, tls.is_some())?), protocol)
    };
    let mut layers = Layers::from([Layer { tls, content }]);
    if let Some(authority) = hbone {
        let authority = HeaderValue::from_str(&authority).map_err(|_| usage("--hbone is no authority", &authority))?;
        let tls = Tls { server_name: None, alpn: vec!["h2".to_owned()], peer };
        layers.push_front(Layer::connect(authority, Some(tls)));
    }
    Ok(Ask { entry, layers, source, random: value(m, "random") })
}

fn head(m: &ArgMatches, authority: Option<String>, url: &Url, tls: bool) -> Result<RequestHead, Error> {
    let bad = |what: &str| Error::Usage(format!("{what} cannot be sent"));
    let method = m.get_one::<String>("request").map_or("GET", String::as_str);
    let method: Method = method.parse().map_err(|_| bad("the method"))?;
    let mut authority = authority.map(|a| HeaderValue::from_str(&a).map_err(|_| bad("the host"))).transpose()?;
    let (mut headers, mut upgrade) = (HeaderMap::new(), None);
    for (name, value) in m.get_many::<(HeaderName, HeaderValue)>("header").into_iter().flatten().cloned() {
        match name.as_str() {
            "host" => authority = Some(value),
            "upgrade" => upgrade = Some(value),
            _ => drop(headers.append(name, value)),
        }
    }
    let connect = method == Method::CONNECT;
    Ok(RequestHead {
        path: (!connect).then(|| HeaderValue::from_str(&url.path)).transpose().map_err(|_| bad("the path"))?,
        method,
        scheme: if tls { Scheme::Https } else { Scheme::Http },
        authority,
        upgrade,
        headers,
        original_path: None,
    })
}

/// As much of a URL as is needed.
#[derive(Debug)]
struct Url {
    https: bool,
    host: Option<String>,
    ip: Option<IpAddr>,
    port: Option<u16>,
    path: String,
}

impl Url {
    fn parse(text: &str) -> Result<Url, Error> {
        let (https, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ if text.starts_with('/') || text == "*" => {
                return Ok(Url { https: false, host: None, ip: None, port: None, path: text.to_owned() });
            }
            _ => return Err(Error::Usage(format!("{text:?} is neither a path nor begins with http:// or https://"))),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let path = path.split('#').next().unwrap_or_default();
        let socket: Option<SocketAddr> = host.parse().ok();
        let port = host.rsplit_once(':').and_then(|(_, p)| p.parse().ok());
        Ok(Url {
            https,
            host: Some(host.to_owned()),
            ip: socket.map(|s| s.ip()).or_else(|| host.parse().ok()),
            port: Some(port.unwrap_or(if https { 443 } else { 80 })),
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        })
    }
}
