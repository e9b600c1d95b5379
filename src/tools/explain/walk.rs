//! A connection's way: listener, filter chain, network filters, and what takes its bytes.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::HeaderValue;
use waypost_filters::address::Address;
use waypost_filters::connection::Connection;
use waypost_filters::filter::NetworkStep;
use waypost_filters::format::FormatContext;
use waypost_filters::stream::StreamInfo;
use waypost_filters::{filter_state::FilterState, listener::original_dst};

use super::ask::{Ask, Content, Entry, Layer, Layers};
use super::outcome::Outcome;
use super::step::Step;
use super::world::World;
use crate::cluster::connect::Sharing;
use crate::listener::network::Named;
use crate::listener::{Listener, ListenerFilter, Terminal, serve};
use crate::tcp_proxy::{TcpProxy, pick_cluster};

/// More internal hops than this go round in a circle.
const HOPS: usize = 16;

/// The explanation as it grows.
pub struct Walk<'a> {
    /// The configuration.
    pub world: &'a World,
    /// The random number of every choice.
    pub random: u64,
    /// How it ends.
    pub outcome: Outcome,
    hops: usize,
}

impl<'a> Walk<'a> {
    /// Explains a request: its steps, and how it ends.
    pub fn explain(world: &'a World, ask: &Ask) -> (Vec<Step>, Outcome) {
        let mut walk = Walk { world, random: ask.random, outcome: Outcome::default(), hops: 0 };
        let steps = walk.enter(ask);
        (steps, walk.outcome)
    }

    fn enter(&mut self, ask: &Ask) -> Vec<Step> {
        let (listener, what) = match &ask.entry {
            Entry::Name(name) => (self.world.named(name), format!("a listener {name:?}")),
            Entry::Port(ip, port) => {
                let at = ip.map(|ip| format!("{ip}:")).unwrap_or_default();
                (self.world.listening_at(*ip, *port), format!("a listener at {at}{port}"))
            }
        };
        let Some(listener) = listener else {
            let mut steps = vec![self.closed(format!("there is no such thing as {what}"))];
            for (name, error) in &self.world.broken_listeners {
                steps.push(Step::new("error", format!("listener {name} cannot be used: {error}")));
            }
            return steps;
        };
        let wanted = match &ask.entry {
            Entry::Port(ip, _) => *ip,
            Entry::Name(_) => None,
        };
        let local = match listener.addresses.first() {
            Some(Address::Ip(a)) if a.ip().is_unspecified() => {
                let ip = wanted.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
                Address::Ip(std::net::SocketAddr::new(ip, a.port()))
            }
            Some(other) => other.clone(),
            None => Address::Internal { listener: listener.name.clone(), endpoint_id: "".into() },
        };
        let mut connection = Connection::new(local, Address::Ip(ask.source));
        connection.listener = listener.name.clone();
        connection.direction = listener.direction;
        vec![self.connection(listener, connection, ask.layers.clone())]
    }

    /// The way of a connection that a listener has accepted.
    pub fn connection(&mut self, listener: &Arc<Listener>, mut connection: Connection, mut layers: Layers) -> Step {
        self.hops += 1;
        let at: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
        let at = if listener.internal { "internal".to_owned() } else { at.join(", ") };
        let step = Step::new("listener", format!("listener {} ({at})", listener.name))
            .fact("name", &*listener.name)
            .fact("internal", listener.internal);
        if self.hops > HOPS {
            return step.with(vec![self.closed("the internal listeners lead in a circle")]);
        }
        let Some(layer) = layers.front() else {
            return step.with(vec![self.closed("nothing is left to be sent")]);
        };
        let mut steps = Vec::new();
        inspect(listener, layer, &mut connection, &mut steps);
        steps.push(Step::new(
            "connection",
            format!("connection to {} from {}, carrying {layer}", connection.local, connection.remote),
        ));
        for look in listener.chains.load().chain_match.explain(&connection) {
            let value = look.value.as_deref().unwrap_or("none");
            let text = match look.input.as_str() {
                "nothing matched" | "no match" => format!("{}: {}", look.input, look.outcome),
                input => format!("{input} {value}: {}", look.outcome),
            };
            steps.push(
                Step::new("match", text)
                    .fact("input", look.input)
                    .fact("value", look.value)
                    .fact("outcome", look.outcome),
            );
        }
        // What is done is the proxy's own decision.
        let Some(chain) = serve::choose(listener, &connection) else {
            steps.push(self.closed("no filter chain takes the connection (flag NR)"));
            return step.with(steps);
        };
        let number = listener.chains.load().all.iter().position(|c| Arc::ptr_eq(c, &chain)).unwrap_or_default();
        let name = if chain.name.is_empty() { "without a name" } else { &*chain.name };
        let mut within = Vec::new();
        connection.filter_chain = chain.name.clone();
        if let Some(error) = self.world.broken_chains.get(&(listener.name.clone(), number)) {
            within.push(
                self.closed(format!("the filter chain cannot be used, and so the proxy refuses the listener: {error}")),
            );
        } else {
            self.chain(&chain, connection, &mut layers, &mut within);
        }
        let chain = Step::new("filter_chain", format!("filter chain {number} {name}"))
            .fact("name", &*chain.name)
            .fact("index", number);
        steps.push(chain.with(within));
        step.with(steps)
    }

