//! `FilterChainMatch`: nine criteria, each of which narrows the choice and is never gone back on.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use prost::Message;
use waypost_filters::address::Address;
use waypost_filters::connection::Connection;
use waypost_filters::matcher::{Cidr, CidrTrie};
use waypost_xds::envoy::config::core::v3::CidrRange;
use waypost_xds::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType;
use waypost_xds::envoy::config::listener::v3::{FilterChain, FilterChainMatch};

use super::{Look, is_local, transport_protocol};
use crate::config::{ConfigError, refuse};

/// The chains by destination port; 0 is any, here and below. The order of nesting is Envoy's order of criteria.
#[derive(Debug, Default)]
pub(super) struct Criteria(HashMap<u16, CidrTrie<ByServerName>>);

/// By server name, by `.example.com` for wildcards; empty is any.
#[derive(Debug, Default)]
struct ByServerName(HashMap<Box<str>, ByTransport>);

/// By transport protocol; empty is any.
#[derive(Debug, Default)]
struct ByTransport(HashMap<Box<str>, ByApplication>);

/// By application protocol; empty is any.
#[derive(Debug, Default)]
struct ByApplication(HashMap<Box<str>, CidrTrie<BySourceType>>);

/// By source type, below the direct source address.
#[derive(Debug, Default)]
struct BySourceType {
    any: CidrTrie<BySourcePort>,
    local: CidrTrie<BySourcePort>,
    external: CidrTrie<BySourcePort>,
}

/// By source port; 0 is any.
#[derive(Debug, Default)]
struct BySourcePort(HashMap<u16, usize>);

impl Criteria {
    pub fn compile(chains: &[FilterChain], path: &str) -> Result<Criteria, ConfigError> {
        let mut criteria = Criteria::default();
        let mut seen: HashMap<Vec<u8>, &str> = HashMap::with_capacity(chains.len());
        for (i, chain) in chains.iter().enumerate() {
            let path = format!("{path}.filter_chains[{i}]");
            let wanted = chain.filter_chain_match.clone().unwrap_or_default();
            if let Some(other) = seen.insert(wanted.encode_to_vec(), &chain.name) {
                let reason = format!("filter chain '{}' has the same matching rules defined as '{other}'", chain.name);
                return Err(ConfigError::new(path, reason));
            }
            criteria.insert(wanted, i, &format!("{path}.filter_chain_match"))?;
        }
        Ok(criteria)
    }

