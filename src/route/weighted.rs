//! Which cluster: one, or one of several by weight.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use waypost_filters::format::header_ops::HeaderOpsChain;
use waypost_filters::head::RequestHead;

use super::FilterOverrides;
use crate::cluster::ClusterSlot;

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
    pub(super) total: u64,
    /// `header_name`: where the random number is taken from, if the request has it.
    pub(super) random_header: Option<HeaderName>,
}

/// `weighted_clusters.clusters[…]`
#[derive(Debug)]
pub struct WeightedCluster {
    /// The cluster.
    pub slot: Arc<ClusterSlot>,
    /// `weight`, added to those of all clusters before it.
    pub(super) end: u64,
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
