//! What connections to the hosts of a cluster depend on, as one number.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use prost::Message;
use waypost_filters::metadata::json_of_struct;
use waypost_xds::envoy::config::cluster::v3::UpstreamConnectionOptions;
use waypost_xds::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::google::protobuf::{Any, Duration, UInt32Value};

/// The fields of a cluster that connections depend on.
pub struct Parts<'a> {
    pub transport_socket_matches: &'a [TransportSocketMatch],
    pub transport_socket: Option<&'a core::TransportSocket>,
    pub typed: &'a HashMap<String, Any>,
    pub common: Option<&'a core::HttpProtocolOptions>,
    pub upstream: Option<&'a core::UpstreamHttpProtocolOptions>,
    pub h1: Option<&'a core::Http1ProtocolOptions>,
    pub h2: Option<&'a core::Http2ProtocolOptions>,
    pub protocol_selection: i32,
    pub max_requests_per_connection: Option<UInt32Value>,
    pub connect_timeout: Option<&'a Duration>,
    pub buffer_limit: Option<UInt32Value>,
    pub bind: Option<&'a core::BindConfig>,
    pub options: Option<&'a UpstreamConnectionOptions>,
}

struct Parted(DefaultHasher);

impl Parted {
    /// Each part with its length, so that two lists never read alike.
    fn part(&mut self, bytes: &[u8]) {
        self.0.write_usize(bytes.len());
        self.0.write(bytes);
    }

    fn message<M: Message>(&mut self, message: Option<&M>) {
        self.0.write_u8(message.is_some().into());
        self.part(&message.map(Message::encode_to_vec).unwrap_or_default());
    }
}

/// A hash over the parts.
pub fn hash(parts: &Parts<'_>) -> u64 {
    let Parts {
        transport_socket_matches,
        transport_socket,
        typed,
        common,
        upstream,
        h1,
        h2,
        protocol_selection,
        max_requests_per_connection,
        connect_timeout,
        buffer_limit,
        bind,
        options,
    } = parts;
    let mut out = Parted(DefaultHasher::new());
    out.0.write_usize(transport_socket_matches.len());
    for TransportSocketMatch { name: _, r#match, transport_socket } in *transport_socket_matches {
        // A struct is a map, whose wire form has no order.
        out.part(r#match.clone().map(json_of_struct).unwrap_or_default().to_string().as_bytes());
        out.message(transport_socket.as_ref());
    }
    out.message(*transport_socket);
    let mut typed: Vec<_> = typed.iter().collect();
    typed.sort_by_key(|(name, _)| *name);
    for (name, config) in typed {
        out.part(name.as_bytes());
        out.message(Some(config));
    }
    out.message(*common);
    out.message(*upstream);
    out.message(*h1);
    out.message(*h2);
    out.0.write_i32(*protocol_selection);
    out.message(max_requests_per_connection.as_ref());
    out.message(*connect_timeout);
    out.message(buffer_limit.as_ref());
    out.message(*bind);
    out.message(*options);
    out.0.finish()
}
