//! What the levels above a route give to it: header rules, filters, and where cluster slots come from.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_filters::format::header_ops::{HeaderOps, HeaderOpsChain, Side};
use waypost_xds::envoy::config::core::v3 as core;

use super::FilterOverrides;
use crate::cluster::ClusterSlot;
use crate::config::{ConfigError, Context};

/// What is the same in the whole configuration.
pub(super) struct Global<'a> {
    pub cx: &'a Context<'a>,
    pub direct_body_limit: u32,
    pub most_specific_wins: bool,
    pub clusters: RefCell<BTreeSet<Arc<str>>>,
}

/// Request and response header rules of one level.
#[derive(Default)]
pub(super) struct Rules {
    request: Arc<HeaderOps>,
    response: Arc<HeaderOps>,
}

/// What a level gives to those below it.
#[derive(Default)]
pub(super) struct Level {
    pub rules: Rules,
    pub filters: FilterOverrides,
}

/// What a route gives to its action: the levels from the route up to the route configuration.
pub(super) struct Parent<'a> {
    pub global: &'a Global<'a>,
    pub levels: [&'a Level; 3],
    pub filters: &'a FilterOverrides,
}

impl Parent<'_> {
    pub fn slot(&self, name: &str, path: &str) -> Result<Arc<ClusterSlot>, ConfigError> {
        if name.is_empty() {
            return Err(ConfigError::new(path, "value length must be at least 1 characters"));
        }
        let slot = self.global.cx.clusters.slot(name);
        self.global.clusters.borrow_mut().insert(slot.name.clone());
        Ok(slot)
    }

    /// The header rules of all levels. A weighted cluster's come first in either order: Envoy runs them before it asks the route.
    pub fn chains(&self, cluster: Option<Rules>) -> (HeaderOpsChain, HeaderOpsChain) {
        let wins = self.global.most_specific_wins;
        let chain = |part: fn(&Rules) -> &Arc<HeaderOps>| {
            let levels = self.levels.iter().map(|l| part(&l.rules).clone());
            let own = cluster.as_ref().map(|c| part(c).clone());
            if wins {
                HeaderOpsChain::new(levels.chain(own), wins)
            } else {
                HeaderOpsChain::new(own.into_iter().chain(levels), wins)
            }
        };
        (chain(|r| &r.request), chain(|r| &r.response))
    }
}

/// What is added and what is removed.
pub(super) type HeaderFields = (Vec<core::HeaderValueOption>, Vec<String>);

impl Rules {
    pub fn compile(request: HeaderFields, response: HeaderFields, path: &str) -> Result<Rules, ConfigError> {
        Ok(Rules {
            request: Arc::new(HeaderOps::compile(request.0, request.1, Side::Request, path)?),
            response: Arc::new(HeaderOps::compile(response.0, response.1, Side::Response, path)?),
        })
    }
}
