//! Dynamic metadata, and the metadata of hosts, clusters and routes (`config.core.v3.Metadata.filter_metadata`).

use std::sync::Arc;

use serde_json::{Map, Number, Value};
use smallvec::SmallVec;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::google::protobuf::{self, value::Kind};

/// A few namespaces, each with a struct. Looked up by scanning: there are seldom more than three.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    namespaces: SmallVec<[(Arc<str>, Arc<Value>); 2]>,
}

impl Metadata {
    /// From `config.core.v3.Metadata`. `typed_filter_metadata` is for factories of extensions, of which there are none here (Envoy, too, passes
    /// over types without a factory).
    pub fn compile(metadata: core::Metadata) -> Metadata {
        let core::Metadata { filter_metadata, typed_filter_metadata: _ } = metadata;
        let mut namespaces: Vec<_> = filter_metadata.into_iter().collect();
        namespaces.sort_by(|a, b| a.0.cmp(&b.0));
        let namespaces = namespaces.into_iter().map(|(n, s)| (n.into(), Arc::new(json_of_struct(s)))).collect();
        Metadata { namespaces }
    }

    /// The struct of one namespace.
    pub fn get(&self, namespace: &str) -> Option<&Arc<Value>> {
        self.namespaces.iter().find(|(n, _)| &**n == namespace).map(|(_, v)| v)
    }

    /// The value at a path inside a namespace.
    pub fn at<'a>(&self, namespace: &str, path: impl IntoIterator<Item = &'a str>) -> Option<&Value> {
        path.into_iter().try_fold(&**self.get(namespace)?, |value, key| value.get(key))
    }

    /// Sets a namespace, replacing what it held.
    pub fn set(&mut self, namespace: Arc<str>, value: Arc<Value>) {
        match self.namespaces.iter_mut().find(|(n, _)| *n == namespace) {
            Some((_, v)) => *v = value,
            None => self.namespaces.push((namespace, value)),
        }
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// All namespaces.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Value>)> {
        self.namespaces.iter().map(|(n, v)| (n, v))
    }
}

/// A `google.protobuf.Struct` as JSON; keys are sorted, as protobuf maps have no order.
pub fn json_of_struct(value: protobuf::Struct) -> Value {
    let mut fields: Vec<_> = value.fields.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(fields.into_iter().map(|(k, v)| (k, json_of_value(v))).collect::<Map<_, _>>())
}

/// A `google.protobuf.Value` as JSON. Numbers that are no JSON (NaN, infinity) become null.
pub fn json_of_value(value: protobuf::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(n)) => Number::from_f64(n).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(s)) => Value::String(s),
        Some(Kind::BoolValue(b)) => Value::Bool(b),
        Some(Kind::StructValue(s)) => json_of_struct(s),
        Some(Kind::ListValue(l)) => Value::Array(l.values.into_iter().map(json_of_value).collect()),
    }
}
