//! What a matcher tree may look at (`extensions.matching.common_inputs.network.v3`).

use std::fmt::Write;
use std::net::IpAddr;

use smallvec::SmallVec;
use waypost_filters::address::Address;
use waypost_filters::connection::Connection;
use waypost_filters::filter_state::Object;
use waypost_xds::any;
use waypost_xds::envoy::extensions::matching::common_inputs::network::v3 as proto;
use waypost_xds::xds::core::v3::TypedExtensionConfig;

use super::{is_local, transport_protocol};
use crate::config::{ConfigError, refuse};

/// A property of a connection, seen as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    DestinationIp,
    DestinationPort,
    SourceIp,
    SourcePort,
    DirectSourceIp,
    SourceType,
    ServerName,
    TransportProtocol,
    ApplicationProtocol,
    FilterState(Box<str>),
}

/// Texts that have to be put together are, on the stack: an address, or a few protocols in quotes.
#[derive(Default)]
struct Text(SmallVec<[u8; 128]>);

impl Write for Text {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }
}

const PACKAGE: &str = "envoy.extensions.matching.common_inputs.network.v3.";

impl Input {
    pub fn compile(config: Option<&TypedExtensionConfig>, path: &str) -> Result<Input, ConfigError> {
        let Some(TypedExtensionConfig { name: _, typed_config: Some(config) }) = config else {
            return Err(ConfigError::new(format!("{path}.typed_config"), "value is required"));
        };
        let path = format!("{path}.typed_config");
        let name = any::type_name(config);
        Ok(match name.strip_prefix(PACKAGE) {
            Some("DestinationIPInput") => Input::DestinationIp,
            Some("DestinationPortInput") => Input::DestinationPort,
            Some("SourceIPInput") => Input::SourceIp,
            Some("SourcePortInput") => Input::SourcePort,
            Some("DirectSourceIPInput") => Input::DirectSourceIp,
            Some("SourceTypeInput") => Input::SourceType,
            Some("ServerNameInput") => Input::ServerName,
            Some("TransportProtocolInput") => Input::TransportProtocol,
            Some("ApplicationProtocolInput") => Input::ApplicationProtocol,
            Some("FilterStateInput") => {
                let proto::FilterStateInput { key, field } = any::unpack(config, &path)?;
                refuse(&field, &path, "field")?;
                if key.is_empty() {
                    return Err(ConfigError::new(format!("{path}.key"), "value length must be at least 1 characters"));
                }
                Input::FilterState(key.into())
            }
            _ => return Err(ConfigError::new(path, format!("input {name} is not supported yet"))),
        })
    }

    /// Calls with the text, or with none where the connection has no such thing.
    pub fn read<R>(&self, c: &Connection, then: impl FnOnce(Option<&[u8]>) -> R) -> R {
        let filled = |s: &&str| !s.is_empty();
        match self {
            Input::DestinationIp | Input::SourceIp | Input::DirectSourceIp => display(self.ip(c), then),
            Input::DestinationPort | Input::SourcePort => display(self.port(c), then),
            Input::SourceType => then(is_local(c).then_some(b"local")),
            Input::ServerName => then(c.server_name.as_deref().filter(filled).map(str::as_bytes)),
            Input::TransportProtocol => then(Some(transport_protocol(c).as_bytes())),
            Input::ApplicationProtocol => {
                if c.application_protocols.is_empty() {
                    return then(None);
                }
                let mut text = Text::default();
                for (i, protocol) in c.application_protocols.iter().enumerate() {
                    text.0.extend_from_slice(if i == 0 { b"'" } else { b",'" });
                    text.0.extend_from_slice(protocol.as_bytes());
                    text.0.push(b'\'');
                }
                then(Some(&text.0))
            }
            Input::FilterState(key) => match c.filter_state.get(key) {
                None => then(None),
                Some(Object::String(s) | Object::HashableString(s)) => then(Some(s.as_bytes())),
                Some(Object::Bool(b)) => then(Some(if *b { b"true" } else { b"false" })),
                Some(Object::Number(n)) => display(Some(n), then),
                Some(Object::Address(a)) => display(Some(a), then),
            },
        }
    }

    /// The address, for inputs that are one.
    pub fn ip(&self, c: &Connection) -> Option<IpAddr> {
        let ip = match self {
            Input::DestinationIp => c.local.ip(),
            Input::SourceIp => c.remote.ip(),
            Input::DirectSourceIp => c.direct_remote.ip(),
            Input::FilterState(key) => match c.filter_state.get(key)? {
                Object::Address(Address::Ip(a)) => Some(a.ip()),
                Object::String(s) | Object::HashableString(s) => s.parse().ok(),
                _ => None,
            },
            _ => None,
        };
        ip.map(|ip| ip.to_canonical())
    }

    /// The port, for inputs that are one.
    pub fn port(&self, c: &Connection) -> Option<u16> {
        match self {
            Input::DestinationPort => c.local.port(),
            Input::SourcePort => c.remote.port(),
            _ => None,
        }
    }

    /// Whether [`Input::port`] is what this reads.
    pub fn is_port(&self) -> bool {
        matches!(self, Input::DestinationPort | Input::SourcePort)
    }
}

impl std::fmt::Display for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Input::DestinationIp => "destination IP",
            Input::DestinationPort => "destination port",
            Input::SourceIp => "source IP",
            Input::SourcePort => "source port",
            Input::DirectSourceIp => "direct source IP",
            Input::SourceType => "source type",
            Input::ServerName => "server name",
            Input::TransportProtocol => "transport protocol",
            Input::ApplicationProtocol => "application protocol",
            Input::FilterState(key) => return write!(f, "filter state {key}"),
        })
    }
}

fn display<T: std::fmt::Display, R>(value: Option<T>, then: impl FnOnce(Option<&[u8]>) -> R) -> R {
    let Some(value) = value else { return then(None) };
    let mut text = Text::default();
    match write!(text, "{value}") {
        Ok(()) => then(Some(&text.0)),
        Err(_) => then(None),
    }
}
