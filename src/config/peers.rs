//! Filters by which proxies tell each other who they are.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use waypost_filters::network::metadata_exchange::MetadataExchange;
use waypost_xds::any;
use waypost_xds::google::protobuf::Any;

use super::{ConfigError, Context, say_once};

/// `istio.metadata_exchange` of a listener or a cluster. Thousands of clusters in a row say the same, and share it.
pub fn exchange(any: &Any, cx: &Context<'_>, path: &str) -> Result<Arc<MetadataExchange>, ConfigError> {
    static LAST: Mutex<Weak<MetadataExchange>> = Mutex::new(Weak::new());
    let config = any::unpack(any, path)?;
    say_once("metadata exchange: peers are told who we are, and are not told apart in telemetry yet");
    let filter = MetadataExchange::compile(config, &cx.process.node_id, &cx.process.node_metadata);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(same) = last.upgrade().filter(|l| **l == filter) {
        return Ok(same);
    }
    let filter = Arc::new(filter);
    *last = Arc::downgrade(&filter);
    Ok(filter)
}
