//! `envoy.filters.listener.original_dst` where there is no socket to ask: on an internal listener the addresses come with the connection.

use waypost_xds::Error;
use waypost_xds::envoy::extensions::filters::listener::original_dst::v3 as api;

use crate::address::Address;
use crate::connection::Connection;
use crate::filter_state::Object;

/// The metadata namespace with the key `local`.
const NAMESPACE: &str = "envoy.filters.listener.original_dst";
/// Filter state with the address that the tunnel was opened to.
const LOCAL: &str = "envoy.filters.listener.original_dst.local_ip";
/// Filter state with the address that opened the tunnel.
const REMOTE: &str = "envoy.filters.listener.original_dst.remote_ip";

/// Compiles the filter's configuration, which is empty.
pub fn compile(config: &api::OriginalDst, _path: &str) -> Result<(), Error> {
    let api::OriginalDst {} = config;
    Ok(())
}

/// Restores the addresses of a connection to an internal listener: the host's metadata goes before filter state.
pub fn restore_internal(connection: &mut Connection) {
    let metadata =
        connection.metadata.at(NAMESPACE, ["local"]).and_then(|v| v.as_str()).and_then(Address::parse_ip_port);
    let state = |key| match connection.filter_state.get(key) {
        Some(Object::Address(address)) => Some(address.clone()),
        _ => None,
    };
    let (local, remote) = (metadata.or_else(|| state(LOCAL)), state(REMOTE));
    if let Some(local) = local {
        connection.local = local;
    }
    if let Some(remote) = remote {
        connection.remote = remote;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::filter_state::{Entry, Shared};

    fn connection() -> Connection {
        let internal = |name: &str| Address::Internal { listener: name.into(), endpoint_id: "".into() };
        Connection::new(internal("main_internal"), internal("peer"))
    }

    fn put(connection: &mut Connection, key: &str, object: Object) {
        assert!(connection.filter_state.set(Entry { key: key.into(), object, shared: Shared::None, read_only: false }));
    }

    fn address(text: &str) -> Address {
        Address::parse_ip_port(text).unwrap()
    }

    #[test]
    fn filter_state_gives_both_addresses_and_metadata_goes_first() {
        let mut c = connection();
        put(&mut c, LOCAL, Object::Address(address("10.0.0.1:80")));
        put(&mut c, REMOTE, Object::Address(address("10.0.0.2:4444")));
        restore_internal(&mut c);
        assert_eq!((&c.local, &c.remote), (&address("10.0.0.1:80"), &address("10.0.0.2:4444")));
        assert_eq!(c.direct_local, connection().local);

        c.metadata.set(NAMESPACE.into(), Arc::new(serde_json::json!({"local": "[::1]:9"})));
        restore_internal(&mut c);
        assert_eq!(c.local, address("[::1]:9"));
    }

    #[test]
    fn what_is_no_address_leaves_them_alone() {
        let mut c = connection();
        put(&mut c, LOCAL, Object::String("10.0.0.1:80".into()));
        c.metadata.set(NAMESPACE.into(), Arc::new(serde_json::json!({"local": "host:80"})));
        restore_internal(&mut c);
        assert_eq!((c.local, c.remote), (connection().local, connection().remote));
    }
}
