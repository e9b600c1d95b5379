//! Scoped routes: which route table a request has, by a key that is made of its headers.

use std::collections::HashMap;
use std::sync::Arc;

use memchr::memmem;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use waypost_filters::head::RequestHead;
use waypost_filters::matcher::HeaderPlace;
use waypost_xds::envoy::config::route::v3 as route;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::RouteTable;
use super::demand::Wanted;
use super::slot::{RouteSlot, ScopeSlot, TableRef};
use crate::config::{ConfigError, Context, refuse};
use crate::discovery::source::Fetch;

use hcm::scoped_routes::scope_key_builder::{FragmentBuilder, fragment_builder as fragment};

/// A key: each fragment after its length, so that no two lists of fragments are the same bytes.
pub type ScopeKey = SmallVec<[u8; 64]>;

/// `scoped_routes`
#[derive(Debug)]
pub struct ScopedRoutes {
    /// `scope_key_builder`
    pub keys: KeyBuilder,
    /// Where the scopes are.
    pub scopes: Scopes,
}

/// Where scopes come from.
#[derive(Debug)]
pub enum Scopes {
    /// `scoped_route_configurations_list`
    Here(ScopeTable),
    /// `scoped_rds`
    Slot(Arc<ScopeSlot>),
}

/// Scopes by their keys.
#[derive(Clone, Debug, Default)]
pub struct ScopeTable(HashMap<Box<[u8]>, Scope>);

/// A compiled `ScopedRouteConfiguration`.
#[derive(Clone, Debug)]
pub struct Scope {
    /// `name`
    pub name: Arc<str>,
    /// Its routes.
    pub routes: ScopeRoutes,
}

/// The routes of a scope.
#[derive(Clone, Debug)]
pub enum ScopeRoutes {
    /// `route_configuration`
    Here(Arc<RouteTable>),
    /// `route_configuration_name`
    Slot(Arc<RouteSlot>),
    /// `on_demand`: a name that nobody has asked for yet.
    OnDemand(Arc<str>),
}

/// `scope_key_builder`: how a key is made of a request.
#[derive(Debug)]
pub struct KeyBuilder(Box<[Extractor]>);

/// `header_value_extractor`
#[derive(Debug)]
struct Extractor {
    name: HeaderPlace,
    /// `element_separator`; empty where the value is one element.
    separator: Box<[u8]>,
    extract: Extract,
}

#[derive(Debug)]
enum Extract {
    /// `index`: the element at this place.
    Index(usize),
    /// `element`: the value of the first element with this key.
    Element { separator: Box<[u8]>, key: Box<[u8]> },
}

impl ScopedRoutes {
    /// Compiles `ScopedRoutes`; `prefix` is the connection manager's `stat_prefix`.
    pub fn compile(
        config: hcm::ScopedRoutes,
        cx: &Context<'_>,
        prefix: &str,
        path: &str,
    ) -> Result<ScopedRoutes, ConfigError> {
        use hcm::scoped_routes::ConfigSpecifier;
        let hcm::ScopedRoutes { name, scope_key_builder, rds_config_source, config_specifier } = config;
        if name.is_empty() {
            return Err(ConfigError::new(format!("{path}.name"), "value length must be at least 1 characters"));
        }
        let Some(keys) = scope_key_builder else {
            return Err(ConfigError::new(format!("{path}.scope_key_builder"), "value is required"));
        };
        let keys = KeyBuilder::compile(keys, &format!("{path}.scope_key_builder"))?;
        let scopes = match config_specifier {
            Some(ConfigSpecifier::ScopedRouteConfigurationsList(hcm::ScopedRouteConfigurationsList {
                scoped_route_configurations,
            })) => {
                let path = format!("{path}.scoped_route_configurations_list.scoped_route_configurations");
                let mut table = ScopeTable::default();
                for (i, scope) in scoped_route_configurations.into_iter().enumerate() {
                    let (key, scope) = Scope::inline(scope, cx, &format!("{path}[{i}]"))?;
                    // Envoy compares the keys of what comes over SRDS only: here the last one has the key.
                    table.insert(&key, scope);
                }
                Scopes::Here(table)
            }
            Some(ConfigSpecifier::ScopedRds(hcm::ScopedRds { scoped_rds_config_source, srds_resources_locator })) => {
                let at = format!("{path}.scoped_rds");
                refuse(&srds_resources_locator, &at, "srds_resources_locator")?;
                let Some(source) = scoped_rds_config_source else {
                    return Err(ConfigError::new(format!("{at}.scoped_rds_config_source"), "value is required"));
                };
                let fetch = Fetch::of(&source, &format!("{at}.scoped_rds_config_source"))?;
                let routes = Fetch::of(&rds_config_source.unwrap_or_default(), &format!("{path}.rds_config_source"))?;
                Scopes::Slot(cx.routes.scopes(fetch, routes, &name, prefix))
            }
            None => return Err(ConfigError::new(format!("{path}.config_specifier"), "value is required")),
        };
        Ok(ScopedRoutes { keys, scopes })
    }

