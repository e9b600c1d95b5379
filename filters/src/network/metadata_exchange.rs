//! `istio.metadata_exchange` for TCP: two proxies that negotiated its ALPN protocol tell each other who they are before the first byte of the
//! application. What is here knows nothing of connections: what we say, and where in a stream the peer's words end.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;
use waypost_xds::google::protobuf::{Any, Struct};
use waypost_xds::istio::metadata_exchange::MetadataExchange as Config;

use crate::connection::TlsSession;
use crate::metadata::json_of_struct;

/// What a header begins with.
const MAGIC: [u8; 4] = 0x3D23_0467_u32.to_be_bytes();

/// The magic number and the length.
const HEAD: usize = 8;

/// The longest message that is taken. Names and a few labels have some hundred bytes; Envoy has no limit but its buffer's, and hangs there.
pub const MAX_MESSAGE: usize = 64 * 1024;

const METADATA: &str = "x-envoy-peer-metadata";
const METADATA_ID: &str = "x-envoy-peer-metadata-id";
const STRUCT_URL: &str = "type.googleapis.com/google.protobuf.Struct";

/// A compiled filter, of either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataExchange {
    /// The ALPN protocol that says that the peer takes part.
    pub protocol: String,
    /// What we say, with its header.
    pub header: Bytes,
}

impl MetadataExchange {
    /// Compiles the filter for the node of this id and metadata.
    pub fn compile(config: Config, node_id: &str, metadata: &Value) -> MetadataExchange {
        let Config {
            protocol,
            enable_discovery: _, // another way to know the peer, for telemetry
            additional_labels,
        } = config;
        let mut told = BTreeMap::from([(METADATA.to_owned(), Told::Fields(workload(metadata, &additional_labels)))]);
        put(&mut told, METADATA_ID, node_id);
        let mut value = Vec::new();
        encode(&told, &mut value);
        let message = Any { type_url: STRUCT_URL.to_owned(), value }.encode_to_vec();
        let mut header = BytesMut::with_capacity(HEAD + message.len());
        header.extend_from_slice(&MAGIC);
        header.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        header.extend_from_slice(&message);
        MetadataExchange { protocol, header: header.freeze() }
    }

    /// Whether the peers of a TLS session have agreed to it.
    pub fn agreed(&self, session: &TlsSession) -> bool {
        session.alpn.as_deref().is_some_and(|alpn| alpn == self.protocol)
    }
}

/// What a buffer with the beginning of a stream has in it.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Not enough to tell: more has to be added to the buffer.
    More,
    /// The peer's message, which is not in the buffer any more, or none where the peer sent none. All that is in the buffer is the application's.
    Message(Option<Bytes>),
}

/// The peer sent a message that is longer than [`MAX_MESSAGE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a metadata exchange message of {0} bytes is too long")]
pub struct TooLong(pub u32);

/// Takes the peer's message out of the beginning of a stream. `ended` says that nothing follows what is in the buffer; then it is not `More`.
pub fn take(buffer: &mut BytesMut, ended: bool) -> Result<Taken, TooLong> {
    // Whoever speaks something else is not kept waiting for the rest of a header.
    if !MAGIC.iter().zip(buffer.iter()).all(|(a, b)| a == b) {
        return Ok(Taken::Message(None));
    }
    let mut rest = &buffer[..];
    let (Ok(_), Ok(length)) = (rest.try_get_u32(), rest.try_get_u32()) else {
        return Ok(if ended { Taken::Message(None) } else { Taken::More });
    };
    let wanted = usize::try_from(length).ok().filter(|l| *l <= MAX_MESSAGE).ok_or(TooLong(length))?;
    if rest.len() < wanted {
        if !ended {
            return Ok(Taken::More);
        }
        // The stream was cut short inside the message: none of it is the application's.
        buffer.clear();
        return Ok(Taken::Message(None));
    }
    buffer.advance(HEAD);
    Ok(Taken::Message(Some(buffer.split_to(wanted).freeze())))
}

