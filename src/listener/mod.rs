//! Listeners: where connections come from, and which filter chain takes them.

pub mod accept;
pub mod chain_match;
pub mod compile;
mod discovered;
pub mod drain;
pub mod identity;
pub mod inspect;
pub mod internal;
pub mod manager;
pub mod network;
pub mod serve;
mod set;
mod socket;

use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use waypost_filters::access_log::AccessLog;
use waypost_filters::address::Address;
use waypost_filters::connection::{Connection, Direction};
use waypost_filters::filter_state::FilterState;
use waypost_filters::listener::proxy_protocol::ProxyProtocol;
use waypost_filters::listener::tls_inspector::TlsInspector;
use waypost_filters::metadata::Metadata;
use waypost_filters::network::metadata_exchange::MetadataExchange;

use self::chain_match::{ChainMatch, FilterDisabled};
use self::drain::ChainState;
use self::identity::{ChainKey, Digest};
use self::network::Named;
pub use self::set::{ListenerSet, Listeners, Stopped};
pub use self::socket::ListenSocket;
use crate::config::extension::Discovery;
use crate::http::config::HttpConnectionManager;
use crate::net::Io;
use crate::net::socket::ListenOptions;
use crate::observe::stats::{Counter, Gauge, Histogram, Store};
use crate::tcp_proxy::TcpProxy;
use crate::tls::{ServerTls, TlsStats};
use crate::worker::{LoadGuard, Worker};

/// A listener (`config.listener.v3.Listener`). Its filter chains may change; for all else that does, another takes its place.
pub struct Listener {
    /// `name`, or the address where there is none.
    pub name: Arc<str>,
    /// What its counters are named after.
    pub stat_name: Arc<str>,
    /// `address` and `additional_addresses`; none for an internal listener.
    pub addresses: Vec<Address>,
    /// What its sockets are opened with.
    pub options: ListenOptions,
    /// `bind_to_port`.
    pub bind: bool,
    /// `internal_listener`.
    pub internal: bool,
    /// The filter chains at the moment.
    pub chains: ArcSwap<Chains>,
    /// `listener_filters`, each with where it is disabled.
    pub filters: Vec<(ListenerFilter, FilterDisabled)>,
    /// `listener_filters_timeout`: 15 s unless it is set, none for 0.
    pub filters_timeout: Option<Duration>,
    /// `continue_on_listener_filters_timeout`.
    pub continue_on_timeout: bool,
    /// `traffic_direction`.
    pub direction: Direction,
    /// `access_log` of the listener.
    pub access_logs: Vec<AccessLog>,
    /// `connection_balance_config.exact_balance`.
    pub exact_balance: bool,
    /// Counters.
    pub stats: ListenerStats,
}

/// The filter chains of a listener.
pub struct Chains {
    /// `filter_chains`, then `default_filter_chain`.
    pub all: Vec<Arc<FilterChain>>,
    /// Which of them takes a connection.
    pub chain_match: Arc<ChainMatch>,
    /// What `chain_match` was compiled from.
    pub choice: Digest,
}

/// A listener filter.
pub enum ListenerFilter {
    /// `envoy.filters.listener.original_dst`.
    OriginalDst,
    /// `envoy.filters.listener.tls_inspector`.
    TlsInspector(TlsInspector),
    /// `envoy.filters.listener.http_inspector`.
    HttpInspector,
    /// `envoy.filters.listener.proxy_protocol`.
    ProxyProtocol(ProxyProtocol),
}

/// A filter chain (`config.listener.v3.FilterChain`). It is compiled from its own message alone, and from nothing of its listener: chains whose
/// messages are the same are the same.
pub struct FilterChain {
    /// What it was compiled from.
    pub key: ChainKey,
    /// Whether it serves still; its connections hold this.
    pub state: Arc<ChainState>,
    /// `name`.
    pub name: Arc<str>,
    /// `transport_socket`, where it is TLS.
    pub tls: Option<Arc<ServerTls>>,
    /// `transport_socket_connect_timeout`; none unless it is set.
    pub handshake_timeout: Option<Duration>,
    /// Network filters in front of the last.
    pub network: Arc<[Named]>,
    /// What some of them wait for.
    pub discovered: Arc<[Arc<Discovery>]>,
    /// What is said to clients that agree to it (`istio.metadata_exchange`).
    pub exchange: Option<Arc<MetadataExchange>>,
    /// The last one.
    pub terminal: Terminal,
}

impl FilterChain {
    /// The same chain for other connections: what is asked of those of this one is not asked of its.
    pub fn renewed(&self, key: ChainKey) -> FilterChain {
        FilterChain {
            key,
            state: Arc::default(),
            name: self.name.clone(),
            tls: self.tls.clone(),
            handshake_timeout: self.handshake_timeout,
            network: self.network.clone(),
            discovered: self.discovered.clone(),
            exchange: self.exchange.clone(),
            terminal: self.terminal.clone(),
        }
    }
}

