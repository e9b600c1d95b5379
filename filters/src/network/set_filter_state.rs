//! `envoy.filters.network.set_filter_state`

use std::sync::Arc;
use std::time::Instant;

use crate::connection::Connection;
use crate::filter::{NetworkFilter, NetworkStep};
use crate::format::FormatContext;
use crate::set_filter_state::Value;
use crate::stream::StreamInfo;
use waypost_xds::Error;
use waypost_xds::envoy::extensions::filters::network::set_filter_state::v3::Config;

/// Writes objects of connection life span when a connection has come.
#[derive(Debug)]
pub struct SetFilterState {
    values: Vec<Value>,
}

impl SetFilterState {
    /// Compiles the filter; `path` is that of its configuration.
    pub fn compile(config: Config, path: &str) -> Result<SetFilterState, Error> {
        let Config { on_new_connection, on_downstream_tls_handshake, on_downstream_data } = config;
        let later = [
            ("on_downstream_tls_handshake", on_downstream_tls_handshake.is_empty()),
            ("on_downstream_data", on_downstream_data.is_empty()),
        ];
        if let Some((field, _)) = later.iter().find(|(_, empty)| !empty) {
            return Err(Error::new(format!("{path}.{field}"), "not supported yet"));
        }
        Ok(SetFilterState { values: Value::compile_all(on_new_connection, &format!("{path}.on_new_connection"))? })
    }
}

impl NetworkFilter for SetFilterState {
    fn on_new_connection(&self, connection: &mut Connection) -> NetworkStep {
        if self.values.is_empty() {
            return NetworkStep::Continue;
        }
        // Formats read a stream's view of a connection. A later value may read an earlier one: the stream's state overlays the copy.
        let mut info = StreamInfo::of_connection(Arc::new(connection.clone()), 0, Instant::now(), connection.start);
        let mut buffer = Vec::with_capacity(64);
        for value in &self.values {
            if let Some(entry) = value.evaluate(&mut buffer, &FormatContext::of_info(&info))
                && connection.filter_state.set(entry.clone())
            {
                info.filter_state.set(entry);
            }
        }
        NetworkStep::Continue
    }
}