/// What a message says of the workload that sent it; none where it says nothing, or is none.
pub fn peer(message: &[u8]) -> Option<Value> {
    let Any { type_url, value } = Any::decode(message).ok()?;
    if type_url != STRUCT_URL {
        return None;
    }
    match json_of_struct(Struct::decode(value.as_slice()).ok()?) {
        Value::Object(mut fields) => fields.remove(METADATA),
        _ => None,
    }
}

/// A field of what is told.
enum Told {
    Text(String),
    Fields(BTreeMap<String, Told>),
}

fn put(fields: &mut BTreeMap<String, Told>, key: &str, value: &str) {
    if !value.is_empty() {
        fields.insert(key.to_owned(), Told::Text(value.to_owned()));
    }
}

/// What peers are told of a node's metadata: what telemetry uses of it, not all.
fn workload(metadata: &Value, additional_labels: &[String]) -> BTreeMap<String, Told> {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut out = BTreeMap::new();
    for key in ["NAME", "NAMESPACE", "WORKLOAD_NAME", "CLUSTER_ID", "IDENTITY", "REGION", "AVAILABILITY_ZONE"] {
        put(&mut out, key, text(key));
    }
    let workload = text("WORKLOAD_NAME");
    let kind = text("OWNER").strip_suffix(workload).and_then(|o| o.strip_suffix("s/")?.rsplit('/').next());
    if let Some(kind @ ("pod" | "deployment" | "job" | "cronjob")) = kind {
        let owner = format!("kubernetes://apis/apps/v1/namespaces/{}/{kind}s/{workload}", text("NAMESPACE"));
        put(&mut out, "OWNER", &owner);
    }
    let label = |key: &str| metadata.get("LABELS").and_then(|l| l.get(key)?.as_str()).unwrap_or_default();
    let first = |a: &'static str, b: &'static str| if label(a).is_empty() { label(b) } else { label(a) };
    let mut labels = BTreeMap::new();
    for key in additional_labels {
        put(&mut labels, key, label(key));
    }
    for key in ["service.istio.io/canonical-name", "service.istio.io/canonical-revision"] {
        put(&mut labels, key, label(key));
    }
    put(&mut labels, "app", first("app.kubernetes.io/name", "app"));
    put(&mut labels, "version", first("app.kubernetes.io/version", "version"));
    // It is there even where it is empty.
    out.insert("LABELS".to_owned(), Told::Fields(labels));
    out
}

/// The wire form of a `google.protobuf.Struct`, with its fields in order: the same node says the same bytes.
fn encode(fields: &BTreeMap<String, Told>, out: &mut Vec<u8>) {
    for (key, told) in fields {
        let mut value = Vec::new();
        match told {
            Told::Text(text) => delimited(3, text.as_bytes(), &mut value),
            Told::Fields(fields) => {
                let mut inner = Vec::new();
                encode(fields, &mut inner);
                delimited(5, &inner, &mut value);
            }
        }
        let mut entry = Vec::new();
        delimited(1, key.as_bytes(), &mut entry);
        delimited(2, &value, &mut entry);
        delimited(1, &entry, out);
    }
}