    fn chain(
        &mut self,
        chain: &crate::listener::FilterChain,
        mut connection: Connection,
        layers: &mut Layers,
        steps: &mut Vec<Step>,
    ) {
        let client = layers.front_mut().and_then(|l| l.tls.as_mut()).cloned();
        if let Some(tls) = &chain.tls {
            steps.push(Step::new("tls", format!("TLS: {}", tls.describe())));
            let Some(client) = &client else {
                return steps.push(self.closed("the client does not speak TLS"));
            };
            connection.transport_protocol = "tls";
            connection.tls = Some(Arc::new(client.session()));
            let peer = client.peer.as_deref().unwrap_or(if tls.requires_certificate() {
                "not named (see --peer); its certificate is taken for a good one"
            } else {
                "without a certificate"
            });
            steps.push(Step::new("peer", format!("peer {peer}")).fact("peer", client.peer.clone()));
            if let Some(uri) = client.peer.as_deref().filter(|uri| tls.refuses_uri(uri)) {
                return steps.push(self.closed(format!("the TLS context refuses the name {uri}")));
            }
            if let Some(layer) = layers.front_mut() {
                layer.tls = None;
            }
        }
        for Named { name, filter } in chain.network.iter() {
            let before = connection.filter_state.clone();
            let step = filter.on_new_connection(&mut connection);
            let said = match &step {
                NetworkStep::Continue => "goes on".to_owned(),
                NetworkStep::Close(reason) => format!("closes the connection: {reason}"),
            };
            let text = format!("network filter {name}: {said}{}", set(&before, &connection.filter_state));
            steps.push(Step::new("network_filter", text).fact("name", &**name));
            if let NetworkStep::Close(reason) = step {
                return steps.push(self.closed(format!("network filter {name}: {reason}")));
            }
        }
        let connection = Arc::new(connection);
        let mut layers = std::mem::take(layers);
        match &chain.terminal {
            Terminal::Http(hcm) => match layers.pop_front() {
                Some(Layer { tls: None, content: Content::Http(head, protocol) }) => {
                    steps.push(self.http(hcm, connection, *head, protocol, layers));
                }
                Some(layer) => steps.push(self.closed(format!("an HTTP connection manager cannot read {layer}"))),
                None => steps.push(self.closed("nothing is left to be sent")),
            },
            Terminal::Tcp(proxy) => steps.push(self.tcp(proxy, connection, layers)),
            Terminal::Echo => steps.push(self.closed("echo: the client gets its bytes back")),
            Terminal::DirectResponse(_) => {
                steps.push(self.closed("direct_response: the client gets the configured bytes"))
            }
            Terminal::Nothing => steps.push(self.closed("the filter chain has no filters")),
        }
    }

