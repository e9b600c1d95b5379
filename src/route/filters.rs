//! `typed_per_filter_config`: what routes say about filters.

use std::collections::HashMap;
use std::sync::Arc;

use waypost_xds::any;
use waypost_xds::envoy::config::route::v3::FilterConfig;
use waypost_xds::google::protobuf::Any;

use super::chains::RouteChains;
use crate::config::extension::{self, unknown};
use crate::config::{ConfigError, warn_once};
use crate::http::filters::Chain;
use crate::http::registry::{self, OnRoute};

/// What a route, with its virtual host and route configuration, says about filters; by the filter's name. Most say nothing.
#[derive(Clone, Debug, Default)]
pub struct FilterOverrides(Option<Arc<Said>>);

/// All that is said, and the chains that come of it.
#[derive(Debug)]
struct Said {
    all: Vec<FilterOverride>,
    chains: RouteChains,
}

/// What is said about one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterOverride {
    /// The filter's name in the chain.
    pub filter: Arc<str>,
    /// What is said.
    pub effect: FilterEffect,
}

/// What becomes of a filter on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterEffect {
    /// It is switched off. A type means that it was said in the words of filters of that type, and is for no other.
    Off(Option<&'static str>),
    /// It runs, even where it is `disabled` in the chain.
    On,
    /// It is told to guard, which it cannot yet: requests are refused.
    Guards,
}

impl FilterOverrides {
    /// Compiles one level's map.
    pub fn compile(config: HashMap<String, Any>, path: &str) -> Result<FilterOverrides, ConfigError> {
        let mut all = Vec::with_capacity(config.len());
        for (filter, config) in config {
            let path = format!("{path}.typed_per_filter_config[{filter}]");
            let effect = if any::type_name(&config) == "envoy.config.route.v3.FilterConfig" {
                let FilterConfig { config, is_optional, disabled } = any::unpack(&config, &path)?;
                match config {
                    // Envoy ignores the configuration of a filter that is switched off.
                    _ if disabled => Some(FilterEffect::Off(None)),
                    None => return Err(ConfigError::new(path, "a FilterConfig needs `config` or `disabled`")),
                    Some(inner) => effect(&inner, is_optional, &format!("{path}.config"))?,
                }
            } else {
                effect(&config, false, &path)?
            };
            all.extend(effect.map(|effect| FilterOverride { filter: filter.into(), effect }));
        }
        all.sort_by(|a, b| a.filter.cmp(&b.filter));
        Ok(FilterOverrides::of(all))
    }

    fn of(all: Vec<FilterOverride>) -> FilterOverrides {
        FilterOverrides((!all.is_empty()).then(|| Arc::new(Said { all, chains: RouteChains::default() })))
    }

    /// These, and those of a less specific level for filters that these say nothing about.
    pub(super) fn over(&self, general: &FilterOverrides) -> FilterOverrides {
        if general.is_empty() {
            return self.clone();
        }
        let more = general.iter().filter(|g| self.get(&g.filter).is_none());
        FilterOverrides::of(self.iter().chain(more).cloned().collect())
    }

    /// These, with each filter closed that any of the weighted clusters has something to say about but that it is off: which of the clusters
    /// a request goes to is known only after filters have run.
    pub(super) fn with_clusters<'a>(&self, clusters: impl Iterator<Item = &'a FilterOverrides>) -> FilterOverrides {
        let mut all: Vec<FilterOverride> = self.iter().cloned().collect();
        for said in clusters.flat_map(FilterOverrides::iter).filter(|o| self.get(&o.filter) != Some(o.effect)) {
            warn_once("weighted_clusters.typed_per_filter_config", || {
                format!(
                    "what weighted clusters say about the filter {} is not told apart yet: a filter that is on for one is on for all",
                    said.filter
                )
            });
            let strictest = |a, b| if a == FilterEffect::Guards { a } else { b };
            match (all.iter_mut().find(|o| o.filter == said.filter), said.effect) {
                (_, FilterEffect::Off(_)) => {}
                (Some(own), effect) => own.effect = strictest(own.effect, effect),
                (None, _) => all.push(said.clone()),
            }
        }
        FilterOverrides::of(all)
    }

    /// The chain of a connection manager as it is to be here; none where it stays as it is.
    pub fn chain(&self, chain: &Arc<Chain>) -> Option<Arc<Chain>> {
        self.0.as_ref()?.chains.get(chain, || chain.on_route(self))
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What is said about a filter.
    pub fn get(&self, filter: &str) -> Option<FilterEffect> {
        self.iter().find(|o| &*o.filter == filter).map(|o| o.effect)
    }

    /// All that is said.
    pub fn iter(&self) -> impl Iterator<Item = &FilterOverride> {
        self.0.iter().flat_map(|said| said.all.iter())
    }
}

/// What a configuration comes to; nothing for one that is left out.
fn effect(config: &Any, is_optional: bool, path: &str) -> Result<Option<FilterEffect>, ConfigError> {
    if config.type_url.is_empty() && config.value.is_empty() {
        return Ok(Some(FilterEffect::On));
    }
    let type_name = any::type_name(config);
    let Some(known) = registry::find_per_route(&type_name) else {
        return unknown(&type_name, is_optional, path).map(|()| None);
    };
    let wire = extension::checked(config, path)?;
    Ok(Some(match known.on_route {
        OnRoute::Guards(off) | OnRoute::Adjusts(off, _) if off(&wire) => FilterEffect::Off(Some(known.type_name)),
        OnRoute::Adds(missing) | OnRoute::Adjusts(_, missing) => {
            if !wire.is_empty() {
                extension::warn_missing(&type_name, missing, path);
            }
            FilterEffect::On
        }
        OnRoute::Guards(_) => {
            extension::warn_closed(&type_name, "requests on routes with it are answered 500", path);
            FilterEffect::Guards
        }
    }))
}
