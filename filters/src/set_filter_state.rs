//! `envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue`: what both `set_filter_state` filters do.

use std::sync::Arc;

use crate::filter_state::{Entry, Factory, Shared};
use crate::format::{FormatContext, SubstitutionFormat};
use waypost_xds::Error;
use waypost_xds::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue, filter_state_value as proto,
};

/// One compiled value.
#[derive(Clone, Debug)]
pub struct Value {
    key: Arc<str>,
    factory: Factory,
    format: SubstitutionFormat,
    read_only: bool,
    shared: Shared,
    skip_if_empty: bool,
}

impl Value {
    /// Compiles a list of values; `path` is that of the list.
    pub fn compile_all(values: Vec<FilterStateValue>, path: &str) -> Result<Vec<Value>, Error> {
        values.into_iter().enumerate().map(|(i, v)| Value::compile(v, &format!("{path}[{i}]"))).collect()
    }

    #[allow(deprecated, reason = "a field that was replaced is still a field")]
    fn compile(value: FilterStateValue, path: &str) -> Result<Value, Error> {
        let FilterStateValue { factory_key, read_only, shared_with_upstream, skip_if_empty, key, value } = value;
        let Some(proto::Key::ObjectKey(key)) = key.filter(|proto::Key::ObjectKey(k)| !k.is_empty()) else {
            return Err(Error::new(format!("{path}.object_key"), "value is required"));
        };
        let factory_name = if factory_key.is_empty() { &key } else { &factory_key };
        let Some(factory) = Factory::of(factory_name) else {
            let reason = format!("'{factory_name}' does not have an object factory");
            return Err(Error::new(format!("{path}.factory_key"), reason));
        };
        let shared = match proto::SharedWithUpstream::try_from(shared_with_upstream) {
            Ok(proto::SharedWithUpstream::None) => Shared::None,
            Ok(proto::SharedWithUpstream::Once) => Shared::Once,
            Ok(proto::SharedWithUpstream::Transitive) => Shared::Transitive,
            Err(_) => return Err(Error::new(format!("{path}.shared_with_upstream"), "unknown value")),
        };
        let Some(proto::Value::FormatString(format)) = value else {
            return Err(Error::new(format!("{path}.format_string"), "value is required"));
        };
        let format = SubstitutionFormat::compile(format, &format!("{path}.format_string"));
        let format = format.map_err(|e| Error::new(e.path, e.reason))?;
        Ok(Value { key: key.into(), factory, format, read_only, shared, skip_if_empty })
    }

    /// The entry to set; none where the text is empty and to be skipped, or stands for no object of the kind (a host name is no
    /// address): Envoy leaves the state as it was and says so at debug level only.
    pub fn evaluate(&self, buffer: &mut Vec<u8>, cx: &FormatContext<'_>) -> Option<Entry> {
        buffer.clear();
        self.format.write(buffer, cx);
        if buffer.is_empty() && self.skip_if_empty {
            return None;
        }
        // Header bytes need not be UTF-8, objects are text: what is not is replaced, so that it matches no name.
        let object = self.factory.make(&String::from_utf8_lossy(buffer))?;
        Some(Entry { key: self.key.clone(), object, shared: self.shared, read_only: self.read_only })
    }
}
