//! Connection managers that say the same but for their routes share all else.
//!
//! A waypoint has a filter chain for each port of each service, and all of them come again with every change of one. Four fifths of a connection
//! manager's message are the same in all of them: these are read, checked and compiled once, and known again by their bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest::{SHA256, digest};
use prost::Name;
use waypost_xds::any;
use waypost_xds::envoy::config::route::v3::RouteConfiguration;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use waypost_xds::google::protobuf::Any;

use super::convert::at;
use super::{HttpConnectionManager, Settings};
use crate::config::{ConfigError, Context};
use crate::route::RouteTable;
use crate::route::slot::Routes;

/// `route_config`, and the other fields of its oneof.
const ROUTE_CONFIG: u32 = 4;
const OTHER_ROUTES: [u32; 2] = [3, 31];

/// Settings by the SHA-256 of what they were compiled from, while a filter chain uses them.
#[derive(Debug, Default)]
pub struct KnownSettings(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    all: HashMap<[u8; 32], Weak<Settings>>,
    /// How many there may be before those that are gone are looked for.
    look_at: usize,
}

impl KnownSettings {
    fn get(&self, key: &[u8; 32]) -> Option<Arc<Settings>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all.get(key)?.upgrade()
    }

    fn add(&self, key: [u8; 32], settings: &Arc<Settings>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.all.len() >= known.look_at {
            known.all.retain(|_, s| s.strong_count() > 0);
            // Looking costs as much as what is there: it is done when that has doubled.
            known.look_at = known.all.len() * 2 + 16;
        }
        known.all.insert(key, Arc::downgrade(settings));
    }
}

impl HttpConnectionManager {
    /// Reads and compiles the message in an `Any`; `path` is where that stands.
    pub fn read(any: &Any, cx: &Context<'_>, path: &str) -> Result<Arc<HttpConnectionManager>, ConfigError> {
        let whole = || HttpConnectionManager::compile(any::unpack(any, path)?, cx, path);
        // A `TypedStruct`, or routes that come over RDS: few chains have those.
        let Some((routes, rest)) = any::is::<proto::HttpConnectionManager>(any)
            .then(|| any::take_field(&any.value, ROUTE_CONFIG, &OTHER_ROUTES))
            .flatten()
        else {
            return whole();
        };
        let Ok(key) = digest(&SHA256, &rest).as_ref().try_into() else { return whole() };
        let Some(settings) = cx.routes.settings.get(&key) else {
            let compiled = whole()?;
            cx.routes.settings.add(key, &compiled.settings);
            return Ok(compiled);
        };
        let path = at(path, "route_config");
        let routes = Any { type_url: RouteConfiguration::type_url(), value: routes.to_vec() };
        let routes = Routes::Here(RouteTable::compile(any::unpack(&routes, &path)?, cx, &path)?);
        Ok(Arc::new(HttpConnectionManager { settings, routes }))
    }
}
