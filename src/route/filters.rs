//! `typed_per_filter_config`: what routes say about filters.

use std::collections::HashMap;
use std::sync::Arc;

use waypost_xds::any;
use waypost_xds::envoy::config::route::v3::FilterConfig;
use waypost_xds::google::protobuf::Any;

use crate::config::ConfigError;

/// What a route, with its virtual host and route configuration, says about filters; by the filter's name.
#[derive(Clone, Debug, Default)]
pub struct FilterOverrides(Arc<[FilterOverride]>);

/// What is said about one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterOverride {
    /// The filter's name in the chain.
    pub filter: Arc<str>,
    /// Whether it is switched off; false switches on a filter that is `disabled` in the chain.
    pub disabled: bool,
}

/// Route-specific configurations that, when empty, ask for nothing: their filters do only what a route tells them.
const EMPTY_IS_NOTHING: [&str; 2] =
    ["envoy.extensions.filters.http.cors.v3.CorsPolicy", "envoy.extensions.filters.http.fault.v3.HTTPFault"];

impl FilterOverrides {
    /// Compiles one level's map.
    pub(super) fn compile(config: HashMap<String, Any>, path: &str) -> Result<FilterOverrides, ConfigError> {
        let mut all = Vec::with_capacity(config.len());
        for (filter, config) in config {
            let path = format!("{path}.typed_per_filter_config[{filter}]");
            let disabled = if any::type_name(&config) == "envoy.config.route.v3.FilterConfig" {
                // `is_optional` is about filters that are not known; none is passed over here.
                let FilterConfig { config, is_optional: _, disabled } = any::unpack(&config, &path)?;
                match config {
                    // Envoy ignores the configuration of a filter that is switched off.
                    _ if disabled => true,
                    None => return Err(ConfigError::new(path, "a FilterConfig needs `config` or `disabled`")),
                    Some(inner) => check(&inner, &format!("{path}.config")).map(|()| false)?,
                }
            } else {
                check(&config, &path).map(|()| false)?
            };
            all.push(FilterOverride { filter: filter.into(), disabled });
        }
        all.sort_by(|a, b| a.filter.cmp(&b.filter));
        Ok(FilterOverrides(all.into()))
    }

    /// These, and those of a less specific level for filters that these say nothing about.
    pub(super) fn over(&self, general: &FilterOverrides) -> FilterOverrides {
        if general.0.is_empty() {
            return self.clone();
        }
        let more = general.0.iter().filter(|g| self.disabled(&g.filter).is_none());
        FilterOverrides(self.0.iter().chain(more).cloned().collect())
    }

    /// Whether a filter is switched off (or on); none where nothing is said of it.
    pub fn disabled(&self, filter: &str) -> Option<bool> {
        self.0.iter().find(|o| &*o.filter == filter).map(|o| o.disabled)
    }

    /// All that is said.
    pub fn iter(&self) -> impl Iterator<Item = &FilterOverride> {
        self.0.iter()
    }
}

fn check(config: &Any, path: &str) -> Result<(), ConfigError> {
    let Any { type_url, value } = config;
    let nothing = type_url.is_empty() || EMPTY_IS_NOTHING.contains(&any::type_name(config).as_str());
    if nothing && value.is_empty() { Ok(()) } else { Err(ConfigError::unsupported(path)) }
}
