//! The configuration of a compressor.

use std::sync::Arc;

use waypost_xds::any;
use waypost_xds::envoy::config::core::v3::{RuntimeFeatureFlag, TypedExtensionConfig};
use waypost_xds::envoy::extensions::filters::http::compressor::v3 as proto;
use waypost_xds::envoy::extensions::filters::http::compressor::v3::compressor::{
    CommonDirectionConfig, RequestDirectionConfig, ResponseDirectionConfig,
};

use super::gzip::Gzip;
use super::{Compressor, EtagRule, Rules, Types};
use crate::matcher::{MatcherError, StringMatcher};
use crate::stats::{Counter, Scope};

/// Libraries that are known and not built: their compressors are passed over, and are no choice for anybody.
pub const NOT_BUILT: &[&str] = &[
    "envoy.extensions.compression.brotli.compressor.v3.Brotli",
    "envoy.extensions.compression.zstd.compressor.v3.Zstd",
];

const GZIP: &str = "envoy.extensions.compression.gzip.compressor.v3.Gzip";

/// Envoy's `min_content_length`.
const MIN_LENGTH: u64 = 30;

/// Envoy's `content_type`.
const TYPES: [&str; 20] = [
    "text/html",
    "text/plain",
    "text/css",
    "application/javascript",
    "application/x-javascript",
    "text/javascript",
    "text/x-javascript",
    "text/ecmascript",
    "text/js",
    "text/jscript",
    "text/x-js",
    "application/ecmascript",
    "application/x-json",
    "application/xml",
    "application/json",
    "image/svg+xml",
    "text/xml",
    "application/xhtml+xml",
    "application/grpc-web",
    "application/grpc-web+proto",
];

