//! Which filter chain takes a connection (`filter_chain_match`, `filter_chain_matcher`, `default_filter_chain`).

mod criteria;
mod disabled;
mod input;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;

use waypost_filters::connection::Connection;
use waypost_xds::envoy::config::listener::v3::FilterChain;
use waypost_xds::xds::r#type::matcher::v3::Matcher;

use self::criteria::Criteria;
use self::tree::Tree;
use crate::config::ConfigError;

pub use self::disabled::FilterDisabled;

/// Finds the filter chain of a connection. Nothing is allocated and no lock is taken.
#[derive(Debug)]
pub struct ChainMatch {
    kind: Kind,
    default: Option<usize>,
}

#[derive(Debug)]
enum Kind {
    Criteria(Box<Criteria>),
    Tree(Tree),
}

impl ChainMatch {
    /// Compiles what a listener says about its chains. Chains are numbered as in `filter_chains`; the default chain, if there is one, comes
    /// after them, with the number `chains.len()`. `path` is the listener's.
    pub fn compile(
        chains: &[FilterChain],
        has_default: bool,
        matcher: Option<&Matcher>,
        path: &str,
    ) -> Result<ChainMatch, ConfigError> {
        let kind = match matcher {
            None => Kind::Criteria(Box::new(Criteria::compile(chains, path)?)),
            Some(matcher) => {
                // With a matcher Envoy passes over `filter_chain_match`, and so do we.
                let names = names(chains, path)?;
                Kind::Tree(Tree::compile(matcher, &names, &format!("{path}.filter_chain_matcher"))?)
            }
        };
        Ok(ChainMatch { kind, default: has_default.then_some(chains.len()) })
    }

    /// The chain of a connection; none means that it is closed (`filter_chain_not_found`, flag NR).
    pub fn find(&self, connection: &Connection) -> Option<usize> {
        match &self.kind {
            Kind::Criteria(criteria) => criteria.find(connection).or(self.default),
            Kind::Tree(tree) => match tree.find(connection) {
                // A matcher may name a chain that there is none of; then the default chain does not help, either.
                Some(chain) => chain,
                None => self.default,
            },
        }
    }
}

/// One look at a property of a connection on the way to its filter chain, for `waypost explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What was looked at.
    pub input: String,
    /// What it was; none where the connection has no such thing.
    pub value: Option<String>,
    /// What that matched.
    pub outcome: String,
}

impl Look {
    fn new(input: impl Into<String>, value: Option<String>, outcome: impl Into<String>) -> Look {
        Look { input: input.into(), value, outcome: outcome.into() }
    }
}

impl ChainMatch {
    /// The looks that [`ChainMatch::find`] takes at a connection; what it finds is its own affair.
    pub fn explain(&self, connection: &Connection) -> Vec<Look> {
        let mut looks = Vec::new();
        let found = match &self.kind {
            Kind::Criteria(criteria) => criteria.explain(connection, &mut looks).is_some(),
            Kind::Tree(tree) => tree.explain(connection, &mut looks).is_some(),
        };
        if !found {
            let outcome = if self.default.is_some() { "default_filter_chain" } else { "no filter chain" };
            looks.push(Look::new("nothing matched", None, outcome));
        }
        looks
    }
}

fn names<'a>(chains: &'a [FilterChain], path: &str) -> Result<HashMap<&'a str, usize>, ConfigError> {
    let mut names = HashMap::with_capacity(chains.len());
    for (i, chain) in chains.iter().enumerate() {
        let path = || format!("{path}.filter_chains[{i}].name");
        if chain.name.is_empty() {
            return Err(ConfigError::new(path(), "\"name\" field is required when using a listener matcher"));
        }
        if names.insert(chain.name.as_str(), i).is_some() {
            return Err(ConfigError::new(path(), format!("\"name\" field is duplicated with value '{}'", chain.name)));
        }
    }
    Ok(names)
}

/// `tls_inspector` sets `tls`; a connection that nobody looked into is `raw_buffer`.
fn transport_protocol(connection: &Connection) -> &str {
    match connection.transport_protocol {
        "" => "raw_buffer",
        protocol => protocol,
    }
}

/// Whether the peer is this host (`Utility::isSameIpOrLoopback`): the loopback address itself, not all of 127/8.
fn is_local(connection: &Connection) -> bool {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    match connection.remote.ip().map(|ip| ip.to_canonical()) {
        None => true,
        Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) | Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) => true,
        ip => ip == connection.local.ip().map(|ip| ip.to_canonical()),
    }
}
