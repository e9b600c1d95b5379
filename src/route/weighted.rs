//! Which cluster: one, or one of several by weight.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use waypost_filters::format::header_ops::HeaderOpsChain;
use waypost_filters::head::RequestHead;
use waypost_xds::envoy::config::route::v3 as proto;
use waypost_xds::envoy::config::route::v3::route_action::ClusterSpecifier;
use waypost_xds::envoy::config::route::v3::weighted_cluster::{ClusterWeight, RandomValueSpecifier, cluster_weight};

use super::FilterOverrides;
use super::fields::{header_name, header_value};
use super::levels::{Parent, Rules};
use crate::cluster::ClusterSlot;
use crate::config::{ConfigError, refuse, warn_ignored};

/// `cluster_specifier`
#[derive(Debug)]
pub enum ClusterChoice {
    /// `cluster`
    One(Arc<ClusterSlot>),
    /// `weighted_clusters`
    Weighted(Weighted),
}

/// `weighted_clusters`
#[derive(Debug)]
pub struct Weighted {
    /// `clusters`
    pub clusters: Box<[WeightedCluster]>,
    /// The sum of all weights; not 0.
    total: u64,
    /// `header_name`: where the random number is taken from, if the request has it.
    random_header: Option<HeaderName>,
}

/// `weighted_clusters.clusters[…]`
#[derive(Debug)]
pub struct WeightedCluster {
    /// The cluster.
    pub slot: Arc<ClusterSlot>,
    /// `weight`, added to those of all clusters before it.
    end: u64,
    /// Request header rules, the route's included.
    pub request_headers: HeaderOpsChain,
    /// Response header rules, the route's included.
    pub response_headers: HeaderOpsChain,
    /// `host_rewrite_literal`
    pub host_rewrite: Option<HeaderValue>,
    /// `typed_per_filter_config`, the route's included.
    pub filters: FilterOverrides,
}

/// The cluster of one request and what goes with it.
#[derive(Clone, Copy, Debug)]
pub struct ClusterPick<'a> {
    /// The cluster.
    pub slot: &'a Arc<ClusterSlot>,
    /// Request header rules.
    pub request_headers: &'a HeaderOpsChain,
    /// Response header rules.
    pub response_headers: &'a HeaderOpsChain,
    /// `host_rewrite_literal` of a weighted cluster.
    pub host_rewrite: Option<&'a HeaderValue>,
    /// What is said about filters.
    pub filters: &'a FilterOverrides,
}

impl Weighted {
    /// All clusters with their weights, and the sum of these.
    pub fn weights(&self) -> (Vec<(&Arc<ClusterSlot>, u64)>, u64) {
        let mut before = 0;
        let weight = |c: &WeightedCluster| c.end - std::mem::replace(&mut before, c.end);
        let weights: Vec<u64> = self.clusters.iter().map(weight).collect();
        (self.clusters.iter().map(|c| &c.slot).zip(weights).collect(), self.total)
    }

    /// The cluster of a request. A header that is missing, repeated or no number leaves the choice to `random`.
    pub(super) fn pick(&self, request: &RequestHead, random: u64) -> Option<ClusterPick<'_>> {
        let from_header = self.random_header.as_ref().and_then(|name| {
            let mut values = request.headers.get_all(name).iter();
            let only = values.next().filter(|_| values.next().is_none())?;
            only.to_str().ok()?.trim().parse::<u64>().ok()
        });
        let at = from_header.unwrap_or(random).checked_rem(self.total)?;
        let cluster = self.clusters.get(self.clusters.partition_point(|c| c.end <= at))?;
        Some(ClusterPick {
            slot: &cluster.slot,
            request_headers: &cluster.request_headers,
            response_headers: &cluster.response_headers,
            host_rewrite: cluster.host_rewrite.as_ref(),
            filters: &cluster.filters,
        })
    }
}

