//! Extensions that are known and not built yet: what is said about them, once for each type.

use waypost_xds::any;
use waypost_xds::envoy::config::core::v3::ExtensionConfigSource;
use waypost_xds::google::protobuf::Any;
use waypost_xds::validate;

use super::{ConfigError, warn_once};

/// Warns that something which only adds is passed over; `missing` says what is not there without it.
pub fn warn_missing(type_name: &str, missing: &str, path: &str) {
    warn_once(type_name, || format!("{path}: {type_name} is not built yet and passed over: {missing}"));
}

/// Warns that something which guards is closed; `how` says what becomes of traffic.
pub fn warn_closed(type_name: &str, how: &str, path: &str) {
    warn_once(type_name, || format!("{path}: {type_name} is not built yet and guards: {how}"));
}

/// A type that is in no list: it may be left out only where the configuration says so.
pub fn unknown(type_name: &str, is_optional: bool, path: &str) -> Result<(), ConfigError> {
    if is_optional {
        warn_once(type_name, || format!("{path}: {type_name} is not known and left out, as it is optional"));
        return Ok(());
    }
    Err(ConfigError::new(path, format!("not supported: {type_name}")))
}

/// The wire form of a configuration, checked against the API where the API has it.
pub fn checked(any: &Any, path: &str) -> Result<Vec<u8>, ConfigError> {
    if any::is_known(&any::type_name(any)) { Ok(any::content(any, path)?.1) } else { Ok(any.value.clone()) }
}

/// What is known of a type that may come by discovery.
pub enum Discovered {
    /// Passed over, with what is missing then.
    Adds(&'static str),
    /// Anything else.
    Acts,
}

/// Checks `config_discovery`; whether traffic is refused until the configuration has come, which is so unless nothing could come but what is
/// passed over.
pub fn discovery(
    source: &ExtensionConfigSource,
    is_optional: bool,
    path: &str,
    find: impl Fn(&str) -> Option<Discovered>,
) -> Result<bool, ConfigError> {
    validate::check_message(source).map_err(|e| ConfigError::from(e.within(path)))?;
    let ExtensionConfigSource {
        config_source: _, // nothing is asked for here
        default_config,
        apply_default_config_without_warming: _,
        type_urls,
    } = source;
    // Anything could come of a list that names nothing.
    let mut closed = type_urls.is_empty();
    for (i, url) in type_urls.iter().enumerate() {
        let type_name = last(url);
        match find(type_name) {
            Some(Discovered::Adds(missing)) => warn_missing(type_name, missing, path),
            Some(Discovered::Acts) => closed = true,
            None => unknown(type_name, is_optional, &format!("{path}.type_urls[{i}]"))?,
        }
    }
    if let Some(default) = default_config {
        let path = format!("{path}.default_config");
        checked(default, &path)?;
        let type_name = any::type_name(default);
        if find(&type_name).is_none() {
            unknown(&type_name, is_optional, &path)?;
        }
    }
    Ok(closed)
}

fn last(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}
