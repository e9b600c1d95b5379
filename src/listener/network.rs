//! Every type of network filter that is known, and what becomes of it: the one place where one is entered.
//!
//! As among HTTP filters, one that guards and is not built closes its connections, one that only adds is passed over with one warning, and a
//! type in no list is refused.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use waypost_filters::filter::NetworkFilter;
use waypost_filters::network::metadata_exchange::MetadataExchange;
use waypost_filters::network::set_filter_state::SetFilterState;
use waypost_filters::network::unsupported::Unsupported;
use waypost_xds::any;
use waypost_xds::envoy::config::listener::v3::{self, filter::ConfigType};
use waypost_xds::envoy::config::rbac::v3::rbac::Action;
use waypost_xds::envoy::extensions::filters::network as f;
use waypost_xds::google::protobuf::Any;

use super::Terminal;
use super::discovered::DiscoveredFilter;
use crate::config::convert::data_source;
use crate::config::extension::{self, Asker, Discovery};
use crate::config::extension_slot::Family;
use crate::config::{ConfigError, Context, peers};
use crate::http::config::HttpConnectionManager;
use crate::tcp_proxy::TcpProxy;

/// One type of filter.
pub struct Known {
    /// The full name of its configuration.
    pub type_name: &'static str,
    /// What becomes of it.
    pub role: Role,
}

/// A built filter.
pub type Built = Box<dyn NetworkFilter>;

