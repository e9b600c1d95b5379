//! `io.istio.http.peer_metadata`: the part of it that traffic is changed by. The headers by which proxies tell each other who they are end
//! where they are read, and where a proxy would set its own in their place.

use crate::filter::{HttpFilter, Step};
use crate::stream::HttpStream;
use ::http::{HeaderMap, HeaderName};
use waypost_xds::istio::peer_metadata::Config;
use waypost_xds::istio::peer_metadata::config::discovery_method::MethodSpecifier as Discover;
use waypost_xds::istio::peer_metadata::config::propagation_method::MethodSpecifier as Propagate;
use waypost_xds::istio::peer_metadata::config::{DiscoveryMethod, PropagationMethod};

const HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-envoy-peer-metadata"), HeaderName::from_static("x-envoy-peer-metadata-id")];

/// The filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerMetadata {
    from_requests: bool,
    from_responses: bool,
}

impl PeerMetadata {
    /// Compiles the filter; none where it changes no message.
    pub fn compile(config: Config) -> Option<PeerMetadata> {
        let Config {
            downstream_discovery,
            upstream_discovery,
            downstream_propagation,
            upstream_propagation,
            shared_with_upstream: _, // for telemetry, as are the labels
            additional_labels: _,
        } = config;
        let read = |methods: &[DiscoveryMethod]| {
            methods.iter().any(|m| matches!(m.method_specifier, Some(Discover::IstioHeaders(_))))
        };
        let told = |methods: &[PropagationMethod]| {
            methods.iter().any(|m| matches!(m.method_specifier, Some(Propagate::IstioHeaders(_))))
        };
        let filter = PeerMetadata {
            from_requests: read(&downstream_discovery) || told(&upstream_propagation),
            from_responses: read(&upstream_discovery) || told(&downstream_propagation),
        };
        (filter.from_requests || filter.from_responses).then_some(filter)
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in &HEADERS {
        headers.remove(name);
    }
}

impl HttpFilter for PeerMetadata {
    fn on_request(&self, stream: &mut HttpStream) -> Step {
        if self.from_requests {
            strip(&mut stream.request.headers);
        }
        Step::Continue
    }

    fn on_response(&self, stream: &mut HttpStream) {
        if let (true, Some(response)) = (self.from_responses, &mut stream.response) {
            strip(&mut response.headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::ResponseHead;
    use crate::http::test_stream;
    use waypost_xds::{json, yaml};

    fn compile(text: &str) -> Option<PeerMetadata> {
        PeerMetadata::compile(json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap())
    }

    #[test]
    fn a_gateway_lets_nothing_of_peers_through_and_a_waypoint_reads_no_headers() {
        let gateway = compile(
            "{upstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], upstream_propagation: [{istio_headers: {}}]}",
        );
        let filter = gateway.unwrap();
        let mut stream = test_stream(&[("x-envoy-peer-metadata", "a"), ("x-envoy-peer-metadata-id", "b"), ("x", "1")]);
        let mut response = ResponseHead::default();
        response.headers.insert("x-envoy-peer-metadata", "a".parse().unwrap());
        stream.response = Some(response);
        assert!(matches!(filter.on_request(&mut stream), Step::Continue));
        filter.on_response(&mut stream);
        assert_eq!((stream.request.headers.len(), stream.response.unwrap().headers.len()), (1, 0));
        assert_eq!(compile("{upstream_discovery: [{workload_discovery: {}}]}"), None);
    }
}