/// What becomes of a configuration.
#[derive(Debug)]
pub enum Compiled {
    /// The filter, and the fields, named from its configuration on, that are set and have no effect.
    Filter(Compressor, Vec<&'static str>),
    /// Its library is one of [`NOT_BUILT`].
    NotBuilt(&'static str),
}

/// `<stat_prefix>.compressor.<name of the library>.gzip.`
#[allow(missing_docs, reason = "the names are Envoy's and its documentation describes them")]
pub struct Stats {
    pub request_not_compressed: Counter,
    pub compressed: Counter,
    pub not_compressed: Counter,
    pub total_uncompressed_bytes: Counter,
    pub total_compressed_bytes: Counter,
    pub content_length_too_small: Counter,
    pub no_accept_header: Counter,
    pub header_identity: Counter,
    pub header_compressor_used: Counter,
    pub header_compressor_overshadowed: Counter,
    pub header_wildcard: Counter,
    pub header_not_valid: Counter,
    pub not_compressed_etag: Counter,
}

impl Stats {
    /// The handles; those of the response are under `response`, which is empty or ends in a dot.
    fn new(scope: &dyn Scope, prefix: &str, response: &str) -> Stats {
        let request = |name: &str| scope.counter(&format!("{prefix}request.{name}"));
        // They are there as in Envoy, and stay 0: requests are not compressed.
        for name in ["compressed", "total_uncompressed_bytes", "total_compressed_bytes", "content_length_too_small"] {
            request(name);
        }
        let common = |name: &str| scope.counter(&format!("{prefix}{response}{name}"));
        let own = |name: &str| scope.counter(&format!("{prefix}{name}"));
        Stats {
            request_not_compressed: request("not_compressed"),
            compressed: common("compressed"),
            not_compressed: common("not_compressed"),
            total_uncompressed_bytes: common("total_uncompressed_bytes"),
            total_compressed_bytes: common("total_compressed_bytes"),
            content_length_too_small: common("content_length_too_small"),
            no_accept_header: own("no_accept_header"),
            header_identity: own("header_identity"),
            header_compressor_used: own("header_compressor_used"),
            header_compressor_overshadowed: own("header_compressor_overshadowed"),
            header_wildcard: own("header_wildcard"),
            header_not_valid: own("header_not_valid"),
            not_compressed_etag: own("not_compressed_etag"),
        }
    }
}

impl Compressor {
    /// Compiles the filter; `path` is that of its configuration, `scope` that of its connection manager.
    #[allow(deprecated, reason = "fields that were replaced are still read")]
    pub fn compile(config: proto::Compressor, path: &str, scope: &dyn Scope) -> Result<Compiled, MatcherError> {
        let proto::Compressor {
            content_length,
            content_type,
            disable_on_etag_header,
            remove_accept_encoding_header,
            runtime_enabled,
            compressor_library,
            request_direction_config,
            response_direction_config,
            choose_first,
        } = config;
        let library_path = format!("{path}.compressor_library");
        let TypedExtensionConfig { name, typed_config } =
            compressor_library.ok_or_else(|| error(&library_path, "value is required"))?;
        let library_path = format!("{library_path}.typed_config");
        let typed_config = typed_config.ok_or_else(|| error(&library_path, "value is required"))?;
        let type_name = any::type_name(&typed_config);
        let not_built = NOT_BUILT.iter().find(|n| **n == type_name);
        if type_name != GZIP && not_built.is_none() {
            return Err(error(library_path, &format!("not supported: {type_name}")));
        }

        let mut ignored = Vec::new();
        if let Some(RequestDirectionConfig { common_config }) = request_direction_config
            && common_config.is_none_or(|c| enabled(c.enabled))
        {
            ignored.push("request_direction_config");
        }
        let (response_prefix, response) = match response_direction_config {
            Some(response) => ("response.", response),
            // The fields from before there were directions.
            None => {
                let common = CommonDirectionConfig {
                    enabled: runtime_enabled,
                    min_content_length: content_length,
                    content_type,
                    content_type_matcher: Vec::new(),
                };
                let response = ResponseDirectionConfig {
                    common_config: Some(common),
                    disable_on_etag_header,
                    weaken_etag_on_compress: false,
                    remove_accept_encoding_header,
                    uncompressible_response_codes: Vec::new(),
                    status_header_enabled: false,
                };
                ("", response)
            }
        };
        let ResponseDirectionConfig {
            common_config,
            disable_on_etag_header,
            weaken_etag_on_compress,
            remove_accept_encoding_header,
            uncompressible_response_codes,
            status_header_enabled,
        } = response;
        let CommonDirectionConfig { enabled: flag, min_content_length, content_type, content_type_matcher } =
            common_config.unwrap_or_default();
        let types = types(content_type, content_type_matcher, path)?;
        if let Some(missing) = not_built {
            any::content(&typed_config, &library_path).map_err(|e| error(e.path, &e.reason))?;
            return Ok(Compiled::NotBuilt(missing));
        }
        let gzip = any::unpack(&typed_config, &library_path).map_err(|e| error(e.path, &e.reason))?;
        let (library, fields) = Gzip::compile(gzip);
        ignored.extend(fields);
        let rules = Rules {
            encoding: "gzip",
            library,
            enabled: enabled(flag),
            min_length: min_content_length.map(|l| u64::from(l.value)).filter(|l| *l > 0).unwrap_or(MIN_LENGTH),
            types,
            etag: match (weaken_etag_on_compress, disable_on_etag_header) {
                (true, _) => EtagRule::Weaken,
                (false, true) => EtagRule::Spare,
                (false, false) => EtagRule::Remove,
            },
            remove_accept_encoding: remove_accept_encoding_header,
            uncompressible: uncompressible_response_codes,
            status_header: status_header_enabled,
            choose_first,
            stats: Stats::new(scope, &format!("compressor.{name}.gzip."), response_prefix),
        };
        Ok(Compiled::Filter(Compressor { rules: Arc::new(rules) }, ignored))
    }
}

/// There is no runtime here, so that the default is what counts; it is true.
fn enabled(flag: Option<RuntimeFeatureFlag>) -> bool {
    flag.and_then(|RuntimeFeatureFlag { default_value, runtime_key: _ }| default_value).is_none_or(|v| v.value)
}

fn types(
    names: Vec<String>,
    matchers: Vec<waypost_xds::envoy::r#type::matcher::v3::StringMatcher>,
    path: &str,
) -> Result<Types, MatcherError> {
    if !matchers.is_empty() {
        let path = format!("{path}.response_direction_config.common_config.content_type_matcher");
        let compiled =
            matchers.into_iter().enumerate().map(|(i, m)| StringMatcher::compile(m, &format!("{path}[{i}]")));
        return compiled.collect::<Result<_, _>>().map(Types::Matchers);
    }
    if names.is_empty() {
        return Ok(Types::Names(TYPES.map(str::to_owned).to_vec()));
    }
    Ok(Types::Names(names))
}

fn error(path: impl Into<String>, reason: &str) -> MatcherError {
    MatcherError { path: path.into(), reason: reason.to_owned() }
}
