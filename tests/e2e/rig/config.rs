//! Bootstrap files out of pieces. All YAML is in flow style, so that pieces fit into each other whatever their depth.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::Backend;

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

/// A virtual host's routes: everything to cluster `a`.
pub const TO_A: &str = "[{match: {prefix: /}, route: {cluster: a}}]";

/// For `cluster`: HTTP/2 to the backend.
pub const H2_UPSTREAM: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": \
     type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}";

/// For `cluster`: `common_http_protocol_options` over HTTP/1.
pub fn http_options(common: &str) -> String {
    format!(
        "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{\"@type\": \
         {EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions, common_http_protocol_options: {common}, explicit_http_config: \
         {{http_protocol_options: {{}}}}}}}}"
    )
}

/// A connection manager with the routes of one virtual host, and `more` of its fields.
pub fn hcm(routes: &str, more: &str) -> String {
    let filters = if more.contains("http_filters:") {
        String::new()
    } else {
        format!(
            ", http_filters: [{{name: router, typed_config: {{\"@type\": {EXTENSIONS}.filters.http.router.v3.Router}}}}]"
        )
    };
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!(
        "{{name: http, typed_config: {{\"@type\": {EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: http, route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: {routes}}}]}}{filters}{more}}}}}"
    )
}

/// A TCP proxy with `more` of its fields.
pub fn tcp_proxy(more: &str) -> String {
    format!(
        "{{name: tcp, typed_config: {{\"@type\": {EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, {more}}}}}"
    )
}

/// `access_log` into a file, of one text format.
pub fn log_to(path: &Path, format: &str) -> String {
    format!(
        "access_log: [{{name: file, typed_config: {{\"@type\": {EXTENSIONS}.access_loggers.file.v3.FileAccessLog, path: \"{}\", {format}}}}}]",
        path.display()
    )
}

/// A static cluster with one endpoint and `more` of its fields.
pub fn cluster(name: &str, address: impl Display, more: &str) -> String {
    let timeout = if more.contains("connect_timeout") { "" } else { ", connect_timeout: 5s" };
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!(
        "{{name: {name}, type: STATIC{timeout}, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: \
         [{{endpoint: {{address: {address}}}}}]}}]}}{more}}}"
    )
}

/// An address over IP.
pub fn socket(addr: SocketAddr) -> String {
    format!("{{socket_address: {{address: \"{}\", port_value: {}}}}}", addr.ip(), addr.port())
}

/// An address in the file system.
pub fn pipe(path: &Path) -> String {
    format!("{{pipe: {{path: \"{}\"}}}}", path.display())
}

/// A port that is this test's: bound, so that the kernel gives it to nobody else, but not listened on. The proxy may listen on it because both
/// sides bind with `SO_REUSEPORT`.
struct Port {
    addr: SocketAddr,
    _held: socket2::Socket,
}

impl Port {
    fn reserve(ip: IpAddr) -> Port {
        let any = SocketAddr::new(ip, 0);
        let socket = socket2::Socket::new(socket2::Domain::for_address(any), socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&any.into()).unwrap();
        Port { addr: socket.local_addr().unwrap().as_socket().unwrap(), _held: socket }
    }
}

/// What a proxy is started with.
#[derive(Default)]
pub struct Config {
    ports: BTreeMap<String, Port>,
    listeners: Vec<String>,
    clusters: Vec<String>,
    more: Vec<String>,
    pub args: Vec<String>,
}

impl Config {
    pub fn new() -> Config {
        Config::default()
    }

    /// HTTP on the listener `main`, all of it to `backend`.
    pub fn to(backend: &Backend) -> Config {
        Config::new().listener("main", &hcm(TO_A, "")).cluster(cluster("a", backend, ""))
    }

    /// A port on loopback, where nobody listens, to be named in `listener_on`, `more` and the like.
    pub fn port(&mut self, name: &str) -> SocketAddr {
        self.port_on(name, Ipv4Addr::LOCALHOST.into())
    }

    pub fn port_on(&mut self, name: &str, ip: IpAddr) -> SocketAddr {
        self.ports.entry(name.to_owned()).or_insert_with(|| Port::reserve(ip)).addr
    }

    /// A listener on a port of its own, with one filter chain of one filter.
    pub fn listener(self, name: &str, filter: &str) -> Config {
        self.chain(name, &format!("{{filters: [{filter}]}}"), "")
    }

    /// A listener on a port of its own, with one filter chain and `more` of its fields.
    pub fn chain(mut self, name: &str, chain: &str, more: &str) -> Config {
        let address = socket(self.port(name));
        self.listener_on(name, &address, chain, more)
    }

    pub fn listener_on(mut self, name: &str, address: &str, chain: &str, more: &str) -> Config {
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        self.listeners.push(format!("{{name: {name}, address: {address}, filter_chains: [{chain}]{more}}}"));
        self
    }

    pub fn cluster(mut self, yaml: String) -> Config {
        self.clusters.push(yaml);
        self
    }

    /// A top-level field of the bootstrap file.
    pub fn more(mut self, yaml: &str) -> Config {
        self.more.push(yaml.to_owned());
        self
    }

    pub fn args(mut self, args: &[&str]) -> Config {
        self.args.extend(args.iter().map(|&a| a.to_owned()));
        self
    }

    pub fn addr(&self, name: &str) -> SocketAddr {
        self.ports.get(name).unwrap_or_else(|| panic!("no port named {name}")).addr
    }

    /// The file.
    pub fn yaml(&self) -> String {
        let list = |items: &[String]| items.iter().map(|i| format!("\n  - {i}")).collect::<String>();
        let mut out = String::from("admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n");
        for more in &self.more {
            out += &format!("{more}\n");
        }
        out += "static_resources:\n";
        if !self.listeners.is_empty() {
            out += &format!("  listeners:{}\n", list(&self.listeners));
        }
        if !self.clusters.is_empty() {
            out += &format!("  clusters:{}\n", list(&self.clusters));
        }
        out
    }
}
