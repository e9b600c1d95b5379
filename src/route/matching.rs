//! `RouteMatch`: whether a request is a route's.

use waypost_filters::matcher::{
    CookieMatcher, FilterStateMatcher, FractionalPercent, HeaderMatcher, MetadataMatcher, QueryMatcher, Regex,
};
use waypost_filters::stream::HttpStream;
use waypost_xds::envoy::config::route::v3 as proto;
use waypost_xds::envoy::config::route::v3::route_match::{
    ConnectMatcher, GrpcRouteMatchOptions, PathSpecifier, TlsContextMatchOptions,
};

use crate::config::ConfigError;

/// A compiled `RouteMatch`.
#[derive(Debug)]
pub(super) struct Condition {
    path: PathMatch,
    case_sensitive: bool,
    /// Everything but the path; most routes have nothing of it.
    more: Option<Box<More>>,
}

#[derive(Debug)]
enum PathMatch {
    Prefix(Box<[u8]>),
    /// Equal, or continued by `/`.
    Separated(Box<[u8]>),
    Exact(Box<[u8]>),
    Regex(Regex),
    Connect,
}

#[derive(Debug, Default)]
struct More {
    fraction: Option<FractionalPercent>,
    headers: Box<[HeaderMatcher]>,
    query: Box<[QueryMatcher]>,
    cookies: Box<[CookieMatcher]>,
    grpc: bool,
    tls_presented: Option<bool>,
    tls_validated: Option<bool>,
    metadata: Box<[MetadataMatcher]>,
    filter_state: Box<[FilterStateMatcher]>,
}

impl Condition {
    pub fn compile(config: proto::RouteMatch, path: &str) -> Result<Condition, ConfigError> {
        let proto::RouteMatch {
            case_sensitive,
            runtime_fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
            path_specifier,
        } = config;
        let TlsContextMatchOptions { presented, validated } = tls_context.unwrap_or_default();
        let more = More {
            fraction: runtime_fraction
                .map(|f| FractionalPercent::compile_runtime(f, &format!("{path}.runtime_fraction")))
                .transpose()?,
            headers: HeaderMatcher::compile_all(headers, &format!("{path}.headers"))?,
            query: each(query_parameters, path, "query_parameters", QueryMatcher::compile)?,
            cookies: each(cookies, path, "cookies", CookieMatcher::compile)?,
            grpc: matches!(grpc, Some(GrpcRouteMatchOptions {})),
            tls_presented: presented.map(|b| b.value),
            tls_validated: validated.map(|b| b.value),
            metadata: each(dynamic_metadata, path, "dynamic_metadata", MetadataMatcher::compile)?,
            filter_state: each(filter_state, path, "filter_state", FilterStateMatcher::compile)?,
        };
        let bytes = |s: String| s.into_bytes().into_boxed_slice();
        let path_match = match path_specifier {
            Some(PathSpecifier::Prefix(s)) => PathMatch::Prefix(bytes(s)),
            Some(PathSpecifier::Path(s)) => PathMatch::Exact(bytes(s)),
            Some(PathSpecifier::PathSeparatedPrefix(s)) => {
                if s.len() < 2 || s.ends_with('/') || s.contains(['?', '#']) {
                    let reason = "value does not match regex pattern \"^[^?#]+[^?#/]$\"";
                    return Err(ConfigError::new(format!("{path}.path_separated_prefix"), reason));
                }
                PathMatch::Separated(bytes(s))
            }
            Some(PathSpecifier::SafeRegex(r)) => PathMatch::Regex(Regex::compile(r, &format!("{path}.safe_regex"))?),
            Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})) => PathMatch::Connect,
            Some(PathSpecifier::PathMatchPolicy(_)) => {
                return Err(ConfigError::unsupported(format!("{path}.path_match_policy")));
            }
            None => return Err(ConfigError::new(format!("{path}.path_specifier"), "value is required")),
        };
        Ok(Condition {
            path: path_match,
            case_sensitive: case_sensitive.is_none_or(|b| b.value),
            more: (!more.is_empty()).then(|| Box::new(more)),
        })
    }

    /// A condition that every request meets.
    pub fn always() -> Condition {
        Condition { path: PathMatch::Prefix(Box::default()), case_sensitive: true, more: None }
    }

    /// Whether a stream matches; `path` is the one to match, without its query.
    pub fn matches(&self, stream: &HttpStream, path: &[u8], random: u64) -> bool {
        self.matches_path(stream, path) && self.more.as_ref().is_none_or(|m| m.matches(stream, random))
    }

    fn matches_path(&self, stream: &HttpStream, path: &[u8]) -> bool {
        if let PathMatch::Connect = self.path {
            return stream.request.is_connect();
        }
        if stream.request.path.is_none() {
            return false;
        }
        let starts = |p: &[u8]| match self.case_sensitive {
            true => path.starts_with(p),
            false => path.get(..p.len()).is_some_and(|start| start.eq_ignore_ascii_case(p)),
        };
        match &self.path {
            PathMatch::Prefix(p) => starts(p),
            PathMatch::Separated(p) => starts(p) && path.get(p.len()).is_none_or(|b| *b == b'/'),
            PathMatch::Exact(p) => path.len() == p.len() && starts(p),
            PathMatch::Regex(r) => r.is_match(path),
            PathMatch::Connect => false,
        }
    }

    /// What the path must start with, byte for byte; for the index.
    pub fn literal(&self) -> Option<&[u8]> {
        match &self.path {
            PathMatch::Prefix(p) | PathMatch::Separated(p) | PathMatch::Exact(p) if self.case_sensitive => Some(p),
            _ => None,
        }
    }

    /// How much of a path (without query) a `prefix_rewrite` replaces: the literal, or all of it.
    pub fn matched_len(&self, path: &[u8]) -> usize {
        match &self.path {
            PathMatch::Prefix(p) | PathMatch::Separated(p) | PathMatch::Exact(p) => p.len().min(path.len()),
            PathMatch::Regex(_) | PathMatch::Connect => path.len(),
        }
    }
}

