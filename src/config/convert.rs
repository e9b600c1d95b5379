//! Protobuf's small types as Rust's.

use std::time::Duration;

use waypost_filters::address::Address;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::google::protobuf as pb;

use super::{ConfigError, refuse};

/// A duration; negative ones are refused, as Envoy does.
pub fn duration(d: Option<pb::Duration>, path: &str) -> Result<Option<Duration>, ConfigError> {
    d.map(|pb::Duration { seconds, nanos }| match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(s), Ok(n)) if n < 1_000_000_000 => Ok(Duration::new(s, n)),
        _ => Err(ConfigError::new(path, "expected a duration that is not negative")),
    })
    .transpose()
}

/// A duration where zero means none.
pub fn timeout(d: Option<pb::Duration>, path: &str) -> Result<Option<Duration>, ConfigError> {
    Ok(duration(d, path)?.filter(|d| !d.is_zero()))
}

/// A duration where zero means none and absence means a default.
pub fn timeout_or(d: Option<pb::Duration>, default: Duration, path: &str) -> Result<Option<Duration>, ConfigError> {
    Ok(Some(duration(d, path)?.unwrap_or(default)).filter(|d| !d.is_zero()))
}

/// A wrapped number.
pub fn u32_of(v: Option<pb::UInt32Value>) -> Option<u32> {
    v.map(|pb::UInt32Value { value }| value)
}

/// A wrapped truth value.
pub fn bool_of(v: Option<pb::BoolValue>) -> Option<bool> {
    v.map(|pb::BoolValue { value }| value)
}

/// `config.core.v3.Address`.
pub fn address(a: Option<core::Address>, path: &str) -> Result<Address, ConfigError> {
    use core::address::Address as A;
    match a.and_then(|core::Address { address }| address) {
        Some(A::SocketAddress(s)) => {
            let (a, _) = socket_address(s, &format!("{path}.socket_address"))?;
            Ok(Address::Ip(a))
        }
        Some(A::Pipe(core::Pipe { path: file, mode: _ })) => Ok(Address::Pipe(file.into())),
        Some(A::EnvoyInternalAddress(core::EnvoyInternalAddress { endpoint_id, address_name_specifier })) => {
            use core::envoy_internal_address::AddressNameSpecifier::ServerListenerName;
            match address_name_specifier {
                Some(ServerListenerName(name)) => {
                    Ok(Address::Internal { listener: name.into(), endpoint_id: endpoint_id.into() })
                }
                None => Err(ConfigError::new(
                    format!("{path}.envoy_internal_address.server_listener_name"),
                    "expected a name",
                )),
            }
        }
        None => Err(ConfigError::new(path, "expected an address")),
    }
}

/// `config.core.v3.SocketAddress`, and whether `ipv4_compat` is set.
pub fn socket_address(s: core::SocketAddress, path: &str) -> Result<(std::net::SocketAddr, bool), ConfigError> {
    let core::SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = s;
    refuse(&protocol, path, "protocol")?;
    refuse(&resolver_name, path, "resolver_name")?;
    refuse(&network_namespace_filepath, path, "network_namespace_filepath")?;
    let port = match port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(p)) => u16::try_from(p)
            .map_err(|_| ConfigError::new(format!("{path}.port_value"), "expected a number up to 65535"))?,
        Some(core::socket_address::PortSpecifier::NamedPort(_)) => {
            return Err(ConfigError::unsupported(format!("{path}.named_port")));
        }
        None => 0,
    };
    let ip = address.parse().map_err(|_| {
        ConfigError::new(format!("{path}.address"), format!("expected an IP address, found '{address}'"))
    })?;
    Ok((std::net::SocketAddr::new(ip, port), ipv4_compat))
}

/// `config.core.v3.DataSource`: a file, inline bytes or text, or an environment variable.
pub fn data_source(source: core::DataSource, path: &str) -> Result<Vec<u8>, ConfigError> {
    use core::data_source::Specifier;
    let core::DataSource { watched_directory, specifier } = source;
    refuse(&watched_directory, path, "watched_directory")?;
    match specifier {
        Some(Specifier::Filename(file)) => {
            std::fs::read(&file).map_err(|e| ConfigError::new(format!("{path}.filename"), format!("{file}: {e}")))
        }
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::EnvironmentVariable(name)) => std::env::var(&name).map(String::into_bytes).map_err(|_| {
            ConfigError::new(format!("{path}.environment_variable"), format!("the environment has no {name}"))
        }),
        None => Err(ConfigError::new(path, "expected a data source")),
    }
}
