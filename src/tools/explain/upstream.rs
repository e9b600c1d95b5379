//! From a cluster to one of its hosts, and where that is an internal listener, on from there.

use std::sync::Arc;

use http::HeaderMap;
use waypost_filters::address::Address;
use waypost_filters::stream::{HostInfo, StreamInfo};

use super::ask::{Content, Layers, Tls};
use super::outcome::Outcome;
use super::step::Step;
use super::walk::Walk;
use super::world::named;
use crate::cluster::balance::{self, BalanceState};
use crate::cluster::connect::{Sharing, passthrough};
use crate::cluster::{Cluster, ClusterSlot, Discovery, Health, Host, HostSet, Policy, Transport, UpstreamProtocol};
use crate::listener::internal_connection;
use crate::tcp_proxy::original_destination;

impl Walk<'_> {
    /// The cluster of a slot, or why there is none.
    pub fn cluster(&self, slot: &ClusterSlot) -> Result<Arc<Cluster>, Box<Step>> {
        slot.current.load_full().ok_or_else(|| {
            let why = match self.world.broken_clusters.get(&*slot.name) {
                Some(error) => format!("cannot be used: {error}"),
                None => "is not in the configuration".to_owned(),
            };
            Box::new(Step::new("cluster", format!("cluster {} {why}", slot.name)).fact("name", &*slot.name))
        })
    }

    /// A host of the cluster, and the way to it.
    pub fn upstream(
        &mut self,
        cluster: &Arc<Cluster>,
        info: &StreamInfo,
        headers: Option<&HeaderMap>,
        sharing: &Sharing,
        layers: Layers,
    ) -> Step {
        let name = &*cluster.names.name;
        let protocol = match cluster.http.protocol {
            UpstreamProtocol::Http1 => "HTTP/1.1",
            UpstreamProtocol::Http2 => "HTTP/2",
            UpstreamProtocol::Downstream => "the client's protocol",
            UpstreamProtocol::Alpn => "what ALPN decides",
        };
        let spoken = matches!(layers.front().map(|l| &l.content), Some(Content::Http(..)));
        let spoken = if spoken { format!(", speaking {protocol}") } else { String::new() };
        let step = Step::new("cluster", format!("cluster {name} ({}){spoken}", policy(cluster))).fact("name", name);
        let mut steps = Vec::new();
        let host = match &cluster.discovery {
            Discovery::OriginalDst(config) => {
                let Some(mut address) = original_destination(config, info, headers) else {
                    steps.push(Step::new("original_dst", "nothing says where the connection was going"));
                    steps.push(self.no_host(headers.is_some()));
                    return step.with(steps);
                };
                let over = config.port.map(|p| format!(", the port by upstream_port_override {p}")).unwrap_or_default();
                if let Some(port) = config.port {
                    address.set_port(port);
                }
                steps.push(Step::new("original_dst", format!("original destination {address}{over}")));
                let (address, hostname) = (Address::Ip(address), Arc::from(""));
                let host = HostInfo { address, hostname, metadata: Default::default() };
                Some(Arc::new(Host::new(host, config.transport.clone())))
            }
            Discovery::Static => self.balance(cluster, &mut steps),
            Discovery::Eds { service_name, .. } => {
                if let Some(error) = self.world.broken_endpoints.get(&**service_name) {
                    steps.push(Step::new("endpoints", format!("endpoints {service_name} cannot be used: {error}")));
                }
                self.balance(cluster, &mut steps)
            }
            Discovery::Dns(dns) => {
                let kind = if dns.logical { "LOGICAL_DNS" } else { "STRICT_DNS" };
                steps.push(Step::new("dns", format!("hosts by name ({kind}); names are not looked up here")));
                self.balance(cluster, &mut steps)
            }
            Discovery::None => {
                steps.push(Step::new("no_hosts", "how the cluster finds its hosts is not built yet"));
                None
            }
        };
        match host {
            Some(host) => steps.push(self.host(cluster, &host, info, sharing, layers)),
            None => steps.push(self.no_host(headers.is_some())),
        }
        step.with(steps)
    }

    /// HTTP is answered, bytes are not.
    fn no_host(&mut self, http: bool) -> Step {
        if !http {
            return self.closed("no healthy upstream (flag UH)");
        }
        self.outcome = Outcome::Answered { status: 503, details: "no_healthy_upstream".to_owned() };
        Step::new("answer", "no healthy upstream: 503 (flag UH)")
    }

    fn balance(&self, cluster: &Cluster, steps: &mut Vec<Step>) -> Option<Arc<Host>> {
        let hosts = cluster.hosts.load_full();
        // Workers remember whose turn it is; a new one begins as this does.
        let picked = balance::pick(cluster.policy, &hosts, &mut BalanceState::default(), self.random, &[]);
        let different = hosts.all.iter().any(|h| h.weight != 1 || h.place.priority != 0);
        let eligible = hosts.groups.iter().map(|g| g.hosts.len()).sum::<usize>();
        if hosts.panic {
            steps.push(Step::new("panic", "too few hosts are healthy: health is not looked at"));
        }
        for host in &hosts.all {
            let mut notes = Vec::new();
            if different {
                notes.push(format!("weight {}, priority {}", host.weight, host.place.priority));
            }
            match host.health {
                Health::Healthy => {}
                Health::Degraded => notes.push("degraded".to_owned()),
                Health::Unhealthy => notes.push("unhealthy".to_owned()),
            }
            match share(&hosts, host) {
                None => notes.push("not eligible".to_owned()),
                Some(share) if hosts.groups.len() > 1 => {
                    notes.push(format!("{} gets {share:.0}% of the load", locality(host)));
                }
                Some(_) => {}
            }
            let chosen = picked.as_ref() == Some(host);
            if chosen && eligible > 1 {
                notes.push(format!("picked for random number {}", self.random));
            }
            let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
            let address = named(cluster, &host.info.address);
            let step = Step::new("candidate", format!("host {address}{notes}"));
            steps.push(step.fact("address", address).fact("picked", chosen));
        }
        picked
    }

    fn host(
        &mut self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        info: &StreamInfo,
        sharing: &Sharing,
        mut layers: Layers,
    ) -> Step {
        let address = &host.info.address;
        let shown = named(cluster, address);
        let step = Step::new("host", format!("to {shown}")).fact("address", &*shown);
        let mut steps = Vec::new();
        let inner = match &*host.transport {
            Transport::Internal { inner, .. } => inner,
            other => other,
        };
        if let Transport::Tls(context) = inner {
            let auto = if cluster.http.auto_sni { "; SNI is the request's host (auto_sni)" } else { "" };
            steps.push(Step::new("tls", format!("TLS: {}{auto}", context.0.describe())));
            if let Some(layer) = layers.front_mut() {
                layer.tls = Some(Tls { peer: local_identity(info), alpn: vec!["h2".to_owned()], ..Tls::default() });
            }
        }
        if let Address::Internal { listener: name, .. } = address {
            let Some(listener) = self.world.listeners.internal.get(name).cloned() else {
                let why = match self.world.broken_listeners.get(&**name) {
                    Some(error) => format!("internal listener {name} cannot be used: {error}"),
                    None => format!("there is no internal listener {name}"),
                };
                steps.push(self.closed(why));
                return step.with(steps);
            };
            let metadata = passthrough(&host.transport, cluster, host);
            let connection = internal_connection(&listener, sharing.filter_state.clone(), metadata);
            steps.push(self.connection(&listener, connection, layers));
            return step.with(steps);
        }
        let tunnels = layers.iter().filter_map(|l| match &l.content {
            Content::Http(head, _) if head.is_connect() => {
                Some(String::from_utf8_lossy(head.authority_bytes()).into_owned())
            }
            _ => None,
        });
        self.outcome = Outcome::Sent {
            address: shown,
            tunnels: tunnels.collect(),
            cluster: cluster.names.name.to_string(),
            what: layers.back().map(ToString::to_string).unwrap_or_default(),
        };
        step.with(steps)
    }
}

