//! `ListenerFilter.filter_disabled`: on which connections a listener filter is left out.

use waypost_xds::envoy::config::listener::v3::ListenerFilterChainMatchPredicate;
use waypost_xds::envoy::config::listener::v3::listener_filter_chain_match_predicate::{MatchSet, Rule};
use waypost_xds::envoy::r#type::v3::Int32Range;

use crate::config::ConfigError;

/// A compiled `ListenerFilterChainMatchPredicate`.
#[derive(Clone, Debug, Default)]
pub struct FilterDisabled(Option<Predicate>);

#[derive(Clone, Debug)]
enum Predicate {
    Or(Box<[Predicate]>),
    And(Box<[Predicate]>),
    Not(Box<Predicate>),
    Any,
    /// From, and up to but not including.
    Ports(i32, i32),
}

impl FilterDisabled {
    /// Compiles `filter_disabled`; without one the filter always runs.
    pub fn compile(
        predicate: Option<&ListenerFilterChainMatchPredicate>,
        path: &str,
    ) -> Result<FilterDisabled, ConfigError> {
        predicate.map(|p| Predicate::compile(p, path)).transpose().map(FilterDisabled)
    }

    /// Whether the filter is left out on a connection to this local port; none for addresses without ports.
    pub fn disabled(&self, local_port: Option<u16>) -> bool {
        self.0.as_ref().is_some_and(|p| p.matches(local_port))
    }
}

impl Predicate {
    fn compile(predicate: &ListenerFilterChainMatchPredicate, path: &str) -> Result<Predicate, ConfigError> {
        let ListenerFilterChainMatchPredicate { rule } = predicate;
        Ok(match rule {
            Some(Rule::OrMatch(MatchSet { rules })) => Predicate::Or(set(rules, &format!("{path}.or_match"))?),
            Some(Rule::AndMatch(MatchSet { rules })) => Predicate::And(set(rules, &format!("{path}.and_match"))?),
            Some(Rule::NotMatch(p)) => Predicate::Not(Box::new(Predicate::compile(p, &format!("{path}.not_match"))?)),
            Some(Rule::AnyMatch(true)) => Predicate::Any,
            Some(Rule::AnyMatch(false)) => {
                return Err(ConfigError::new(format!("{path}.any_match"), "value must equal true"));
            }
            Some(Rule::DestinationPortRange(Int32Range { start, end })) => Predicate::Ports(*start, *end),
            None => return Err(ConfigError::new(format!("{path}.rule"), "value is required")),
        })
    }

    fn matches(&self, port: Option<u16>) -> bool {
        match self {
            Predicate::Or(any) => any.iter().any(|p| p.matches(port)),
            Predicate::And(all) => all.iter().all(|p| p.matches(port)),
            Predicate::Not(p) => !p.matches(port),
            Predicate::Any => true,
            // Envoy lets an address without a port match.
            Predicate::Ports(start, end) => port.is_none_or(|p| *start <= i32::from(p) && i32::from(p) < *end),
        }
    }
}

fn set(rules: &[ListenerFilterChainMatchPredicate], path: &str) -> Result<Box<[Predicate]>, ConfigError> {
    if rules.len() < 2 {
        return Err(ConfigError::new(format!("{path}.rules"), "value must contain at least 2 item(s)"));
    }
    rules.iter().enumerate().map(|(i, r)| Predicate::compile(r, &format!("{path}.rules[{i}]"))).collect()
}
