//! `envoy.filters.http.set_filter_state`

use crate::filter::{HttpFilter, Step};
use crate::format::FormatContext;
use crate::set_filter_state::Value;
use crate::stream::HttpStream;
use waypost_xds::Error;
use waypost_xds::envoy::extensions::filters::http::set_filter_state::v3::Config;

/// Writes objects of request life span when the request's head has come.
#[derive(Debug)]
pub struct SetFilterState {
    values: Vec<Value>,
    clear_route_cache: bool,
}

impl SetFilterState {
    /// Compiles the filter; `path` is that of its configuration.
    pub fn compile(config: Config, path: &str) -> Result<SetFilterState, Error> {
        let Config { on_request_headers, clear_route_cache } = config;
        let values = Value::compile_all(on_request_headers, &format!("{path}.on_request_headers"))?;
        Ok(SetFilterState { values, clear_route_cache })
    }
}

impl HttpFilter for SetFilterState {
    fn on_request(&self, stream: &mut HttpStream) -> Step {
        let mut buffer = Vec::with_capacity(64);
        for value in &self.values {
            if let Some(entry) = value.evaluate(&mut buffer, &FormatContext::of_stream(stream)) {
                stream.info.filter_state.set(entry);
            }
        }
        stream.reroute |= self.clear_route_cache;
        Step::Continue
    }
}
