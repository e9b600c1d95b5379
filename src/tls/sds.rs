//! `SdsSecretConfig.sds_config`: where a secret is discovered.

use std::fmt::Write;
use std::path::PathBuf;

use prost::Message;
use waypost_xds::envoy::config::core::v3::api_config_source::ApiType;
use waypost_xds::envoy::config::core::v3::grpc_service::TargetSpecifier;
use waypost_xds::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, PathConfigSource,
    config_source::ConfigSourceSpecifier,
};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::Secret;
use waypost_xds::envoy::service::discovery::v3::DiscoveryResponse;
use waypost_xds::{any, json, yaml};

use super::slot::Origin;
use super::source::watched;
use crate::config::{ConfigError, convert, refuse};

/// What tells a source from others. Its timeout does not: the same secret is asked for once.
pub(super) fn origin(source: &ConfigSource, path: &str) -> Result<Origin, ConfigError> {
    let ConfigSource { authorities, initial_fetch_timeout, resource_api_version, config_source_specifier } = source;
    refuse(authorities, path, "authorities")?;
    version(*resource_api_version, &format!("{path}.resource_api_version"))?;
    convert::timeout(*initial_fetch_timeout, &format!("{path}.initial_fetch_timeout"))?;
    match config_source_specifier {
        Some(ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
            path,
            watched_directory,
            poll_interval: _,
        })) => {
            watched(watched_directory.as_ref());
            Ok(Origin::Path(PathBuf::from(path)))
        }
        #[allow(deprecated, reason = "refused by its name")]
        Some(ConfigSourceSpecifier::Path(_)) => Err(ConfigError::unsupported(format!("{path}.path"))),
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => service(api, &format!("{path}.api_config_source")),
        Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})) => Ok(Origin::Service("ads".to_owned())),
        Some(ConfigSourceSpecifier::Self_(_)) => Err(ConfigError::unsupported(format!("{path}.self"))),
        None => Err(ConfigError::new(path, "config source must be set")),
    }
}

/// A gRPC service of a cluster.
fn service(api: &ApiConfigSource, path: &str) -> Result<Origin, ConfigError> {
    let ApiConfigSource {
        api_type,
        transport_api_version,
        cluster_names,
        grpc_services,
        // How to ask is the subscriber's affair.
        refresh_delay: _,
        request_timeout: _,
        rate_limit_settings: _,
        set_node_on_first_message_only: _,
        config_validators: _,
    } = api;
    version(*transport_api_version, &format!("{path}.transport_api_version"))?;
    refuse(cluster_names, path, "cluster_names")?;
    if !matches!(ApiType::try_from(*api_type), Ok(ApiType::Grpc | ApiType::DeltaGrpc)) {
        return Err(ConfigError::new(format!("{path}.api_type"), "expected GRPC or DELTA_GRPC"));
    }
    match grpc_services.as_slice() {
        [service] => match &service.target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(grpc)) if !grpc.cluster_name.is_empty() => {}
            Some(TargetSpecifier::EnvoyGrpc(_)) => {
                let path = format!("{path}.grpc_services[0].envoy_grpc.cluster_name");
                return Err(ConfigError::new(path, "must not be empty"));
            }
            _ => {
                return Err(ConfigError::new(format!("{path}.grpc_services[0]"), "expected envoy_grpc"));
            }
        },
        _ => return Err(ConfigError::new(format!("{path}.grpc_services"), "expected one service")),
    }
    let key = api.encode_to_vec().iter().fold(String::new(), |mut key, byte| {
        let _ = write!(key, "{byte:02x}");
        key
    });
    Ok(Origin::Service(key))
}

fn version(version: i32, path: &str) -> Result<(), ConfigError> {
    match ApiVersion::try_from(version) {
        Ok(ApiVersion::Auto | ApiVersion::V3) => Ok(()),
        _ => Err(ConfigError::new(path, "expected V3")),
    }
}

/// The secrets of an SDS file: a discovery response in JSON or YAML.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Secret>, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let document = if text.trim_start().starts_with('{') { json::parse(text) } else { yaml::parse(text) };
    let response: DiscoveryResponse =
        document.and_then(|d| json::from_value(&d, &json::Options::ignore_unknown())).map_err(|e| e.to_string())?;
    let secret = |(i, resource)| any::unpack::<Secret>(resource, &format!("resources[{i}]")).map_err(|e| e.to_string());
    response.resources.iter().enumerate().map(secret).collect()
}
