//! HTTP filters.

pub mod alpn;
pub mod compressor;
pub mod header_mutation;
pub mod missing_config;
pub mod peer_metadata;
pub mod set_filter_state;
pub mod unsupported;

/// A GET with these headers.
#[cfg(test)]
fn test_stream(headers: &[(&str, &str)]) -> crate::stream::HttpStream {
    use std::sync::Arc;
    use std::time::{Instant, SystemTime};

    let address = crate::address::Address::Ip("10.0.0.1:80".parse().unwrap());
    let connection = Arc::new(crate::connection::Connection::new(address.clone(), address));
    let mut map = ::http::HeaderMap::new();
    for (name, value) in headers {
        map.append(::http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    crate::stream::HttpStream {
        info: crate::stream::StreamInfo::new(connection, 1, Instant::now(), SystemTime::now()),
        request: crate::head::RequestHead {
            method: ::http::Method::GET,
            scheme: crate::head::Scheme::Http,
            authority: None,
            path: Some("/".parse().unwrap()),
            upgrade: None,
            headers: map,
            original_path: None,
        },
        response: None,
        response_trailers: None,
        reroute: false,
        body: Default::default(),
    }
}
