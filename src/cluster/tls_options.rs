//! What a stream asks of the TLS of its upstream connections, beside what the cluster's context says (Envoy's transport socket options).

use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

use waypost_filters::filter_state::Object;
use waypost_filters::head::RequestHead;
use waypost_filters::http::alpn::AlpnNames;
use waypost_filters::stream::StreamInfo;

use super::connect::KEYS;
use super::{Cluster, Host};

/// What is asked for. It is part of a pool's key: a connection that was made for one name, or is something else to the host, is no other's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// The server name, in place of the context's.
    pub sni: Option<Arc<str>>,
    /// The ALPN names, in place of the context's.
    pub alpn: Option<AlpnNames>,
}

/// What will be spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// What somebody else says.
    Bytes,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Either of the two; the host chooses.
    Http,
}

impl Speaks {
    /// The ALPN names to offer where neither the stream nor the context has any.
    pub fn alpn(self) -> Option<&'static [Vec<u8>]> {
        static NAMES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [b"h2".to_vec(), b"http/1.1".to_vec()]);
        match self {
            Speaks::Bytes => None,
            Speaks::Http1 => NAMES.get(1..),
            Speaks::Http2 => NAMES.get(..1),
            Speaks::Http => Some(&*NAMES),
        }
    }
}

impl TlsOptions {
    /// What filter state says (`envoy.network.upstream_server_name`, `envoy.network.application_protocols`).
    pub fn of(host: &Host, info: &StreamInfo) -> TlsOptions {
        if !host.transport.is_tls() || (info.filter_state.is_empty() && info.connection.filter_state.is_empty()) {
            return TlsOptions::default();
        }
        let text = |key| match info.object(key) {
            Some(Object::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        TlsOptions {
            sni: text("envoy.network.upstream_server_name").cloned(),
            alpn: text("envoy.network.application_protocols").and_then(|names| {
                let names = names.split(',').map(|n| n.as_bytes().to_vec());
                // A name that TLS has no room for would end every handshake.
                let names: Vec<_> = names.filter(|n| (1..=255).contains(&n.len())).take(256).collect();
                (!names.is_empty()).then(|| names.into())
            }),
        }
    }

    /// What a request asks for: what filter state says, `auto_sni`, and what the filter `istio.alpn` says for the protocol that will be spoken.
    pub fn of_request(cluster: &Cluster, host: &Host, head: &RequestHead, info: &StreamInfo, h2: bool) -> TlsOptions {
        let mut options = TlsOptions::of(host, info);
        if !host.transport.is_tls() {
            return options;
        }
        if cluster.http.auto_sni && options.sni.is_none() {
            options.sni = std::str::from_utf8(head.authority_bytes()).ok().map(|authority| host_of(authority).into());
        }
        if let Some(overrides) = &info.upstream.alpn
            && let Some(names) = if h2 { &overrides.http2 } else { &overrides.http1 }
            && cluster.metadata.at("istio", ["alpn_override"]).and_then(|v| v.as_str()) != Some("false")
        {
            options.alpn = Some(names.clone());
        }
        options
    }

    /// Its hash in a pool's key; 0 where nothing is asked for.
    pub fn key(&self) -> u64 {
        match self {
            TlsOptions { sni: None, alpn: None } => 0,
            some => KEYS.hash_one(some).max(1),
        }
    }
}

/// An authority without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_tells_pools_apart() {
        let options = |sni: Option<&str>, alpn: Option<&[&str]>| TlsOptions {
            sni: sni.map(Arc::from),
            alpn: alpn.map(|a| a.iter().map(|n| n.as_bytes().to_vec()).collect()),
        };
        let all = [
            options(None, None),
            options(Some("a"), None),
            options(Some("b"), None),
            options(None, Some(&["a"])),
            options(None, Some(&["a", "b"])),
            options(Some("a"), Some(&["a"])),
        ];
        let keys: std::collections::HashSet<u64> = all.iter().map(TlsOptions::key).collect();
        assert_eq!((keys.len(), TlsOptions::default().key()), (all.len(), 0));
        assert_eq!(all[4].key(), options(None, Some(&["a", "b"])).key());
    }

    #[test]
    fn each_protocol_has_its_names() {
        let names = |speaks: Speaks| speaks.alpn().map(|n| n.join(&b' '));
        assert_eq!(names(Speaks::Bytes), None);
        assert_eq!(names(Speaks::Http1), Some(b"http/1.1".to_vec()));
        assert_eq!(names(Speaks::Http2), Some(b"h2".to_vec()));
        assert_eq!(names(Speaks::Http), Some(b"h2 http/1.1".to_vec()));
    }

    #[test]
    fn an_authority_is_a_name_with_or_without_a_port() {
        for (authority, host) in [("a.b:80", "a.b"), ("a.b", "a.b"), ("[::1]:80", "::1"), (":80", ":80")] {
            assert_eq!(host_of(authority), host);
        }
    }
}
