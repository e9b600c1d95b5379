//! A network filter that comes over ECDS. What a connection has to do with one ends when its chain is chosen, so it is swapped in its place.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use waypost_filters::connection::Connection;
use waypost_filters::filter::{NetworkFilter, NetworkStep};
use waypost_xds::google::protobuf::Any;

use super::network::{self, Built};
use crate::config::ConfigError;
use crate::config::extension::Discovery;
use crate::config::extension_slot::{Commit, ExtensionSlot, User};

/// Stands in the place of a filter that is discovered.
pub struct DiscoveredFilter(Arc<Place>);

struct Place {
    discovery: Arc<Discovery>,
    path: String,
    current: ArcSwap<State>,
}

enum State {
    /// Its configuration is not here: connections are closed, as by Envoy.
    Missing,
    /// It is; a filter with nothing to do is none.
    Here(Option<Built>),
}

impl DiscoveredFilter {
    /// With what is there to begin with.
    pub fn compile(discovery: Arc<Discovery>, path: &str) -> Result<DiscoveredFilter, ConfigError> {
        let (current, default) = discovery.first(path, |any, path| network::build(&discovery.slot.name, any, path))?;
        let state = current.or(default).map_or(State::Missing, State::Here);
        let place = Arc::new(Place { discovery, path: path.to_owned(), current: ArcSwap::from_pointee(state) });
        let user: Weak<Place> = Arc::downgrade(&place);
        place.discovery.slot.tell(user);
        Ok(DiscoveredFilter(place))
    }
}

impl NetworkFilter for DiscoveredFilter {
    fn on_new_connection(&self, connection: &mut Connection) -> NetworkStep {
        match &**self.0.current.load() {
            State::Missing => NetworkStep::Close("network_extension_config_missing".into()),
            State::Here(None) => NetworkStep::Continue,
            State::Here(Some(filter)) => filter.on_new_connection(connection),
        }
    }
}

impl User for Place {
    fn prepare(self: Arc<Self>, _: &ExtensionSlot, config: Option<&Any>) -> Result<Commit, ConfigError> {
        let (path, name) = (&self.path, &self.discovery.slot.name);
        let state = match (config, &self.discovery.default) {
            (Some(config), _) => {
                self.discovery.check_type(config, path)?;
                State::Here(network::build(name, config, path)?)
            }
            (None, Some(default)) => State::Here(network::build(name, default, path)?),
            (None, None) => State::Missing,
        };
        Ok(Box::new(move || self.current.store(Arc::new(state))))
    }
}
