//! `request_headers_to_add`, `response_headers_to_remove` and their kin (`HeaderValueOption`).

use crate::stream::HttpStream;
use waypost_xds::envoy::config::core::v3::HeaderValueOption;

/// A header rule that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct HeaderOpsError {
    /// The field.
    pub path: String,
    /// Why, in Envoy's words.
    pub reason: String,
}

/// Compiled header rules of one place (a route, a virtual host, a route configuration).
#[derive(Clone, Debug, Default)]
pub struct HeaderOps {}

impl HeaderOps {
    /// Compiles `…_headers_to_add` and `…_headers_to_remove`; `path` is that of the message which holds them.
    pub fn compile(
        _add: Vec<HeaderValueOption>,
        _remove: Vec<String>,
        _path: &str,
    ) -> Result<HeaderOps, HeaderOpsError> {
        Ok(HeaderOps {})
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Changes the request of a stream.
    pub fn apply_request(&self, _stream: &mut HttpStream) {}

    /// Changes the response of a stream, if there is one.
    pub fn apply_response(&self, _stream: &mut HttpStream) {}
}

/// The rules of route, virtual host and route configuration, in the order in which they are applied.
#[derive(Clone, Debug, Default)]
pub struct HeaderOpsChain {}

impl HeaderOpsChain {
    /// Combines rules given from the most specific (route, or weighted cluster) to the least (route configuration);
    /// `most_specific_wins` is `most_specific_header_mutations_wins`.
    pub fn new(_most_specific_first: impl IntoIterator<Item = HeaderOps>, _most_specific_wins: bool) -> HeaderOpsChain {
        HeaderOpsChain {}
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Changes the request of a stream.
    pub fn apply_request(&self, _stream: &mut HttpStream) {}

    /// Changes the response of a stream, if there is one.
    pub fn apply_response(&self, _stream: &mut HttpStream) {}
}