    /// The table of a request.
    pub fn load(&self, request: &RequestHead) -> TableRef<'_> {
        let Some(key) = self.keys.key(request) else { return TableRef::Nothing };
        match &self.scopes {
            Scopes::Here(table) => match table.find(&key).map(|s| &s.routes) {
                Some(ScopeRoutes::Here(routes)) => TableRef::Here(routes),
                _ => TableRef::Nothing,
            },
            Scopes::Slot(slot) => {
                let table = slot.current.load();
                match table.as_deref().and_then(|t| t.find(&key)).map(|s| &s.routes) {
                    Some(ScopeRoutes::Slot(routes)) => TableRef::Loaded(routes.current.load()),
                    Some(ScopeRoutes::Here(routes)) => TableRef::Own(routes.clone()),
                    Some(ScopeRoutes::OnDemand(_)) | None => TableRef::Nothing,
                }
            }
        }
    }

    /// Asks for the routes of a request that has none.
    pub fn ask(&self, request: &RequestHead) -> Option<oneshot::Receiver<()>> {
        let Scopes::Slot(slot) = &self.scopes else { return None };
        let key = self.keys.key(request)?;
        let table = slot.current.load();
        match &table.as_deref()?.find(&key)?.routes {
            ScopeRoutes::Here(_) => None,
            ScopeRoutes::Slot(routes) if routes.current.load().is_some() => routes.ask(request),
            ScopeRoutes::Slot(_) | ScopeRoutes::OnDemand(_) => {
                slot.demand.ask(Wanted::Scope { slot: slot.clone(), key })
            }
        }
    }

    /// Tables within the configuration itself.
    pub fn inline(&self) -> impl Iterator<Item = &Arc<RouteTable>> {
        let scopes = match &self.scopes {
            Scopes::Here(table) => Some(table.iter()),
            Scopes::Slot(_) => None,
        };
        scopes.into_iter().flatten().filter_map(|s| match &s.routes {
            ScopeRoutes::Here(table) => Some(table),
            ScopeRoutes::Slot(_) | ScopeRoutes::OnDemand(_) => None,
        })
    }
}

impl ScopeTable {
    /// The scope of a key.
    pub fn find(&self, key: &[u8]) -> Option<&Scope> {
        self.0.get(key)
    }

    /// All scopes.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.values()
    }

    /// Adds a scope, or takes the place of the one with the key.
    pub fn insert(&mut self, key: &[u8], scope: Scope) {
        self.0.insert(key.into(), scope);
    }
}

impl Scope {
    /// One of a list within a connection manager, and its key.
    fn inline(
        config: route::ScopedRouteConfiguration,
        cx: &Context<'_>,
        path: &str,
    ) -> Result<(ScopeKey, Scope), ConfigError> {
        let key = key_of(&config, path)?;
        let route::ScopedRouteConfiguration {
            on_demand: _, // there is nothing to be loaded
            name,
            route_configuration_name,
            route_configuration,
            key: _,
        } = config;
        if !route_configuration_name.is_empty() {
            let reason =
                "Fetching routes via RDS (route_configuration_name) is not supported with inline scoped routes.";
            return Err(ConfigError::new(format!("{path}.route_configuration_name"), reason));
        }
        let at = format!("{path}.route_configuration");
        let Some(routes) = route_configuration else {
            let reason = "You must specify a route_configuration with inline scoped routes.";
            return Err(ConfigError::new(at, reason));
        };
        let routes = ScopeRoutes::Here(RouteTable::compile_whole(routes, cx, &at)?);
        Ok((key, Scope { name: name.into(), routes }))
    }
}

/// The key of a scope, whose name is looked at too.
pub fn key_of(config: &route::ScopedRouteConfiguration, path: &str) -> Result<ScopeKey, ConfigError> {
    use route::scoped_route_configuration::key::{Fragment, fragment::Type};
    if config.name.is_empty() {
        return Err(ConfigError::new(format!("{path}.name"), "value length must be at least 1 characters"));
    }
    let Some(key) = &config.key else { return Err(ConfigError::new(format!("{path}.key"), "value is required")) };
    let path = format!("{path}.key.fragments");
    if key.fragments.is_empty() {
        return Err(ConfigError::new(path, "value must contain at least 1 item(s)"));
    }
    let mut out = ScopeKey::new();
    for (i, Fragment { r#type }) in key.fragments.iter().enumerate() {
        match r#type {
            Some(Type::StringKey(text)) => push(&mut out, text.as_bytes()),
            None => return Err(ConfigError::new(format!("{path}[{i}].type"), "value is required")),
        }
    }
    Ok(out)
}