/// What part of the load goes to the group of a host, in percent; none where it is in no group.
fn share(hosts: &HostSet, host: &Arc<Host>) -> Option<f64> {
    let mut before = 0.0;
    hosts.groups.iter().find_map(|g| {
        let share = g.upto - std::mem::replace(&mut before, g.upto);
        g.hosts.contains(host).then_some(share)
    })
}

fn locality(host: &Host) -> String {
    let parts: Vec<&str> = host.place.locality.iter().map(|p| &**p).filter(|p| !p.is_empty()).collect();
    let place = if parts.is_empty() { "no locality".to_owned() } else { parts.join("/") };
    format!("{place} of priority {}", host.place.priority)
}

fn policy(cluster: &Cluster) -> String {
    match (&cluster.discovery, cluster.policy) {
        (Discovery::OriginalDst(_), _) => "ORIGINAL_DST".to_owned(),
        (Discovery::None, _) => "without hosts".to_owned(),
        (_, Policy::RoundRobin) => "ROUND_ROBIN".to_owned(),
        (_, Policy::LeastRequest { choices }) => format!("LEAST_REQUEST of {choices}"),
        (_, Policy::Random) => "RANDOM".to_owned(),
        (_, Policy::ClusterProvided) => "CLUSTER_PROVIDED".to_owned(),
    }
}

/// Our own name, where the downstream session shows it.
fn local_identity(info: &StreamInfo) -> Option<String> {
    info.connection.tls.as_ref()?.local.as_ref()?.uri_sans.first().cloned()
}