impl More {
    fn is_empty(&self) -> bool {
        let More { fraction, headers, query, cookies, grpc, tls_presented, tls_validated, metadata, filter_state } =
            self;
        fraction.is_none()
            && headers.is_empty()
            && query.is_empty()
            && cookies.is_empty()
            && !grpc
            && tls_presented.is_none()
            && tls_validated.is_none()
            && metadata.is_empty()
            && filter_state.is_empty()
    }

    fn matches(&self, stream: &HttpStream, random: u64) -> bool {
        let request = &stream.request;
        let tls = stream.info.connection.tls.as_deref();
        self.fraction.is_none_or(|f| f.matches(random))
            && (!self.grpc || request.is_grpc())
            && self.headers.iter().all(|m| m.matches(request))
            && self.query.iter().all(|m| m.matches(request.path_bytes()))
            && self.cookies.iter().all(|m| m.matches(request))
            && self.tls_presented.is_none_or(|wanted| tls.is_some_and(|t| t.peer.is_some()) == wanted)
            && self.tls_validated.is_none_or(|wanted| tls.is_some_and(|t| t.peer_validated) == wanted)
            && self.metadata.iter().all(|m| m.matches(&stream.info.metadata))
            && self.filter_state.iter().all(|m| m.matches(stream.info.object(&m.key)))
    }
}

fn each<P, M, E: Into<ConfigError>>(
    items: Vec<P>,
    path: &str,
    field: &str,
    compile: impl Fn(P, &str) -> Result<M, E>,
) -> Result<Box<[M]>, ConfigError> {
    let one = |(i, item)| compile(item, &format!("{path}.{field}[{i}]")).map_err(Into::into);
    items.into_iter().enumerate().map(one).collect()
}
