//! What a listener's update changes: digests of its parts, so that what is the same need not be kept to be known again.
//!
//! A listener of a waypoint has thousands of filter chains and comes anew whenever one of them changes. A digest is 32 bytes where the chain's
//! message is kilobytes.

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256};
use prost::Message;
use waypost_xds::envoy::config::core::v3::Metadata;
use waypost_xds::envoy::config::listener::v3::{FilterChain, Listener};
use waypost_xds::google::protobuf::{Struct, Value, value::Kind};
use waypost_xds::xds::r#type::matcher::v3::Matcher;

/// SHA-256 of a message's bytes.
pub type Digest = [u8; 32];

/// A filter chain, told by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChainKey {
    /// All that the chain is compiled from.
    pub body: Digest,
    /// `filter_chain_match`: whose connections they are. As in Envoy, connections of a chain that matches others now drain.
    pub matching: Digest,
}

/// A listener, told by its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// All but the filter chains and how one is chosen.
    pub shell: Digest,
    /// The filter chains in their order, the default one last, and `filter_chain_matcher`.
    pub chains: Digest,
}

/// The parts of a listener's message that can change in place.
pub struct ChainProtos {
    /// `filter_chains`.
    pub chains: Vec<FilterChain>,
    /// `default_filter_chain`.
    pub default: Option<FilterChain>,
    /// `filter_chain_matcher`.
    pub matcher: Option<Matcher>,
    /// The keys of `chains`, then of `default`.
    pub keys: Vec<ChainKey>,
    /// All that says which chain takes a connection: the matcher, and the chains' names and matches in their order.
    pub choice: Digest,
}

/// Takes the filter chains out of a listener, and says what both parts are.
pub fn split(listener: &mut Listener) -> (Identity, ChainProtos) {
    let mut scratch = Vec::new();
    let mut protos = ChainProtos {
        chains: std::mem::take(&mut listener.filter_chains),
        default: listener.default_filter_chain.take(),
        matcher: listener.filter_chain_matcher.take(),
        keys: Vec::new(),
        choice: Digest::default(),
    };
    let (mut all, mut choice) = (Context::new(&SHA256), Context::new(&SHA256));
    choice.update(&[u8::from(protos.default.is_some()), u8::from(protos.matcher.is_some())]);
    protos.keys.reserve(protos.chains.len() + 1);
    for chain in protos.chains.iter_mut().chain(&mut protos.default) {
        let key = chain_key(chain, &mut scratch);
        all.update(&key.body);
        put_bytes(&mut choice, chain.name.as_bytes());
        choice.update(&key.matching);
        protos.keys.push(key);
    }
    if let Some(matcher) = &protos.matcher {
        // Maps in it are in no order, unless they are inside an extension, as istiod's are. An order that is taken for a change
        // costs the compiling of the matcher, and disturbs nobody.
        scratch.clear();
        encode(matcher, &mut scratch);
        choice.update(&scratch);
    }
    protos.choice = finish(choice);
    all.update(&protos.choice);
    let metadata = listener.metadata.take();
    let mut shell = Context::new(&SHA256);
    scratch.clear();
    encode(listener, &mut scratch);
    shell.update(&scratch);
    put_metadata(&mut shell, metadata.as_ref());
    listener.metadata = metadata;
    (Identity { shell: finish(shell), chains: finish(all) }, protos)
}

fn chain_key(chain: &mut FilterChain, scratch: &mut Vec<u8>) -> ChainKey {
    let (matching, metadata) = (chain.filter_chain_match.take(), chain.metadata.take());
    let mut body = Context::new(&SHA256);
    scratch.clear();
    encode(chain, scratch);
    body.update(scratch);
    put_metadata(&mut body, metadata.as_ref());
    scratch.clear();
    if let Some(m) = &matching {
        // A match without any criterion is not the same bytes as none.
        scratch.push(1);
        encode(m, scratch);
    }
    let mut digest = Context::new(&SHA256);
    digest.update(scratch);
    (chain.filter_chain_match, chain.metadata) = (matching, metadata);
    ChainKey { body: finish(body), matching: finish(digest) }
}

fn encode(message: &impl Message, into: &mut Vec<u8>) {
    // It fails only where there is no room, and a Vec has room.
    let _ = message.encode(into);
}

fn finish(context: Context) -> Digest {
    let mut out = Digest::default();
    out.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

/// Metadata is made of maps, which come in no order; here keys are sorted.
fn put_metadata(digest: &mut Context, metadata: Option<&Metadata>) {
    let Some(Metadata { filter_metadata, typed_filter_metadata }) = metadata else { return digest.update(&[0]) };
    digest.update(&[1]);
    sorted(digest, filter_metadata, put_struct);
    sorted(digest, typed_filter_metadata, |digest, any| put_bytes(digest, &any.encode_to_vec()));
}

fn sorted<T>(digest: &mut Context, map: &HashMap<String, T>, put: impl Fn(&mut Context, &T)) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(k, _)| *k);
    digest.update(&entries.len().to_le_bytes());
    for (key, value) in entries {
        put_bytes(digest, key.as_bytes());
        put(digest, value);
    }
}

fn put_bytes(digest: &mut Context, bytes: &[u8]) {
    digest.update(&bytes.len().to_le_bytes());
    digest.update(bytes);
}

fn put_struct(digest: &mut Context, Struct { fields }: &Struct) {
    sorted(digest, fields, put_value);
}

fn put_value(digest: &mut Context, Value { kind }: &Value) {
    match kind {
        None => digest.update(&[0]),
        Some(Kind::NullValue(_)) => digest.update(&[1]),
        Some(Kind::NumberValue(n)) => {
            digest.update(&[2]);
            digest.update(&n.to_bits().to_le_bytes());
        }
        Some(Kind::StringValue(s)) => {
            digest.update(&[3]);
            put_bytes(digest, s.as_bytes());
        }
        Some(Kind::BoolValue(b)) => digest.update(&[4, u8::from(*b)]),
        Some(Kind::StructValue(s)) => {
            digest.update(&[5]);
            put_struct(digest, s);
        }
        Some(Kind::ListValue(l)) => {
            digest.update(&[6]);
            digest.update(&l.values.len().to_le_bytes());
            l.values.iter().for_each(|v| put_value(digest, v));
        }
    }
}
