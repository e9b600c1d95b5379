//! Filter state: named objects that filters leave for one another (`StreamInfo::FilterState`).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::address::Address;

/// An object in filter state. The factories that make them from text are in [`Factory`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// `envoy.string`.
    String(Arc<str>),
    /// `envoy.hashable_string`, `istio.hashable_string`: part of an upstream pool's key when shared.
    HashableString(Arc<str>),
    /// An address, such as `envoy.filters.listener.original_dst.local_ip`: part of a pool's key when shared.
    Address(Address),
    /// `envoy.bool`-like objects, such as `envoy.tcp_proxy.disable_tunneling`.
    Bool(bool),
    /// A number, such as `envoy.tcp_proxy.per_connection_idle_timeout_ms`.
    Number(u64),
}

impl Object {
    /// Whether the object enters the key of an upstream connection pool when it is shared with it (`Hashable`).
    pub fn is_hashable(&self) -> bool {
        matches!(self, Object::HashableString(_) | Object::Address(_))
    }

    /// The object as `%FILTER_STATE(key:PLAIN)%` prints it.
    pub fn plain(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Object::String(s) | Object::HashableString(s) => (&**s).into(),
            Object::Address(a) => a.to_string().into(),
            Object::Bool(b) => if *b { "true" } else { "false" }.into(),
            Object::Number(n) => n.to_string().into(),
        }
    }
}

/// Whether the far side of an upstream connection sees an object (`SharedWithUpstream`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shared {
    /// Not shared.
    #[default]
    None,
    /// `ONCE`: copied to the next connection, where it is not shared any more.
    Once,
    /// `TRANSITIVE`: copied to the next connection, and on from there.
    Transitive,
}

/// One entry of filter state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The object's name.
    pub key: Arc<str>,
    /// The object.
    pub object: Object,
    /// Whether it goes along to upstream connections.
    pub shared: Shared,
    /// Whether a later write is refused (`read_only`).
    pub read_only: bool,
}

/// The objects of one connection or one stream. Looked up by scanning: a waypoint's streams have five.
#[derive(Clone, Debug, Default)]
pub struct FilterState {
    entries: SmallVec<[Entry; 5]>,
}

impl FilterState {
    /// The object of a name.
    pub fn get(&self, key: &str) -> Option<&Object> {
        self.entries.iter().find(|e| &*e.key == key).map(|e| &e.object)
    }

    /// Sets an object; false where a read-only one stands already.
    pub fn set(&mut self, entry: Entry) -> bool {
        match self.entries.iter_mut().find(|e| e.key == entry.key) {
            Some(e) if e.read_only => false,
            Some(e) => {
                *e = entry;
                true
            }
            None => {
                self.entries.push(entry);
                true
            }
        }
    }

    /// All entries, in the order of their first writing.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the far side of an upstream connection gets: shared objects, `ONCE` ones no longer shared there.
    pub fn for_upstream(&self) -> FilterState {
        let entries = self
            .entries
            .iter()
            .filter(|e| e.shared != Shared::None)
            .map(|e| Entry { shared: if e.shared == Shared::Once { Shared::None } else { e.shared }, ..e.clone() })
            .collect();
        FilterState { entries }
    }

    /// Adds the shared, hashable objects to the key of an upstream connection pool.
    pub fn hash_shared(&self, hasher: &mut impl Hasher) {
        for e in self.entries.iter().filter(|e| e.shared != Shared::None && e.object.is_hashable()) {
            e.key.hash(hasher);
            e.object.hash(hasher);
        }
    }

    /// Whether any object is shared with upstream connections.
    pub fn shares(&self) -> bool {
        self.entries.iter().any(|e| e.shared != Shared::None)
    }
}

/// Makes an object from text (`factory_key` of `set_filter_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factory {
    /// `envoy.string`.
    String,
    /// `envoy.hashable_string`, `istio.hashable_string`.
    HashableString,
    /// Address objects: `envoy.filters.listener.original_dst.local_ip`, `…remote_ip`, `envoy.network.transport_socket.original_dst_address`.
    Address,
    /// Numbers: `envoy.tcp_proxy.per_connection_idle_timeout_ms`.
    Number,
    /// `envoy.tcp_proxy.disable_tunneling`.
    Bool,
}

impl Factory {
    /// The factory of a `factory_key` (or, without one, of an `object_key`); none where there is no such factory.
    pub fn of(key: &str) -> Option<Factory> {
        Some(match key {
            "envoy.string"
            | "envoy.network.upstream_server_name"
            | "envoy.network.application_protocols"
            | "envoy.tcp_proxy.cluster" => Factory::String,
            "envoy.hashable_string" | "istio.hashable_string" => Factory::HashableString,
            "envoy.filters.listener.original_dst.local_ip"
            | "envoy.filters.listener.original_dst.remote_ip"
            | "envoy.network.transport_socket.original_dst_address" => Factory::Address,
            "envoy.tcp_proxy.per_connection_idle_timeout_ms" => Factory::Number,
            "envoy.tcp_proxy.disable_tunneling" => Factory::Bool,
            _ => return None,
        })
    }

    /// The object that the text stands for; none where it cannot be one (a host name is no address).
    pub fn make(self, text: &str) -> Option<Object> {
        Some(match self {
            Factory::String => Object::String(text.into()),
            Factory::HashableString => Object::HashableString(text.into()),
            Factory::Address => Object::Address(Address::parse_ip_port(text)?),
            Factory::Number => Object::Number(text.parse().ok()?),
            Factory::Bool => Object::Bool(text == "true"),
        })
    }
}
