//! `RedirectAction` and `require_tls`.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use waypost_filters::head::RequestHead;
use waypost_filters::matcher::RegexRewrite;
use waypost_filters::stream::HttpStream;
use waypost_xds::envoy::config::route::v3::RedirectAction;
use waypost_xds::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};

use super::matching::Condition;
use super::rewrite::{self, PathRewrite};
use crate::config::ConfigError;

/// An answer that sends the client elsewhere.
#[derive(Debug)]
pub struct Redirect {
    /// `response_code`
    pub status: StatusCode,
    scheme: Option<Box<[u8]>>,
    host: Option<Box<[u8]>>,
    /// `:port`, printed even if it is the scheme's own.
    port: Box<[u8]>,
    path: PathRedirect,
    strip_query: bool,
}

#[derive(Debug)]
enum PathRedirect {
    /// `path_redirect`
    Literal(Box<[u8]>),
    Rewrite(PathRewrite),
}

impl Redirect {
    pub(super) fn compile(config: RedirectAction, path: &str) -> Result<Redirect, ConfigError> {
        let RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = config;
        let status = match RedirectResponseCode::try_from(response_code) {
            Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
            Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
            Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
            Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
            Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
            Err(_) => return Err(ConfigError::new(format!("{path}.response_code"), "not a redirect response code")),
        };
        let value = |s: String, field: &str| match HeaderValue::from_str(&s) {
            Ok(_) => Ok(s.into_bytes().into_boxed_slice()),
            Err(_) => Err(ConfigError::new(format!("{path}.{field}"), "not a header value")),
        };
        let scheme = match scheme_rewrite_specifier {
            None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some(b"https"[..].into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(s)) if s.is_empty() => None,
            Some(SchemeRewriteSpecifier::SchemeRedirect(s)) => Some(value(s, "scheme_redirect")?),
        };
        let path_redirect = match path_rewrite_specifier {
            None => PathRedirect::Rewrite(PathRewrite::None),
            Some(PathRewriteSpecifier::PathRedirect(s)) if s.is_empty() => PathRedirect::Rewrite(PathRewrite::None),
            Some(PathRewriteSpecifier::PathRedirect(s)) => PathRedirect::Literal(value(s, "path_redirect")?),
            Some(PathRewriteSpecifier::PrefixRewrite(s)) if s.is_empty() => PathRedirect::Rewrite(PathRewrite::None),
            Some(PathRewriteSpecifier::PrefixRewrite(s)) => {
                PathRedirect::Rewrite(PathRewrite::Prefix(value(s, "prefix_rewrite")?))
            }
            Some(PathRewriteSpecifier::RegexRewrite(r)) => {
                let regex = RegexRewrite::compile(r, &format!("{path}.regex_rewrite"))?;
                PathRedirect::Rewrite(PathRewrite::Regex(regex))
            }
            Some(PathRewriteSpecifier::PathRewrite(_)) => {
                return Err(ConfigError::unsupported(format!("{path}.path_rewrite")));
            }
        };
        Ok(Redirect {
            status,
            scheme,
            host: Some(value(host_redirect, "host_redirect")?).filter(|h| !h.is_empty()),
            port: match port_redirect {
                0 => Box::default(),
                port => format!(":{port}").into_bytes().into(),
            },
            path: path_redirect,
            strip_query,
        })
    }

    /// What `require_tls` does.
    pub(super) fn to_https() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: Some(b"https"[..].into()),
            host: None,
            port: Box::default(),
            path: PathRedirect::Rewrite(PathRewrite::None),
            strip_query: false,
        }
    }

    pub(super) fn location(
        &self,
        condition: &Condition,
        stream: &mut HttpStream,
        keep_original: bool,
    ) -> Option<HeaderValue> {
        let request = &mut stream.request;
        if let PathRedirect::Rewrite(rewrite) = &self.path
            && let Some(path) = rewrite.apply(condition, request)
        {
            rewrite::set_path(request, path, keep_original);
        }
        let whole = request.path.as_ref()?.as_bytes();
        let bare = request.path_without_query();
        let query = whole.get(bare.len()..).unwrap_or_default();
        let (path, query): (&[u8], &[u8]) = match &self.path {
            // A query of its own takes the place of the request's, and is not stripped.
            PathRedirect::Literal(p) if p.contains(&b'?') => (p, &[]),
            PathRedirect::Literal(p) => (p, query),
            PathRedirect::Rewrite(_) => (bare, query),
        };
        let query = if self.strip_query { &[] } else { query };
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme.as_str().as_bytes());
        let host = self.host.as_deref().unwrap_or_else(|| host_for(request, scheme, !self.port.is_empty()));
        let url = [scheme, b"://", host, &self.port, path, query].concat();
        HeaderValue::from_maybe_shared(Bytes::from(url)).ok()
    }
}

/// The request's host, without its port if another one follows, or if it is the default port of the scheme that is left behind.
fn host_for<'a>(request: &'a RequestHead, new_scheme: &[u8], new_port: bool) -> &'a [u8] {
    let host = request.authority_bytes();
    let port_at = if host.first() == Some(&b'[') {
        memchr::memmem::rfind(host, b"]:").map(|at| at + 1)
    } else {
        memchr::memrchr(b':', host)
    };
    let Some((bare, port)) = port_at.and_then(|at| host.split_at_checked(at)) else { return host };
    // Envoy goes by x-forwarded-proto: the scheme may be another where TLS ends before us.
    let old_scheme = match request.headers.get("x-forwarded-proto") {
        Some(v) => v.as_bytes(),
        None => request.scheme.as_str().as_bytes(),
    };
    let default = old_scheme == b"https" && port == b":443" || old_scheme == b"http" && port == b":80";
    if new_port || new_scheme != old_scheme && default { bare } else { host }
}