    fn insert(&mut self, wanted: FilterChainMatch, chain: usize, path: &str) -> Result<(), ConfigError> {
        let FilterChainMatch {
            destination_port,
            prefix_ranges,
            address_suffix,
            suffix_len,
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
            server_names,
            transport_protocol,
            application_protocols,
        } = wanted;
        refuse(&address_suffix, path, "address_suffix")?;
        refuse(&suffix_len, path, "suffix_len")?;
        let destination_port = destination_port.map(|p| port(p.value, path, "destination_port")).transpose()?;
        let destinations = ranges(&prefix_ranges, path, "prefix_ranges")?;
        let direct_sources = ranges(&direct_source_prefix_ranges, path, "direct_source_prefix_ranges")?;
        let sources = ranges(&source_prefix_ranges, path, "source_prefix_ranges")?;
        let source_type = ConnectionSourceType::try_from(source_type)
            .map_err(|_| ConfigError::new(format!("{path}.source_type"), "not a source type"))?;
        let source_ports =
            or_any(source_ports.into_iter().map(|p| port(p, path, "source_ports")).collect::<Result<Vec<_>, _>>()?);
        let server_names =
            server_names.iter().enumerate().map(|(i, n)| server_name(n, &format!("{path}.server_names[{i}]")));
        let server_names = or_any(server_names.collect::<Result<Vec<_>, _>>()?);
        let application_protocols = or_any(application_protocols);

        let by_destination = self.0.entry(destination_port.unwrap_or(0)).or_default();
        for destination in &destinations {
            let names = by_destination.entry(*destination);
            for name in &server_names {
                let transports = names.0.entry(name.as_str().into()).or_default();
                let applications = transports.0.entry(transport_protocol.as_str().into()).or_default();
                for application in &application_protocols {
                    let by_direct_source = applications.0.entry(application.as_str().into()).or_default();
                    for direct in &direct_sources {
                        let types = by_direct_source.entry(*direct);
                        let by_source = match source_type {
                            ConnectionSourceType::Any => &mut types.any,
                            ConnectionSourceType::SameIpOrLoopback => &mut types.local,
                            ConnectionSourceType::External => &mut types.external,
                        };
                        for source in &sources {
                            let ports = by_source.entry(*source);
                            for port in &source_ports {
                                if ports.0.insert(*port, chain).is_some() {
                                    let reason = "multiple filter chains with overlapping matching rules are defined";
                                    return Err(ConfigError::new(path, reason));
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    pub fn find(&self, connection: &Connection) -> Option<usize> {
        let with_port = connection.local.port().and_then(|p| self.0.get(&p));
        // A port that any chain asks for is left to the chains that ask for it.
        let by_destination = with_port.or_else(|| self.0.get(&0))?;
        let names = by_destination.get(ip_or_none(&connection.local))?;
        let transports = names.find(connection.server_name.as_deref().unwrap_or_default())?;
        let applications = any_or(&transports.0, transport_protocol(connection))?;
        let by_direct_source = applications.find(&connection.application_protocols)?;
        let types = by_direct_source.get(ip_or_none(&connection.direct_remote))?;
        let ports = types.find(connection)?.get(ip_or_none(&connection.remote))?;
        let port = connection.remote.port().and_then(|p| ports.0.get(&p));
        port.or_else(|| ports.0.get(&0)).copied()
    }
}

impl Criteria {
    /// As [`Criteria::find`], noting each look. What no chain asks for is not noted.
    pub fn explain(&self, c: &Connection, looks: &mut Vec<Look>) -> Option<usize> {
        let mut look = |input: &str, value: Option<String>, asked: bool, found: Option<String>| {
            if asked || found.is_none() {
                looks.push(Look::new(input, value, found.unwrap_or_else(|| "no chain asks for it".to_owned())));
            }
        };
        let any = |exact: bool| if exact { "chains that ask for it" } else { "chains that ask for none" }.to_owned();
        let port = c.local.port();
        let with_port = port.and_then(|p| self.0.get(&p));
        let by_destination = with_port.or_else(|| self.0.get(&0));
        let asked = self.0.keys().any(|p| *p != 0);
        look("destination_port", port.map(|p| p.to_string()), asked, by_destination.map(|_| any(with_port.is_some())));
        let destination = by_destination?.longest(ip_or_none(&c.local));
        let narrow = destination.as_ref().is_some_and(|(range, _)| range.prefix_len() > 0);
        look("prefix_ranges", Some(c.local.to_string()), narrow, destination.as_ref().map(|(r, _)| r.to_string()));
        let names = destination?.1;
        let name = c.server_name.as_deref().unwrap_or_default();
        let found = names.find(name);
        let key = names.0.iter().find(|(_, t)| found.is_some_and(|f| std::ptr::eq(f, *t))).map(|(k, _)| match &**k {
            "" => any(false),
            wildcard if wildcard.starts_with('.') => format!("*{wildcard}"),
            exact => exact.to_owned(),
        });
        look("server_names", c.server_name.as_deref().map(str::to_owned), names.0.keys().any(|k| !k.is_empty()), key);
        let transports = found?;
        let protocol = transport_protocol(c);
        let applications = any_or(&transports.0, protocol);
        let asked = transports.0.keys().any(|k| !k.is_empty());
        let found = applications.map(|_| any(transports.0.contains_key(protocol)));
        look("transport_protocol", Some(protocol.to_owned()), asked, found);
        let by_direct_source = applications?.find(&c.application_protocols);
        let offered = c.application_protocols.join(",");
        let exact = c.application_protocols.iter().find(|p| applications.is_some_and(|a| a.0.contains_key(&***p)));
        let found = by_direct_source.map(|_| exact.map_or_else(|| any(false), |p| p.to_string()));
        let asked = applications.is_some_and(|a| a.0.keys().any(|k| !k.is_empty()));
        look("application_protocols", Some(offered).filter(|o| !o.is_empty()), asked, found);
        let direct = by_direct_source?.longest(ip_or_none(&c.direct_remote));
        let narrow = direct.as_ref().is_some_and(|(range, _)| range.prefix_len() > 0);
        let value = Some(c.direct_remote.to_string());
        look("direct_source_prefix_ranges", value, narrow, direct.as_ref().map(|(r, _)| r.to_string()));
        let types = direct?.1;
        let by_source = types.find(c);
        let asked = !types.local.is_empty() || !types.external.is_empty();
        let kind = if is_local(c) { "SAME_IP_OR_LOOPBACK" } else { "EXTERNAL" };
        let found = by_source.map(|s| any(!std::ptr::eq(s, &types.any)));
        look("source_type", Some(kind.to_owned()), asked, found);
        let source = by_source?.longest(ip_or_none(&c.remote));
        let narrow = source.as_ref().is_some_and(|(range, _)| range.prefix_len() > 0);
        let value = Some(c.remote.to_string());
        look("source_prefix_ranges", value, narrow, source.as_ref().map(|(r, _)| r.to_string()));
        let ports = source?.1;
        let port = c.remote.port().and_then(|p| ports.0.get(&p));
        let found = port.or_else(|| ports.0.get(&0));
        let asked = ports.0.keys().any(|p| *p != 0);
        let value = c.remote.port().map(|p| p.to_string());
        look("source_ports", value, asked, found.map(|_| any(port.is_some())));
        found.copied()
    }
}

impl ByServerName {
    /// The name itself, then `.example.com` and `.com` of it, then any.
    fn find(&self, name: &str) -> Option<&ByTransport> {
        if !name.is_empty() {
            if let Some(found) = self.0.get(name) {
                return Some(found);
            }
            let dots = name.bytes().enumerate().skip(1).filter(|(_, b)| *b == b'.').map(|(at, _)| at);
            let wildcards = dots.filter_map(|at| name.get(at..)).filter(|suffix| suffix.len() > 1);
            if let Some(found) = wildcards.into_iter().find_map(|suffix| self.0.get(suffix)) {
                return Some(found);
            }
        }
        self.0.get("")
    }
}

impl ByApplication {
    /// The first of the offered protocols that any chain asks for.
    fn find(&self, offered: &[Arc<str>]) -> Option<&CidrTrie<BySourceType>> {
        offered.iter().find_map(|p| self.0.get(&**p)).or_else(|| self.0.get(""))
    }
}

impl BySourceType {
    fn find(&self, connection: &Connection) -> Option<&CidrTrie<BySourcePort>> {
        let narrow = match (self.local.is_empty(), self.external.is_empty()) {
            (true, true) => None,
            _ if is_local(connection) => Some(&self.local),
            _ => Some(&self.external),
        };
        narrow.filter(|t| !t.is_empty()).or(Some(&self.any).filter(|t| !t.is_empty()))
    }
}

fn any_or<'a, T>(map: &'a HashMap<Box<str>, T>, key: &str) -> Option<&'a T> {
    map.get(key).or_else(|| map.get(""))
}

/// An address that is no IP is matched as one that no sensible range holds, as Envoy does.
fn ip_or_none(address: &Address) -> IpAddr {
    address.ip().unwrap_or(IpAddr::V4(Ipv4Addr::BROADCAST))
}

fn or_any<T: Default>(list: Vec<T>) -> Vec<T> {
    if list.is_empty() { vec![T::default()] } else { list }
}

fn ranges(list: &[CidrRange], path: &str, field: &str) -> Result<Vec<Cidr>, ConfigError> {
    if list.is_empty() {
        return Ok(vec![Cidr::ALL_V4, Cidr::ALL_V6]);
    }
    let one = |(i, r)| Ok(Cidr::compile(r, &format!("{path}.{field}[{i}]"))?);
    list.iter().enumerate().map(one).collect()
}

fn port(value: u32, path: &str, field: &str) -> Result<u16, ConfigError> {
    match u16::try_from(value) {
        Ok(p) if p > 0 => Ok(p),
        _ => Err(ConfigError::new(format!("{path}.{field}"), "value must be inside range [1, 65535]")),
    }
}

/// `*.example.com` becomes `.example.com`.
fn server_name(name: &str, path: &str) -> Result<String, ConfigError> {
    let name = name.to_ascii_lowercase();
    let bare = if name.starts_with("*.") { name.get(1..).unwrap_or_default() } else { &name };
    if bare.contains('*') {
        return Err(ConfigError::new(path, "partial wildcards are not supported in \"server_names\""));
    }
    Ok(bare.to_owned())
}
