//! `transport_socket` and `transport_socket_matches` of a cluster.

use std::sync::Arc;

use serde_json::Value;
use waypost_filters::metadata::{Metadata, json_of_struct};
use waypost_xds::any;
use waypost_xds::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use waypost_xds::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use waypost_xds::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use waypost_xds::envoy::extensions::transport_sockets::internal_upstream::v3::internal_upstream_transport::MetadataValueSource;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use waypost_xds::envoy::r#type::metadata::v3::metadata_kind::Kind;

use super::{Passthrough, TlsTransport, Transport};
use crate::config::{ConfigError, Context};
use crate::tls::{ClientTls, TlsStats};

/// The namespace of host metadata that selects a transport socket.
const MATCH: &str = "envoy.transport_socket_match";

/// The transport sockets that a cluster's hosts may use.
#[derive(Debug)]
pub struct Transports {
    matches: Vec<(Value, Arc<Transport>)>,
    default: Arc<Transport>,
}

impl Transports {
    /// Compiles them.
    pub fn compile(
        matches: Vec<TransportSocketMatch>,
        default: Option<TransportSocket>,
        cx: &Context<'_>,
        path: &str,
    ) -> Result<Transports, ConfigError> {
        let matches = matches
            .into_iter()
            .enumerate()
            .map(|(i, TransportSocketMatch { name: _, r#match, transport_socket })| {
                let path = format!("{path}.transport_socket_matches[{i}].transport_socket");
                Ok((r#match.map_or(Value::Null, json_of_struct), Arc::new(compile(transport_socket, cx, &path)?)))
            })
            .collect::<Result<_, ConfigError>>()?;
        Ok(Transports { matches, default: Arc::new(compile(default, cx, &format!("{path}.transport_socket"))?) })
    }

    /// Whether any of them is `internal_upstream`.
    pub fn any_internal(&self) -> bool {
        let internal = |t: &Transport| matches!(t, Transport::Internal { .. });
        internal(&self.default) || self.matches.iter().any(|(_, t)| internal(t))
    }

    /// Whether any of them is TLS.
    pub fn any_tls(&self) -> bool {
        self.default.is_tls() || self.matches.iter().any(|(_, t)| t.is_tls())
    }

    /// Makes the contexts count their updates.
    pub fn follow(&self, stats: &TlsStats) {
        self.contexts().for_each(|tls| tls.follow(stats));
    }

    /// Whether nobody need wait for the contexts' secrets any more.
    pub fn settled(&self) -> bool {
        self.contexts().all(ClientTls::settled)
    }

    fn contexts(&self) -> impl Iterator<Item = &ClientTls> {
        fn tls(t: &Transport) -> Option<&ClientTls> {
            match t {
                Transport::Raw => None,
                Transport::Tls(tls) => Some(&tls.0),
                Transport::Internal { inner, .. } => tls(inner),
            }
        }
        std::iter::once(&self.default).chain(self.matches.iter().map(|(_, t)| t)).filter_map(|t| tls(t))
    }

    /// The one for hosts that match nothing.
    pub fn default(&self) -> Arc<Transport> {
        self.default.clone()
    }

    /// The first whose match is part of the host's metadata.
    pub fn of_host(&self, metadata: &Metadata) -> Arc<Transport> {
        let has = metadata.get(MATCH);
        let fits = |wanted: &Value| match wanted.as_object() {
            None => true,
            Some(fields) => fields.iter().all(|(k, v)| has.and_then(|h| h.get(k)) == Some(v)),
        };
        self.matches.iter().find(|(m, _)| fits(m)).map_or(&self.default, |(_, t)| t).clone()
    }
}

fn compile(socket: Option<TransportSocket>, cx: &Context<'_>, path: &str) -> Result<Transport, ConfigError> {
    let Some(TransportSocket { name, config_type }) = socket else { return Ok(Transport::Raw) };
    let Some(ConfigType::TypedConfig(config)) = config_type else {
        return match name.as_str() {
            "envoy.transport_sockets.raw_buffer" | "raw_buffer" => Ok(Transport::Raw),
            _ => Err(ConfigError::new(format!("{path}.typed_config"), "expected a transport socket's configuration")),
        };
    };
    let path = format!("{path}.typed_config");
    match any::type_name(&config).as_str() {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(Transport::Raw),
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => {
            let tls: UpstreamTlsContext = any::unpack(&config, &path)?;
            Ok(Transport::Tls(TlsTransport(ClientTls::compile(tls, cx.secrets, &path)?)))
        }
        "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport" => {
            let InternalUpstreamTransport { passthrough_metadata, transport_socket } = any::unpack(&config, &path)?;
            let passthrough = passthrough_metadata
                .into_iter()
                .enumerate()
                .map(|(i, MetadataValueSource { kind, name })| {
                    let from_host = match kind.and_then(|k| k.kind) {
                        Some(Kind::Host(_)) => true,
                        Some(Kind::Cluster(_)) => false,
                        _ => {
                            return Err(ConfigError::new(
                                format!("{path}.passthrough_metadata[{i}].kind"),
                                "expected host or cluster",
                            ));
                        }
                    };
                    Ok(Passthrough { from_host, name: name.into() })
                })
                .collect::<Result<_, ConfigError>>()?;
            let inner = compile(transport_socket, cx, &format!("{path}.transport_socket"))?;
            Ok(Transport::Internal { passthrough, inner: Box::new(inner) })
        }
        other => Err(ConfigError::unsupported(format!("{path}: {other}"))),
    }
}
