//! Extensions that are known and not built yet: what is said about them, once for each type.

use std::sync::Arc;

use waypost_xds::any;
use waypost_xds::envoy::config::core::v3::ExtensionConfigSource;
use waypost_xds::google::protobuf::Any;
use waypost_xds::validate;

use super::extension_slot::{ExtensionSlot, Family};
use super::{ConfigError, Context, warn_once};
use crate::discovery::source::Fetch;

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

/// `config_discovery`, checked.
#[derive(Debug)]
pub struct Discovery {
    /// Where the configuration will be.
    pub slot: Arc<ExtensionSlot>,
    /// `default_config`: until the configuration has come, or where it never does.
    pub default: Option<Any>,
    /// `apply_default_config_without_warming`: nothing waits for it.
    pub without_warming: bool,
    /// The full names of `type_urls`.
    type_names: Vec<String>,
}

/// Who asks for an extension.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The filter's name.
    pub name: &'a str,
    /// What it is one of.
    pub family: Family,
    /// `is_optional`: types that are not known are no error.
    pub is_optional: bool,
}

impl Discovery {
    /// Compiles `config_discovery`, which makes the extension wanted; none where nothing could come of it that is known.
    pub fn compile(
        source: ExtensionConfigSource,
        asker: Asker<'_>,
        cx: &Context<'_>,
        path: &str,
        known: impl Fn(&str) -> bool,
    ) -> Result<Option<Discovery>, ConfigError> {
        validate::check_message(&source).map_err(|e| ConfigError::from(e.within(path)))?;
        let ExtensionConfigSource {
            config_source,
            default_config: default,
            apply_default_config_without_warming: without_warming,
            type_urls,
        } = source;
        let Asker { name, family, is_optional } = asker;
        if without_warming && default.is_none() {
            let reason = format!("filter config {name} applied without warming but has no default config");
            return Err(ConfigError::new(path, reason));
        }
        let mut some = false;
        for (i, url) in type_urls.iter().enumerate() {
            if known(last(url)) {
                some = true;
            } else {
                unknown(last(url), is_optional, &format!("{path}.type_urls[{i}]"))?;
            }
        }
        if !some {
            return Ok(None);
        }
        let fetch = Fetch::of(&config_source.unwrap_or_default(), &format!("{path}.config_source"))?;
        let type_names = type_urls.iter().map(|url| last(url).to_owned()).collect();
        let discovery =
            Discovery { slot: cx.extensions.slot(fetch, name, family, cx.stats), default, without_warming, type_names };
        if let Some(default) = &discovery.default {
            discovery.check_type(default, &format!("{path}.default_config"))?;
        }
        Ok(Some(discovery))
    }

    /// What is there to begin with: what has come, the default, or nothing. What has come for another filter may not do here, since it may be ahead
    /// of what this filter becomes next: the default takes its place, as with Envoy.
    pub fn first<T>(
        &self,
        path: &str,
        build: impl Fn(&Any, &str) -> Result<T, ConfigError>,
    ) -> Result<(Option<T>, Option<T>), ConfigError> {
        let default = self.default.as_ref().map(|d| build(d, &format!("{path}.default_config"))).transpose()?;
        let current = self.slot.current().and_then(|config| {
            let built = self.check_type(&config, path).and_then(|()| build(&config, path));
            if let Err(e) = &built {
                tracing::debug!(target: "config", "extension {}: {e}", self.slot.name);
                self.slot.stats.config_conflict.inc();
            }
            built.ok()
        });
        Ok((current, default))
    }

    /// Whether the type of a configuration may come here.
    pub fn check_type(&self, config: &Any, path: &str) -> Result<(), ConfigError> {
        let type_name = any::type_name(config);
        if self.type_names.contains(&type_name) {
            return Ok(());
        }
        let expected = self.type_names.join(", ");
        // Envoy's words.
        let reason = format!("Error: filter config has type URL {type_name} but expect {expected}.");
        Err(ConfigError::new(path, reason))
    }
}

fn last(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}
