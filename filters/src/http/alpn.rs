//! `istio.alpn`: by the protocol that a host is spoken to in, the names that TLS offers it. A sidecar tells HTTP by them from what it has to
//! pass on as it is.

use std::sync::Arc;

use waypost_xds::Error;
use waypost_xds::istio::alpn::FilterConfig;
use waypost_xds::istio::alpn::filter_config::{AlpnOverride, Protocol};

use crate::filter::{HttpFilter, Step};
use crate::stream::HttpStream;

/// ALPN names, in the order of preference.
pub type AlpnNames = Arc<[Vec<u8>]>;

/// What is offered in place of the cluster's own names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlpnOverrides {
    /// For HTTP/1.1.
    pub http1: Option<AlpnNames>,
    /// For HTTP/2.
    pub http2: Option<AlpnNames>,
}

/// The filter. The cluster is known when a host is: until then the stream carries what may be asked for.
#[derive(Clone, Debug)]
pub struct Alpn {
    overrides: Arc<AlpnOverrides>,
}

impl Alpn {
    /// Compiles the filter; none where it overrides nothing. `path` is that of its configuration.
    pub fn compile(config: FilterConfig, path: &str) -> Result<Option<Alpn>, Error> {
        let FilterConfig { alpn_override } = config;
        let mut overrides = AlpnOverrides::default();
        for (i, AlpnOverride { upstream_protocol, alpn_override: names }) in alpn_override.into_iter().enumerate() {
            let path = format!("{path}.alpn_override[{i}]");
            // TLS has one byte for the length of a name, and two for that of all.
            let whole: usize = names.iter().map(|n| n.len() + 1).sum();
            if names.iter().any(|n| n.is_empty() || n.len() > 255) || whole > usize::from(u16::MAX) {
                return Err(Error::new(format!("{path}.alpn_override"), "expected names of 1 to 255 bytes"));
            }
            let place = match Protocol::try_from(upstream_protocol) {
                Ok(Protocol::Http10) => continue, // no host is spoken to in it
                Ok(Protocol::Http11) => &mut overrides.http1,
                Ok(Protocol::Http2) => &mut overrides.http2,
                Err(_) => return Err(Error::new(format!("{path}.upstream_protocol"), "unknown value")),
            };
            // The first of two counts, and a list without names overrides nothing.
            if !names.is_empty() && place.is_none() {
                *place = Some(names.into_iter().map(String::into_bytes).collect());
            }
        }
        Ok((overrides != AlpnOverrides::default()).then(|| Alpn { overrides: Arc::new(overrides) }))
    }
}

impl HttpFilter for Alpn {
    fn on_request(&self, stream: &mut HttpStream) -> Step {
        stream.info.upstream.alpn = Some(self.overrides.clone());
        Step::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_stream;
    use waypost_xds::{json, yaml};

    fn compile(text: &str) -> Result<Option<Alpn>, Error> {
        let config = json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap();
        Alpn::compile(config, "f")
    }

    #[test]
    fn a_stream_carries_the_names_of_each_protocol() {
        let filter = compile(
            "{alpn_override: [{alpn_override: [istio-http/1.0, istio, http/1.0]}, {upstream_protocol: HTTP11, alpn_override: \
             [istio-http/1.1, istio, http/1.1]}, {upstream_protocol: HTTP2, alpn_override: [istio-h2, istio, h2]}]}",
        );
        let mut stream = test_stream(&[]);
        assert!(matches!(filter.unwrap().unwrap().on_request(&mut stream), Step::Continue));
        let AlpnOverrides { http1, http2 } = &**stream.info.upstream.alpn.as_ref().unwrap();
        let names = |list: &Option<AlpnNames>| list.as_ref().unwrap().join(&b' ');
        assert_eq!(
            (names(http1), names(http2)),
            (b"istio-http/1.1 istio http/1.1".to_vec(), b"istio-h2 istio h2".to_vec())
        );
    }

    #[test]
    fn what_overrides_nothing_is_no_filter_and_names_fit_into_tls() {
        assert!(compile("{}").unwrap().is_none());
        assert!(compile("{alpn_override: [{upstream_protocol: HTTP2}, {alpn_override: [a]}]}").unwrap().is_none());
        let error = compile("{alpn_override: [{upstream_protocol: HTTP2, alpn_override: [a, \"\"]}]}").unwrap_err();
        assert_eq!(error.path, "f.alpn_override[0].alpn_override");
    }
}