    fn tcp(&mut self, proxy: &TcpProxy, connection: Arc<Connection>, mut layers: Layers) -> Step {
        let step =
            Step::new("tcp_proxy", format!("tcp_proxy {}", proxy.stat_prefix)).fact("stat_prefix", &*proxy.stat_prefix);
        let info = StreamInfo::new(connection.clone(), 0, Instant::now(), SystemTime::now());
        let mut steps = Vec::new();
        if proxy.clusters.len() > 1 {
            let mut before = 0;
            for (slot, upto) in &proxy.clusters {
                let weight = upto - std::mem::replace(&mut before, *upto);
                steps.push(Step::new("weight", format!("cluster {} has weight {weight}", slot.name)));
            }
        }
        if let Some(tunneling) = &proxy.tunneling {
            let authority = tunneling.hostname.evaluate(&FormatContext::of_info(&info)).unwrap_or_default();
            let text = String::from_utf8_lossy(&authority).into_owned();
            steps.push(Step::new("tunnel", format!("CONNECT {text}")).fact("authority", text));
            match HeaderValue::from_bytes(&authority) {
                Ok(authority) if !authority.is_empty() => layers.push_front(Layer::connect(authority, None)),
                _ => {
                    steps.push(self.closed("there is no authority for the tunnel"));
                    return step.with(steps);
                }
            }
        }
        let Some(slot) = pick_cluster(&proxy.clusters, self.random).cloned() else {
            steps.push(self.closed("there is no cluster"));
            return step.with(steps);
        };
        let sharing = Sharing::of(&connection, Some(&info.filter_state));
        match self.cluster(&slot) {
            Ok(cluster) => steps.push(self.upstream(&cluster, &info, None, &sharing, layers)),
            Err(missing) => {
                steps.push(*missing);
                steps.push(self.closed(format!("cluster {} is not there (flag NC)", slot.name)));
            }
        }
        step.with(steps)
    }

    /// The end of a connection that goes no further.
    pub fn closed(&mut self, why: impl Into<String>) -> Step {
        let why = why.into();
        self.outcome = Outcome::Closed(why.clone());
        Step::new("closed", why)
    }
}

/// What listener filters learn of a connection.
fn inspect(listener: &Listener, layer: &Layer, connection: &mut Connection, steps: &mut Vec<Step>) {
    for (filter, disabled) in &listener.filters {
        let port = connection.local.port();
        let name = match filter {
            ListenerFilter::OriginalDst => "original_dst",
            ListenerFilter::TlsInspector(_) => "tls_inspector",
            ListenerFilter::HttpInspector => "http_inspector",
            ListenerFilter::ProxyProtocol(_) => "proxy_protocol",
        };
        let said = match filter {
            _ if disabled.disabled(port) => Some("disabled for this port".to_owned()),
            ListenerFilter::OriginalDst if listener.internal => {
                original_dst::restore_internal(connection);
                Some(format!("destination {}", connection.local))
            }
            // Only the kernel knows where a connection from outside was going.
            ListenerFilter::OriginalDst => None,
            ListenerFilter::ProxyProtocol(_) => {
                Some("taken for one that says what the connection is anyway".to_owned())
            }
            ListenerFilter::TlsInspector(_) => match &layer.tls {
                Some(tls) => {
                    connection.transport_protocol = "tls";
                    connection.server_name = tls.server_name.as_deref().map(Into::into);
                    connection.application_protocols = tls.alpn.iter().map(|a| a.as_str().into()).collect();
                    let name = tls.server_name.as_deref().unwrap_or("none");
                    Some(format!("TLS, server name {name}, ALPN {}", tls.alpn.join(",")))
                }
                None => {
                    connection.transport_protocol = "raw_buffer";
                    Some("no TLS".to_owned())
                }
            },
            ListenerFilter::HttpInspector => match (&layer.tls, &layer.content) {
                (None, Content::Http(_, protocol)) => {
                    use waypost_filters::head::Protocol;
                    let found = match protocol {
                        Protocol::Http10 => "http/1.0",
                        Protocol::Http11 => "http/1.1",
                        Protocol::Http2 => "h2c",
                    };
                    connection.application_protocols = vec![found.into()];
                    Some(found.to_owned())
                }
                _ => Some("no HTTP".to_owned()),
            },
        };
        if let Some(said) = said {
            steps.push(Step::new("listener_filter", format!("listener filter {name}: {said}")).fact("name", name));
        }
    }
}

/// What a filter has put into filter state, as text.
pub fn set(before: &FilterState, after: &FilterState) -> String {
    let new = after.iter().filter(|e| before.get(&e.key) != Some(&e.object));
    let new: Vec<String> = new.map(|e| format!("{} = {}", e.key, e.object.plain())).collect();
    if new.is_empty() { String::new() } else { format!("; sets {}", new.join(", ")) }
}