impl Parent<'_> {
    pub(super) fn cluster_choice(
        &self,
        specifier: Option<ClusterSpecifier>,
        path: &str,
    ) -> Result<ClusterChoice, ConfigError> {
        match specifier {
            Some(ClusterSpecifier::Cluster(name)) => {
                Ok(ClusterChoice::One(self.slot(&name, &format!("{path}.cluster"))?))
            }
            Some(ClusterSpecifier::WeightedClusters(w)) => {
                Ok(ClusterChoice::Weighted(self.weighted(w, &format!("{path}.weighted_clusters"))?))
            }
            Some(ClusterSpecifier::ClusterHeader(_)) => Err(ConfigError::unsupported(format!("{path}.cluster_header"))),
            Some(ClusterSpecifier::ClusterSpecifierPlugin(_)) => {
                Err(ConfigError::unsupported(format!("{path}.cluster_specifier_plugin")))
            }
            Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
                Err(ConfigError::unsupported(format!("{path}.inline_cluster_specifier_plugin")))
            }
            None => Err(ConfigError::new(format!("{path}.cluster_specifier"), "value is required")),
        }
    }

    fn weighted(&self, config: proto::WeightedCluster, path: &str) -> Result<Weighted, ConfigError> {
        let proto::WeightedCluster { clusters, total_weight: _, runtime_key_prefix, random_value_specifier } = config;
        // `total_weight` is deprecated: the sum of the weights is what counts, in Envoy too.
        // Only a runtime key could change the weights, and none is set for one.
        warn_ignored(!runtime_key_prefix.is_empty(), path, "runtime_key_prefix");
        if clusters.is_empty() {
            return Err(ConfigError::new(format!("{path}.clusters"), "value must contain at least 1 item(s)"));
        }
        let mut total = 0;
        let mut compiled = Vec::with_capacity(clusters.len());
        for (i, cluster) in clusters.into_iter().enumerate() {
            compiled.push(self.weighted_cluster(cluster, &mut total, &format!("{path}.clusters[{i}]"))?);
        }
        if total == 0 {
            return Err(ConfigError::new(path, "Sum of weights in the weighted_cluster must be greater than 0."));
        }
        if total > u64::from(u32::MAX) {
            let reason = format!("The sum of weights of all weighted clusters of route exceeds {}", u32::MAX);
            return Err(ConfigError::new(path, reason));
        }
        let random_header = match random_value_specifier {
            None => None,
            Some(RandomValueSpecifier::HeaderName(name)) if name.is_empty() => None,
            Some(RandomValueSpecifier::HeaderName(name)) => Some(header_name(&name, path, "header_name")?),
            Some(RandomValueSpecifier::UseHashPolicy(b)) => {
                refuse(&b.value, path, "use_hash_policy")?;
                None
            }
        };
        Ok(Weighted { clusters: compiled.into(), total, random_header })
    }

    fn weighted_cluster(
        &self,
        config: ClusterWeight,
        total: &mut u64,
        path: &str,
    ) -> Result<WeightedCluster, ConfigError> {
        let ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = config;
        refuse(&cluster_header, path, "cluster_header")?;
        refuse(&metadata_match, path, "metadata_match")?;
        let Some(weight) = weight else {
            return Err(ConfigError::new(format!("{path}.weight"), "value is required"));
        };
        *total += u64::from(weight.value);
        let request = (request_headers_to_add, request_headers_to_remove);
        let response = (response_headers_to_add, response_headers_to_remove);
        let own = Rules::compile(request, response, path)?;
        let (request_headers, response_headers) = self.chains(Some(own));
        Ok(WeightedCluster {
            slot: self.slot(&name, &format!("{path}.name"))?,
            end: *total,
            request_headers,
            response_headers,
            host_rewrite: match host_rewrite_specifier {
                None => None,
                Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(h)) if h.is_empty() => None,
                Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(h)) => {
                    Some(header_value(&h, path, "host_rewrite_literal")?)
                }
            },
            filters: FilterOverrides::compile(typed_per_filter_config, path)?.over(self.filters),
        })
    }
}