/// The network filter that takes the bytes.
#[derive(Clone)]
pub enum Terminal {
    /// `envoy.filters.network.http_connection_manager`.
    Http(Arc<HttpConnectionManager>),
    /// `envoy.filters.network.tcp_proxy`.
    Tcp(Arc<TcpProxy>),
    /// `envoy.filters.network.echo`.
    Echo,
    /// `envoy.filters.network.direct_response`.
    DirectResponse(Bytes),
    /// A chain without filters: the connection is closed.
    Nothing,
}

/// A listener's counters (`listener.<address>.…`).
#[allow(missing_docs, reason = "the fields are Envoy's stat names")]
pub struct ListenerStats {
    pub downstream_cx_total: Counter,
    pub downstream_cx_active: Gauge,
    pub downstream_cx_destroy: Counter,
    pub downstream_cx_length_ms: Histogram,
    pub downstream_cx_transport_socket_connect_timeout: Counter,
    pub downstream_pre_cx_active: Gauge,
    pub downstream_pre_cx_timeout: Counter,
    pub no_filter_chain_match: Counter,
    pub downstream_listener_filter_error: Counter,
    /// `ssl.…`, from when a chain with TLS came.
    pub ssl: OnceLock<Arc<TlsStats>>,
}

impl ListenerStats {
    /// Handles for the listener whose stat name is given (`0.0.0.0_15008`, `envoy_internal_main_internal`). Another listener of that name goes on
    /// counting where the last one was.
    pub fn new(store: &Store, name: &str) -> ListenerStats {
        let counter = |n: &str| store.counter(&format!("listener.{name}.{n}"));
        let gauge = |n: &str| store.gauge(&format!("listener.{name}.{n}"));
        ListenerStats {
            downstream_cx_total: counter("downstream_cx_total"),
            downstream_cx_active: gauge("downstream_cx_active"),
            downstream_cx_destroy: counter("downstream_cx_destroy"),
            downstream_cx_length_ms: store.histogram(&format!("listener.{name}.downstream_cx_length_ms")),
            downstream_cx_transport_socket_connect_timeout: counter("downstream_cx_transport_socket_connect_timeout"),
            downstream_pre_cx_active: gauge("downstream_pre_cx_active"),
            downstream_pre_cx_timeout: counter("downstream_pre_cx_timeout"),
            no_filter_chain_match: counter("no_filter_chain_match"),
            downstream_listener_filter_error: counter("downstream_listener_filter_error"),
            ssl: OnceLock::new(),
        }
    }
}

impl Listener {
    /// Counts handshakes, where there are any to come.
    fn count_tls(&self, store: &Store, chains: &Chains) {
        if chains.all.iter().any(|c| c.tls.is_some()) {
            let ssl = self.stats.ssl.get_or_init(|| TlsStats::server(store, &format!("listener.{}.", self.stat_name)));
            chains.all.iter().filter_map(|c| c.tls.as_ref()).for_each(|tls| tls.follow(ssl));
        }
    }
}

/// A connection or stream on its way to another worker.
pub enum Handover {
    /// A TCP connection that an exactly balanced listener accepted.
    /// It counts as the other worker's from the moment it is sent: a burst would all go to the same one otherwise.
    Tcp(Arc<Listener>, std::net::TcpStream, LoadGuard),
    /// A CONNECT stream for an internal listener.
    Stream(Box<StreamHandover>),
}

/// A CONNECT stream on its way to an internal listener on another worker.
pub struct StreamHandover {
    /// The listener.
    pub listener: Arc<Listener>,
    /// The stream.
    pub io: Io,
    /// What is shared with it.
    pub filter_state: FilterState,
    /// Metadata passed through.
    pub metadata: Metadata,
    /// Dropped when the stream has ended.
    pub done: tokio::sync::oneshot::Sender<()>,
    /// Counts it on the worker that it goes to.
    pub load: LoadGuard,
}

impl Handover {
    /// Serves it here.
    pub fn serve(self, worker: &Rc<Worker>) {
        match self {
            Handover::Tcp(listener, stream, _load) => match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => accept::accepted(worker, listener, stream),
                Err(e) => tracing::warn!("a connection could not be taken over: {e}"),
            },
            Handover::Stream(stream) => {
                let worker = worker.clone();
                tokio::task::spawn_local(async move {
                    let StreamHandover { listener, io, filter_state, metadata, done, load } = *stream;
                    internal::run(&worker, listener, io, filter_state, metadata, load).await;
                    drop(done);
                });
            }
        }
    }
}

/// The connection that an internal listener sees.
pub fn internal_connection(listener: &Listener, filter_state: FilterState, metadata: Metadata) -> Connection {
    let local = Address::Internal { listener: listener.name.clone(), endpoint_id: Arc::from("") };
    let remote = Address::Internal { listener: Arc::from("internal_client_address"), endpoint_id: Arc::from("") };
    let mut connection = Connection::new(local, remote);
    connection.filter_state = filter_state;
    connection.metadata = metadata;
    connection.listener = listener.name.clone();
    connection.direction = listener.direction;
    connection
}