fn push(key: &mut ScopeKey, fragment: &[u8]) {
    // No header is longer than 8 MiB.
    key.extend_from_slice(&u32::try_from(fragment.len()).unwrap_or(u32::MAX).to_le_bytes());
    key.extend_from_slice(fragment);
}

impl KeyBuilder {
    /// Compiles a `ScopeKeyBuilder`.
    pub fn compile(config: hcm::scoped_routes::ScopeKeyBuilder, path: &str) -> Result<KeyBuilder, ConfigError> {
        let hcm::scoped_routes::ScopeKeyBuilder { fragments } = config;
        if fragments.is_empty() {
            return Err(ConfigError::new(format!("{path}.fragments"), "value must contain at least 1 item(s)"));
        }
        let one = |(i, FragmentBuilder { r#type }): (usize, FragmentBuilder)| {
            let path = format!("{path}.fragments[{i}]");
            match r#type {
                Some(fragment::Type::HeaderValueExtractor(extractor)) => {
                    Extractor::compile(extractor, &format!("{path}.header_value_extractor"))
                }
                None => Err(ConfigError::new(format!("{path}.type"), "value is required")),
            }
        };
        fragments.into_iter().enumerate().map(one).collect::<Result<_, _>>().map(KeyBuilder)
    }

    /// The key of a request; none where it lacks what one of the fragments is made of.
    pub fn key(&self, request: &RequestHead) -> Option<ScopeKey> {
        let mut out = ScopeKey::new();
        for extractor in &self.0 {
            push(&mut out, extractor.fragment(request)?);
        }
        Some(out)
    }
}

impl Extractor {
    fn compile(config: fragment::HeaderValueExtractor, path: &str) -> Result<Extractor, ConfigError> {
        use fragment::header_value_extractor::{ExtractType, KvElement};
        let fragment::HeaderValueExtractor { name, element_separator, extract_type } = config;
        let needed = |text: String, field: &str| match text.is_empty() {
            false => Ok(text.into_bytes().into_boxed_slice()),
            true => {
                let path = format!("{path}.element.{field}");
                Err(ConfigError::new(path, "value length must be at least 1 characters"))
            }
        };
        let extract = match extract_type {
            Some(ExtractType::Index(index)) => {
                if index != 0 && element_separator.is_empty() {
                    let path = format!("{path}.index");
                    return Err(ConfigError::new(path, "Index > 0 for empty string element separator."));
                }
                Extract::Index(index as usize)
            }
            Some(ExtractType::Element(KvElement { separator, key })) => {
                Extract::Element { separator: needed(separator, "separator")?, key: needed(key, "key")? }
            }
            None => return Err(ConfigError::new(path, "HeaderValueExtractor extract_type not set.")),
        };
        if name.is_empty() {
            return Err(ConfigError::new(format!("{path}.name"), "value length must be at least 1 characters"));
        }
        let name =
            HeaderPlace::of(&name).ok_or_else(|| ConfigError::new(format!("{path}.name"), "not a header name"))?;
        Ok(Extractor { name, separator: element_separator.into_bytes().into(), extract })
    }

    /// Only the first value of a header counts, as with Envoy.
    fn fragment<'a>(&'a self, request: &'a RequestHead) -> Option<&'a [u8]> {
        let value = self.name.value(request)?;
        let mut elements = Elements { rest: Some(value), separator: &self.separator };
        match &self.extract {
            Extract::Index(index) => elements.nth(*index),
            Extract::Element { separator, key } => elements.find_map(|element| {
                let (name, value) = match memmem::find(element, separator) {
                    Some(at) => (element.get(..at)?, element.get(at + separator.len()..)?),
                    None => (element, &[][..]),
                };
                (*name == **key).then_some(value)
            }),
        }
    }
}

/// The parts of a value between separators; all of it where there is no separator.
struct Elements<'a> {
    rest: Option<&'a [u8]>,
    separator: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        if self.separator.is_empty() {
            return Some(rest);
        }
        let Some(at) = memmem::find(rest, self.separator) else { return Some(rest) };
        self.rest = rest.get(at + self.separator.len()..);
        rest.get(..at)
    }
}
