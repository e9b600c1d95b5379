//! `dynamic_resources` and what else of the bootstrap asks for configuration.

use waypost_xds::any;
use waypost_xds::envoy::config::bootstrap::v3::bootstrap::DynamicResources;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::config::core::v3::api_config_source::ApiType;
use waypost_xds::google::protobuf::Any;
use waypost_xds::istio::workload::BootstrapExtension;

use super::source::{Api, Fetch, Source};
use crate::config::{ConfigError, refuse};

/// Where configuration comes from while the process runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dynamic {
    /// `ads_config`
    pub ads: Option<Api>,
    /// `cds_config`
    pub clusters: Option<Fetch>,
    /// `lds_config`
    pub listeners: Option<Fetch>,
    /// `istio.workload.BootstrapExtension`
    pub workloads: Option<Fetch>,
    /// Layers of the runtime that come over RTDS.
    pub runtime: Vec<RuntimeSource>,
}

/// `rtds_layer`
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeSource {
    /// The layer's own name.
    pub layer: String,
    /// What it is asked for by.
    pub name: String,
    /// Where.
    pub fetch: Fetch,
}

impl Dynamic {
    /// Reads `dynamic_resources`.
    pub fn compile(resources: Option<DynamicResources>, path: &str) -> Result<Dynamic, ConfigError> {
        let DynamicResources { lds_config, lds_resources_locator, cds_config, cds_resources_locator, ads_config } =
            resources.unwrap_or_default();
        refuse(&lds_resources_locator, path, "lds_resources_locator")?;
        refuse(&cds_resources_locator, path, "cds_resources_locator")?;
        let fetch = |source: Option<core::ConfigSource>, field: &str| {
            source.map(|s| Fetch::of(&s, &format!("{path}.{field}"))).transpose()
        };
        let ads = ads_config.map(|api| ads(&api, &format!("{path}.ads_config"))).transpose()?;
        let out = Dynamic {
            ads,
            clusters: fetch(cds_config, "cds_config")?,
            listeners: fetch(lds_config, "lds_config")?,
            ..Dynamic::default()
        };
        let wants_ads = [&out.clusters, &out.listeners].into_iter().flatten().any(|f| f.source == Source::Ads);
        if wants_ads && out.ads.is_none() {
            return Err(ConfigError::new(format!("{path}.ads_config"), "expected, since ads is named"));
        }
        Ok(out)
    }

    /// Reads `istio.workload.BootstrapExtension`.
    pub fn workload_discovery(&mut self, config: &Any, path: &str) -> Result<(), ConfigError> {
        let BootstrapExtension { config_source } = any::unpack(config, path)?;
        let Some(source) = config_source else {
            return Err(ConfigError::new(format!("{path}.config_source"), "config source must be set"));
        };
        self.workloads = Some(Fetch::of(&source, &format!("{path}.config_source"))?);
        Ok(())
    }

    /// Whether anything is to be fetched at all.
    pub fn is_any(&self) -> bool {
        *self != Dynamic::default()
    }
}

fn ads(api: &core::ApiConfigSource, path: &str) -> Result<Api, ConfigError> {
    if ApiType::try_from(api.api_type) == Ok(ApiType::Rest) {
        return Err(ConfigError::new(format!("{path}.api_type"), "expected GRPC or DELTA_GRPC"));
    }
    Api::compile(api, path)
}
