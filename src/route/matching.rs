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

    /// Why a stream does not match; none if it does.
    pub fn explain(&self, stream: &HttpStream, path: &[u8], random: u64) -> Option<String> {
        if !self.matches_path(stream, path) {
            return Some(match &self.path {
                PathMatch::Connect => format!("it is for CONNECT, and this is {}", stream.request.method),
                wanted => format!("path {wanted}{}", if self.case_sensitive { "" } else { " in any case" }),
            });
        }
        self.more.as_ref()?.explain(stream, random)
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

impl std::fmt::Display for PathMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy;
        match self {
            PathMatch::Prefix(p) => write!(f, "prefix {:?}", text(p)),
            PathMatch::Separated(p) => write!(f, "path_separated_prefix {:?}", text(p)),
            PathMatch::Exact(p) => write!(f, "exact {:?}", text(p)),
            PathMatch::Regex(r) => write!(f, "regex {r}"),
            PathMatch::Connect => f.write_str("CONNECT"),
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.path, if self.case_sensitive { "" } else { " in any case" })?;
        let Some(more) = &self.more else { return Ok(()) };
        more.headers.iter().try_for_each(|m| write!(f, ", header {m}"))?;
        more.query.iter().try_for_each(|m| write!(f, ", query parameter {m}"))?;
        more.cookies.iter().try_for_each(|m| write!(f, ", cookie {m}"))?;
        if let Some(p) = more.fraction {
            write!(f, ", {} of {} requests", p.numerator, p.denominator)?;
        }
        let rest: [(bool, &str); 5] = [
            (more.grpc, "gRPC"),
            (more.tls_presented.is_some(), "tls_context.presented"),
            (more.tls_validated.is_some(), "tls_context.validated"),
            (!more.metadata.is_empty(), "dynamic_metadata"),
            (!more.filter_state.is_empty(), "filter_state"),
        ];
        rest.iter().filter(|(set, _)| *set).try_for_each(|(_, what)| write!(f, ", {what}"))
    }
}

impl More {
    /// What of [`More::matches`] does not hold.
    fn explain(&self, stream: &HttpStream, random: u64) -> Option<String> {
        let request = &stream.request;
        if let Some(p) = self.fraction.filter(|f| !f.matches(random)) {
            return Some(format!("random {random} is not among {} of {}", p.numerator, p.denominator));
        }
        if self.grpc && !request.is_grpc() {
            return Some("it is for gRPC".to_owned());
        }
        if let Some(m) = self.headers.iter().find(|m| !m.matches(request)) {
            let seen = m.seen(request);
            let seen = if seen.is_empty() { "it is missing".to_owned() } else { format!("it is {}", seen.join(", ")) };
            return Some(format!("header {m}: {seen}"));
        }
        if let Some(m) = self.query.iter().find(|m| !m.matches(request.path_bytes())) {
            return Some(format!("query parameter {m}"));
        }
        if let Some(m) = self.cookies.iter().find(|m| !m.matches(request)) {
            return Some(format!("cookie {m}"));
        }
        (!self.matches(stream, random)).then(|| "tls_context, dynamic_metadata or filter_state".to_owned())
    }

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