fn delimited(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Value {
        json!({
            "NAME": "gw-1", "NAMESPACE": "ns", "WORKLOAD_NAME": "gw", "CLUSTER_ID": "Kubernetes", "MESH_ID": "m", "INSTANCE_IPS": "1.2.3.4",
            "OWNER": "kubernetes://apis/apps/v1/namespaces/ns/deployments/gw",
            "LABELS": {"app": "old", "app.kubernetes.io/name": "new", "version": "v1", "team": "t", "service.istio.io/canonical-name": "gw"},
        })
    }

    fn ours(labels: &[&str]) -> MetadataExchange {
        let additional_labels = labels.iter().map(|l| (*l).to_owned()).collect();
        let config = Config { protocol: "istio-peer-exchange".into(), enable_discovery: true, additional_labels };
        MetadataExchange::compile(config, "router~1.2.3.4~gw-1.ns~ns", &node())
    }

    #[test]
    fn peers_are_told_what_telemetry_uses() {
        let mut stream = BytesMut::from(&ours(&["team", "none"]).header[..]);
        let Ok(Taken::Message(Some(message))) = take(&mut stream, false) else { panic!() };
        let expected = json!({
            "NAME": "gw-1", "NAMESPACE": "ns", "WORKLOAD_NAME": "gw", "CLUSTER_ID": "Kubernetes",
            "OWNER": "kubernetes://apis/apps/v1/namespaces/ns/deployments/gw",
            "LABELS": {"app": "new", "version": "v1", "team": "t", "service.istio.io/canonical-name": "gw"},
        });
        assert_eq!(peer(&message), Some(expected));
        let any = Any::decode(&message[..]).unwrap();
        let all = json_of_struct(Struct::decode(&any.value[..]).unwrap());
        assert_eq!(all["x-envoy-peer-metadata-id"], "router~1.2.3.4~gw-1.ns~ns");
        assert_eq!(ours(&[]), ours(&[]), "the same node says the same bytes");
    }

    #[test]
    fn a_node_that_says_nothing_of_itself_still_sends_a_header() {
        let config = Config { protocol: "p".into(), ..Config::default() };
        let filter = MetadataExchange::compile(config, "", &Value::Null);
        assert_eq!(filter.header[..4], [0x3d, 0x23, 0x04, 0x67]);
        assert_eq!(filter.header.len(), HEAD + usize::from(filter.header[7]));
        assert_eq!(peer(&filter.header[HEAD..]), Some(json!({"LABELS": {}})));
        let session = |alpn: &str| TlsSession { alpn: Some(alpn.into()), ..TlsSession::default() };
        assert!(filter.agreed(&session("p")) && !filter.agreed(&session("h2")));
        assert!(!filter.agreed(&TlsSession::default()));
    }

    /// Feeds a stream in pieces: what is the peer's, and what is the application's.
    fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Option<Bytes>, Vec<u8>) {
        let (mut buffer, mut found) = (BytesMut::new(), None);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            if found.is_none()
                && let Taken::Message(message) = take(&mut buffer, false).unwrap()
            {
                found = Some(message);
            }
        }
        let message = found.unwrap_or_else(|| match take(&mut buffer, true) {
            Ok(Taken::Message(message)) => message,
            other => panic!("{other:?}"),
        });
        (message, buffer.to_vec())
    }

    #[test]
    fn a_header_is_found_however_it_comes() {
        let header = ours(&[]).header;
        let message = Some(header.slice(HEAD..));
        let stream = [&header[..], b"data"].concat();
        assert_eq!(feed([&stream[..]]), (message.clone(), b"data".to_vec()));
        assert_eq!(feed(stream.chunks(1)), (message.clone(), b"data".to_vec()));
        assert_eq!(feed(header.chunks(3)), (message, Vec::new()));
        let empty = [&MAGIC[..], &[0; 4], b"x"].concat();
        assert_eq!(feed([&empty[..]]), (Some(Bytes::new()), b"x".to_vec()));
        assert_eq!(peer(b""), None);
        assert_eq!(peer(&[0xff; 9]), None);
    }

    #[test]
    fn what_is_no_header_is_the_applications_at_once() {
        for text in ["x", "GET / HTTP/1.1\r\n", "=#\x04x", "=#\x04\x68 and more"] {
            let mut buffer = BytesMut::from(text);
            assert_eq!(take(&mut buffer, false), Ok(Taken::Message(None)), "{text:?}");
            assert_eq!(buffer, text);
        }
        assert_eq!(take(&mut BytesMut::new(), true), Ok(Taken::Message(None)));
    }

    #[test]
    fn a_stream_that_ends_inside_a_header_is_data_and_inside_a_message_is_not() {
        let header = ours(&[]).header;
        assert_eq!(feed([&header[..5]]), (None, header[..5].to_vec()));
        assert_eq!(feed([&header[..HEAD + 3]]), (None, Vec::new()));
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_comes() {
        let head = |length: u32| BytesMut::from(&[MAGIC, length.to_be_bytes()].concat()[..]);
        assert_eq!(take(&mut head(65536), false), Ok(Taken::More));
        assert_eq!(take(&mut head(65537), false), Err(TooLong(65537)));
        assert_eq!(take(&mut head(u32::MAX), true), Err(TooLong(u32::MAX)));
    }
}