/// What becomes of a filter.
#[derive(Clone, Copy)]
pub enum Role {
    /// It is built, and stands before the last.
    Build(fn(&Any, &str) -> Result<Built, ConfigError>),
    /// It is built, and takes the bytes.
    Terminal(fn(&Any, &Context<'_>, &str) -> Result<Terminal, ConfigError>),
    /// It is built, and changes the byte stream itself (`istio.metadata_exchange`).
    Exchange,
    /// It guards and is not built yet: closed, unless the function finds in the checked wire form that this configuration refuses nothing.
    Guards(fn(&[u8]) -> bool),
    /// It would take the bytes and is not built yet: closed.
    Closed,
    /// It only adds and is not built yet: passed over with a warning that says what is missing.
    Adds(&'static str),
}

const fn guards(type_name: &'static str) -> Known {
    Known { type_name, role: Role::Guards(never) }
}

const fn closed(type_name: &'static str) -> Known {
    Known { type_name, role: Role::Closed }
}

const fn adds(type_name: &'static str, missing: &'static str) -> Known {
    Known { type_name, role: Role::Adds(missing) }
}

/// All of them.
pub static FILTERS: &[Known] = &[
    Known {
        type_name: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        role: Role::Terminal(|any, cx, path| Ok(Terminal::Http(HttpConnectionManager::read(any, cx, path)?))),
    },
    Known {
        type_name: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        role: Role::Terminal(|any, cx, path| Ok(Terminal::Tcp(TcpProxy::compile(any::unpack(any, path)?, cx, path)?))),
    },
    Known {
        type_name: "envoy.extensions.filters.network.echo.v3.Echo",
        role: Role::Terminal(|any, _, path| {
            let f::echo::v3::Echo {} = any::unpack(any, path)?;
            Ok(Terminal::Echo)
        }),
    },
    Known {
        type_name: "envoy.extensions.filters.network.direct_response.v3.Config",
        role: Role::Terminal(|any, _, path| {
            let f::direct_response::v3::Config { response } = any::unpack(any, path)?;
            let body = response.map(|r| data_source(r, &format!("{path}.response"))).transpose()?;
            Ok(Terminal::DirectResponse(Bytes::from(body.unwrap_or_default())))
        }),
    },
    Known {
        type_name: "envoy.extensions.filters.network.set_filter_state.v3.Config",
        role: Role::Build(|any, path| Ok(Box::new(SetFilterState::compile(any::unpack(any, path)?, path)?))),
    },
    // What Istio sends and no connection is refused by.
    Known { type_name: "envoy.tcp.metadataexchange.config.MetadataExchange", role: Role::Exchange },
    adds("stats.PluginConfig", "Istio's metrics are not kept"),
    adds("envoy.extensions.network_filters.peer_metadata.Config", "peers are not told apart in telemetry"),
    adds(
        "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
        "server names are not resolved, and clusters of them have no hosts",
    ),
    adds("envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy", "statistics of MongoDB are not kept"),
    adds("envoy.extensions.filters.network.zookeeper_proxy.v3.ZooKeeperProxy", "statistics of ZooKeeper are not kept"),
    // What Istio or an EnvoyFilter sends and connections are refused by.
    Known { type_name: "envoy.extensions.filters.network.rbac.v3.RBAC", role: Role::Guards(rbac_refuses_nothing) },
    guards("envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"),
    guards("envoy.extensions.filters.network.wasm.v3.Wasm"),
    guards("envoy.extensions.filters.network.ratelimit.v3.RateLimit"),
    guards("envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit"),
    guards("envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"),
    guards("envoy.extensions.filters.network.ext_proc.v3.NetworkExternalProcessor"),
    guards("envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter"),
    guards("envoy.extensions.filters.network.geoip.v3.Geoip"),
    guards("envoy.extensions.filters.network.sni_cluster.v3.SniCluster"),
    // A part of Envoy that is not in its public API files; it stands before a TCP proxy.
    guards("envoy.extensions.filters.network.mysql_proxy.v3.MySQLProxy"),
    closed("envoy.extensions.filters.network.redis_proxy.v3.RedisProxy"),
    closed("envoy.extensions.filters.network.thrift_proxy.v3.ThriftProxy"),
    closed("envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy"),
    closed("envoy.extensions.filters.network.generic_proxy.v3.GenericProxy"),
];

/// The type of a filter's configuration.
pub fn find(type_name: &str) -> Option<&'static Known> {
    FILTERS.iter().find(|k| k.type_name == type_name)
}

fn never(_: &[u8]) -> bool {
    false
}

/// Whether an RBAC has nothing that denies: only shadow rules, which are evaluated for telemetry, or rules that log.
fn rbac_refuses_nothing(wire: &[u8]) -> bool {
    f::rbac::v3::Rbac::decode(wire)
        .is_ok_and(|c| c.matcher.is_none() && c.rules.is_none_or(|r| r.action == Action::Log as i32))
}

/// A filter of a chain before the last, as it is called.
pub struct Named {
    /// `name`.
    pub name: Arc<str>,
    /// The filter.
    pub filter: Built,
}

/// What a filter comes to.
enum Kind {
    Before(Built),
    Exchange(Arc<MetadataExchange>),
    Terminal(Terminal),
    /// A filter that would take the bytes, closed.
    Closed,
    Nothing,
}

/// The filters of a chain.
pub struct Compiled {
    /// Those before the last.
    pub before: Vec<Named>,
    /// What some of them wait for.
    pub discovered: Vec<Arc<Discovery>>,
    /// `istio.metadata_exchange`.
    pub exchange: Option<Arc<MetadataExchange>>,
    /// The last.
    pub terminal: Terminal,
}

/// Compiles `filters`; `path` is that of the filter chain.
pub fn compile(filters: Vec<v3::Filter>, cx: &Context<'_>, path: &str) -> Result<Compiled, ConfigError> {
    let (mut before, mut discovered): (Vec<Named>, _) = (Vec::new(), Vec::new());
    let mut exchange = None;
    let mut terminal = Terminal::Nothing;
    let count = filters.len();
    for (i, v3::Filter { name, config_type }) in filters.into_iter().enumerate() {
        let path = format!("{path}.filters[{i}]");
        let (kind, path) = match config_type {
            Some(ConfigType::TypedConfig(any)) => {
                let path = format!("{path}.typed_config");
                (filter(&name, &any, cx, &path)?, path)
            }
            Some(ConfigType::ConfigDiscovery(source)) => {
                let path = format!("{path}.config_discovery");
                let asker = Asker { name: &name, family: Family::Network, is_optional: false };
                let kind = match Discovery::compile(source, asker, cx, &path, |t| find(t).is_some())? {
                    Some(discovery) => {
                        let discovery = Arc::new(discovery);
                        let filter = DiscoveredFilter::compile(discovery.clone(), &path)?;
                        discovered.push(discovery);
                        Kind::Before(Box::new(filter))
                    }
                    None => Kind::Nothing,
                };
                (kind, path)
            }
            None => {
                let reason = format!("expected a configuration of {name}");
                return Err(ConfigError::new(format!("{path}.typed_config"), reason));
            }
        };
        let last = i + 1 == count;
        match kind {
            Kind::Terminal(_) | Kind::Closed if !last => {
                return Err(ConfigError::new(path, format!("{name} has to be the last filter of its chain")));
            }
            Kind::Terminal(t) => terminal = t,
            Kind::Closed => before.push(Named { filter: Box::new(Unsupported::new(&name)), name: name.into() }),
            Kind::Before(_) | Kind::Exchange(_) | Kind::Nothing if last => {
                return Err(ConfigError::new(path, format!("{name} cannot be the last filter of its chain")));
            }
            Kind::Before(filter) => before.push(Named { name: name.into(), filter }),
            Kind::Exchange(f) => exchange = Some(f),
            Kind::Nothing => {}
        }
    }
    Ok(Compiled { before, discovered, exchange, terminal })
}

/// What becomes of connections on a chain with a guard that is not built.
const CLOSED: &str = "connections on chains with it are closed";

fn filter(name: &str, any: &Any, cx: &Context<'_>, path: &str) -> Result<Kind, ConfigError> {
    let known = known(any, path)?;
    Ok(match known.role {
        Role::Exchange => Kind::Exchange(peers::exchange(any, cx, path)?),
        Role::Terminal(build) => Kind::Terminal(build(any, cx, path)?),
        Role::Closed => {
            extension::checked(any, path)?;
            extension::warn_closed(known.type_name, CLOSED, path);
            Kind::Closed
        }
        Role::Build(_) | Role::Adds(_) | Role::Guards(_) => match build(name, any, path)? {
            Some(filter) => Kind::Before(filter),
            None => Kind::Nothing,
        },
    })
}

fn known(any: &Any, path: &str) -> Result<&'static Known, ConfigError> {
    let type_name = any::type_name(any);
    find(&type_name).ok_or_else(|| ConfigError::new(path, format!("not supported: {type_name}")))
}

/// A filter that stands before the last; none where it has nothing to do.
pub(super) fn build(name: &str, any: &Any, path: &str) -> Result<Option<Built>, ConfigError> {
    let known = known(any, path)?;
    match known.role {
        Role::Build(build) => build(any, path).map(Some),
        Role::Adds(missing) => {
            extension::checked(any, path)?;
            extension::warn_missing(known.type_name, missing, path);
            Ok(None)
        }
        Role::Guards(refuses_nothing) => {
            if refuses_nothing(&extension::checked(any, path)?) {
                return Ok(None);
            }
            extension::warn_closed(known.type_name, CLOSED, path);
            Ok(Some(Box::new(Unsupported::new(name))))
        }
        // What it does is done before any filter is asked.
        Role::Exchange => Err(ConfigError::unsupported(format!("{path}: {} by config_discovery", known.type_name))),
        Role::Terminal(_) | Role::Closed => {
            let type_name = known.type_name;
            // Envoy's words.
            let reason = format!(
                "Error: terminal filter named {name} of type {type_name} must be the last filter in a network filter chain."
            );
            Err(ConfigError::new(path, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_messages_of_the_api_once_each() {
        for known in FILTERS {
            assert!(any::is_known(known.type_name) || known.type_name.contains("mysql_proxy"), "{}", known.type_name);
            assert_eq!(FILTERS.iter().filter(|k| k.type_name == known.type_name).count(), 1, "{}", known.type_name);
        }
        for name in [
            "rbac.v3.RBAC",
            "ext_authz.v3.ExtAuthz",
            "wasm.v3.Wasm",
            "ratelimit.v3.RateLimit",
            "local_ratelimit.v3.LocalRateLimit",
        ] {
            let known = find(&format!("envoy.extensions.filters.network.{name}")).unwrap();
            assert!(matches!(known.role, Role::Guards(_) | Role::Build(_)), "{name}");
        }
    }
}
