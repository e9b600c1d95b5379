//! Every type of HTTP filter that is known, and what becomes of it: the one place where a filter is entered.
//!
//! A filter that guards is never passed over. Until it is built, requests on chains with it are answered 500, so that a configuration loads and
//! nothing gets by unguarded. One that only adds (telemetry, headers of its own, another encoding) is passed over with one warning. A type that
//! is in no list is refused, since nobody knows what it does.

use std::sync::Arc;

use prost::Message;
use waypost_filters::filter::HttpFilter;
use waypost_filters::http::alpn::Alpn;
use waypost_filters::http::compressor::{Compiled, Compressor};
use waypost_filters::http::header_mutation::HeaderMutation;
use waypost_filters::http::peer_metadata::PeerMetadata;
use waypost_filters::http::set_filter_state::SetFilterState;
use waypost_filters::stats::{Count, Scope};
use waypost_xds::any;
use waypost_xds::envoy::config::rbac::v3::rbac::Action;
use waypost_xds::envoy::extensions::filters::http as f;
use waypost_xds::google::protobuf::Any;

use crate::config::extension::warn_missing;
use crate::config::{ConfigError, warn_once};
use crate::observe::stats::{Counter, Store};

/// One type of filter.
pub struct Known {
    /// The full name of its configuration.
    pub type_name: &'static str,
    /// What becomes of it.
    pub role: Role,
    /// The full name of what a route may say about it, if it may say anything.
    pub per_route: Option<&'static str>,
    /// What becomes of that.
    pub on_route: OnRoute,
}

/// A built filter, or nothing where its configuration leaves it nothing to do.
pub type Built = Option<Arc<dyn HttpFilter>>;

/// Builds a filter of its configuration; the text is the path of that.
pub type Build = fn(&Any, &str, &Within) -> Result<Built, ConfigError>;

/// The connection manager that a filter is built for; kept with filters that come, and are built again, later.
#[derive(Clone, Debug)]
pub struct Within {
    /// Where stat handles come from.
    pub stats: Arc<Store>,
    /// Its `stat_prefix`.
    pub stat_prefix: Arc<str>,
}

/// A counter that filters add to.
struct Adder(Counter);

impl Count for Adder {
    fn add(&self, n: u64) {
        self.0.add(n);
    }
}

impl Scope for Within {
    fn counter(&self, name: &str) -> Arc<dyn Count> {
        Arc::new(Adder(self.stats.counter(&format!("http.{}.{name}", self.stat_prefix))))
    }
}

/// What becomes of a filter.
#[derive(Clone, Copy)]
pub enum Role {
    /// It is built.
    Build(Build),
    /// It guards and is not built yet: closed, unless the function finds in the checked wire form that this configuration refuses nothing.
    Guards(fn(&[u8]) -> bool),
    /// It only adds and is not built yet: passed over with a warning that says what is missing.
    Adds(&'static str),
}

/// What becomes of a filter's configuration on a route.
#[derive(Clone, Copy)]
pub enum OnRoute {
    /// It guards: closed, unless the function finds in the wire form that it switches the filter off.
    Guards(fn(&[u8]) -> bool),
    /// It only adds: passed over with a warning that says what is missing.
    Adds(&'static str),
    /// The filter is switched off where the function finds so in the wire form; else it runs as it does elsewhere, with a warning that says
    /// what is missing.
    Adjusts(fn(&[u8]) -> bool, &'static str),
}

/// The type of a filter's configuration.
pub fn find(type_name: &str) -> Option<&'static Known> {
    FILTERS.iter().find(|k| k.type_name == type_name)
}

/// The type of a configuration in `typed_per_filter_config`.
pub fn find_per_route(type_name: &str) -> Option<&'static Known> {
    FILTERS.iter().find(|k| k.per_route == Some(type_name))
}

const fn built(type_name: &'static str, build: Build) -> Known {
    Known { type_name, role: Role::Build(build), per_route: None, on_route: OnRoute::Guards(never) }
}

const fn guards(type_name: &'static str, per_route: Option<&'static str>) -> Known {
    Known { type_name, role: Role::Guards(never), per_route, on_route: OnRoute::Guards(never) }
}

const fn adds(type_name: &'static str, missing: &'static str, per_route: Option<&'static str>) -> Known {
    Known { type_name, role: Role::Adds(missing), per_route, on_route: OnRoute::Adds(missing) }
}

const NO_FAULTS: &str = "no faults are injected";
const NO_CORS: &str = "preflight requests go upstream and no CORS headers are added";

impl Known {
    const fn told(mut self, per_route: &'static str, missing: &'static str) -> Known {
        (self.per_route, self.on_route) = (Some(per_route), OnRoute::Adds(missing));
        self
    }

    const fn routed(mut self, per_route: &'static str) -> Known {
        self.per_route = Some(per_route);
        self
    }

    const fn harmless(mut self, when: fn(&[u8]) -> bool) -> Known {
        self.role = Role::Guards(when);
        self
    }

    const fn adjusted(mut self, per_route: &'static str, missing: &'static str, off: fn(&[u8]) -> bool) -> Known {
        (self.per_route, self.on_route) = (Some(per_route), OnRoute::Adjusts(off, missing));
        self
    }

    const fn off(mut self, when: fn(&[u8]) -> bool) -> Known {
        self.on_route = OnRoute::Guards(when);
        self
    }
}

/// All of them: what is built, what Istio sends, what Envoy has.
pub static FILTERS: &[Known] = &[
    built("envoy.extensions.filters.http.set_filter_state.v3.Config", |any, path, _| {
        Ok(Some(Arc::new(SetFilterState::compile(any::unpack(any, path)?, path)?)))
    }),
    // What Istio sends and no request is refused by.
    built("io.istio.http.peer_metadata.Config", |any, path, _| {
        warn_missing("io.istio.http.peer_metadata.Config", "peers are not told apart in telemetry", path);
        Ok(PeerMetadata::compile(any::unpack(any, path)?).map(|f| Arc::new(f) as Arc<dyn HttpFilter>))
    }),
    built("envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", |any, path, _| {
        Ok(Some(Arc::new(HeaderMutation::compile(any::unpack(any, path)?, path)?)))
    })
    .routed("envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"),
    adds("stats.PluginConfig", "Istio's metrics are not kept", None),
    built("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig", |any, path, _| {
        Ok(Alpn::compile(any::unpack(any, path)?, path)?.map(|f| Arc::new(f) as Arc<dyn HttpFilter>))
    }),
    adds("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", "gRPC statistics are not kept", None),
    adds("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb", "gRPC-Web is passed on as it is", None),
    // These two are in every chain, and do what routes tell them.
    built("envoy.extensions.filters.http.fault.v3.HTTPFault", |any, path, _| {
        let config: f::fault::v3::HttpFault = any::unpack(any, path)?;
        if config != f::fault::v3::HttpFault::default() {
            warn_missing("envoy.extensions.filters.http.fault.v3.HTTPFault", NO_FAULTS, path);
        }
        Ok(None)
    })
    .told("envoy.extensions.filters.http.fault.v3.HTTPFault", NO_FAULTS),
    built("envoy.extensions.filters.http.cors.v3.Cors", |any, path, _| {
        let f::cors::v3::Cors {} = any::unpack(any, path)?;
        Ok(None)
    })
    .told("envoy.extensions.filters.http.cors.v3.CorsPolicy", NO_CORS),
    built("envoy.extensions.filters.http.compressor.v3.Compressor", compressor).adjusted(
        "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
        "overrides have no effect",
        |wire| {
            use f::compressor::v3::{CompressorPerRoute, compressor_per_route::Override::Disabled};
            CompressorPerRoute::decode(wire).is_ok_and(|c| c.r#override == Some(Disabled(true)))
        },
    ),
    adds(
        "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
        "sessions do not stick to a host",
        Some("envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute"),
    ),
    adds(
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
        "the names of requests are not resolved, and its clusters have no hosts",
        Some("envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig"),
    ),
    // What Istio sends and requests are refused by.
    guards("envoy.extensions.filters.http.rbac.v3.RBAC", Some("envoy.extensions.filters.http.rbac.v3.RBACPerRoute"))
        .harmless(rbac_refuses_nothing)
        .off(|wire| f::rbac::v3::RbacPerRoute::decode(wire).is_ok_and(|c| c.rbac.is_none())),
    guards(
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        Some("envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"),
    )
    .off(|wire| {
        use f::jwt_authn::v3::{PerRouteConfig, per_route_config::RequirementSpecifier::Disabled};
        PerRouteConfig::decode(wire).is_ok_and(|c| c.requirement_specifier == Some(Disabled(true)))
    }),
    guards(
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        Some("envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"),
    )
    .off(|wire| {
        use f::ext_authz::v3::{ExtAuthzPerRoute, ext_authz_per_route::Override::Disabled};
        ExtAuthzPerRoute::decode(wire).is_ok_and(|c| c.r#override == Some(Disabled(true)))
    }),
    guards(
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        Some("envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"),
    )
    .off(|wire| {
        use f::ext_proc::v3::{ExtProcPerRoute, ext_proc_per_route::Override::Disabled};
        ExtProcPerRoute::decode(wire).is_ok_and(|c| c.r#override == Some(Disabled(true)))
    }),
    guards("envoy.extensions.filters.http.lua.v3.Lua", Some("envoy.extensions.filters.http.lua.v3.LuaPerRoute")).off(
        |wire| {
            use f::lua::v3::{LuaPerRoute, lua_per_route::Override::Disabled};
            LuaPerRoute::decode(wire).is_ok_and(|c| c.r#override == Some(Disabled(true)))
        },
    ),
    guards("envoy.extensions.filters.http.wasm.v3.Wasm", None),
    guards(
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        Some("envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"),
    ),
    guards(
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        Some("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"),
    )
    .harmless(|wire| {
        f::local_ratelimit::v3::LocalRateLimit::decode(wire)
            .is_ok_and(|c| c.token_bucket.is_none() && c.descriptors.is_empty())
    }),
    guards(
        "envoy.extensions.filters.http.buffer.v3.Buffer",
        Some("envoy.extensions.filters.http.buffer.v3.BufferPerRoute"),
    )
    .off(|wire| {
        use f::buffer::v3::{BufferPerRoute, buffer_per_route::Override::Disabled};
        BufferPerRoute::decode(wire).is_ok_and(|c| c.r#override == Some(Disabled(true)))
    }),
    guards(
        "envoy.extensions.filters.http.oauth2.v3.OAuth2",
        Some("envoy.extensions.filters.http.oauth2.v3.OAuth2PerRoute"),
    ),
    // What an EnvoyFilter may bring beside these: without the header, metadata or encoding of one of them a request is served all the same.
    adds("envoy.extensions.filters.http.health_check.v3.HealthCheck", "health checks go upstream", None),
    adds("envoy.extensions.filters.http.alternate_protocols_cache.v3.FilterConfig", "HTTP/3 is not spoken", None),
    adds("envoy.extensions.filters.http.cache.v3.CacheConfig", "responses are not cached", None),
    adds("envoy.extensions.filters.http.cache_v2.v3.CacheV2Config", "responses are not cached", None),
    adds("envoy.extensions.filters.http.connect_grpc_bridge.v3.FilterConfig", "Connect is passed on as it is", None),
    adds("envoy.extensions.filters.http.grpc_http1_bridge.v3.Config", "gRPC over HTTP/1 is passed on as it is", None),
    adds(
        "envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3.FilterConfig",
        "gRPC is passed on as it is",
        Some("envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3.FilterConfigPerRoute"),
    ),
    adds("envoy.extensions.filters.http.custom_response.v3.CustomResponse", "responses are not replaced", None),
    adds("envoy.extensions.filters.http.decompressor.v3.Decompressor", "bodies are not decompressed", None),
    adds("envoy.extensions.filters.http.gzip.v3.Gzip", "responses are not compressed", None),
    adds("envoy.extensions.filters.http.kill_request.v3.KillRequest", "no request ends the process", None),
    adds("envoy.extensions.filters.http.tap.v3.Tap", "nothing is tapped", None),
    adds(
        "envoy.extensions.filters.http.on_demand.v3.OnDemand",
        "virtual hosts and clusters are not asked for on demand",
        Some("envoy.extensions.filters.http.on_demand.v3.PerRouteConfig"),
    ),
    // And these decide: they refuse, authenticate, limit, or make what other filters and routes decide by.
    guards("envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency", None),
    guards("envoy.extensions.filters.http.admission_control.v3.AdmissionControl", None),
    guards(
        "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
        Some("envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute"),
    ),
    guards(
        "envoy.extensions.filters.http.aws_lambda.v3.Config",
        Some("envoy.extensions.filters.http.aws_lambda.v3.PerRouteConfig"),
    ),
    guards(
        "envoy.extensions.filters.http.aws_request_signing.v3.AwsRequestSigning",
        Some("envoy.extensions.filters.http.aws_request_signing.v3.AwsRequestSigningPerRoute"),
    ),
    guards(
        "envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit",
        Some("envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit"),
    ),
    guards(
        "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
        Some("envoy.extensions.filters.http.basic_auth.v3.BasicAuthPerRoute"),
    ),
    guards("envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit", None),
    guards("envoy.extensions.filters.http.cdn_loop.v3.CdnLoopConfig", None),
    guards(
        "envoy.extensions.filters.http.composite.v3.Composite",
        Some("envoy.extensions.filters.http.composite.v3.CompositePerRoute"),
    ),
    guards(
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        Some("envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute"),
    ),
    guards("envoy.extensions.filters.http.credential_injector.v3.CredentialInjector", None),
    guards(
        "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
        Some("envoy.extensions.filters.http.csrf.v3.CsrfPolicy"),
    ),
    guards(
        "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        Some("envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute"),
    ),
    guards(
        "envoy.extensions.filters.http.file_system_buffer.v3.FileSystemBufferFilterConfig",
        Some("envoy.extensions.filters.http.file_system_buffer.v3.FileSystemBufferFilterConfig"),
    ),
    guards("envoy.extensions.filters.http.gcp_authn.v3.GcpAuthnFilterConfig", None),
    guards("envoy.extensions.filters.http.geoip.v3.Geoip", None),
    guards("envoy.extensions.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig", None),
    guards(
        "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        Some("envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"),
    ),
    guards(
        "envoy.extensions.filters.http.header_to_metadata.v3.Config",
        Some("envoy.extensions.filters.http.header_to_metadata.v3.Config"),
    ),
    guards("envoy.extensions.filters.http.ip_tagging.v3.IPTagging", None),
    guards("envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata", None),
    guards("envoy.extensions.filters.http.original_src.v3.OriginalSrc", None),
    guards("envoy.extensions.filters.http.proto_message_extraction.v3.ProtoMessageExtractionConfig", None),
    guards(
        "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig",
        Some("envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaOverride"),
    ),
    guards("envoy.extensions.filters.http.set_metadata.v3.Config", None),
    guards("envoy.extensions.filters.http.thrift_to_metadata.v3.ThriftToMetadata", None),
];

fn compressor(any: &Any, path: &str, within: &Within) -> Result<Built, ConfigError> {
    Ok(match Compressor::compile(any::unpack(any, path)?, path, within)? {
        Compiled::Filter(filter, ignored) => {
            for field in ignored {
                warn_once(&format!("Compressor.{field}"), || format!("{path}.{field} has no effect yet"));
            }
            Some(Arc::new(filter))
        }
        Compiled::NotBuilt(library) => {
            warn_missing(library, "responses are not compressed with it", path);
            None
        }
    })
}

fn never(_: &[u8]) -> bool {
    false
}

/// Whether an RBAC has nothing that denies: only shadow rules, which are evaluated for telemetry, or rules that log.
fn rbac_refuses_nothing(wire: &[u8]) -> bool {
    let Ok(config) = f::rbac::v3::Rbac::decode(wire) else { return false };
    let f::rbac::v3::Rbac {
        rules,
        rules_stat_prefix: _,
        matcher,
        shadow_rules: _,
        shadow_matcher: _,
        shadow_rules_stat_prefix: _,
        track_per_rule_stats: _,
    } = config;
    matcher.is_none() && rules.is_none_or(|r| r.action == Action::Log as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_xds::any::is_known;

    #[test]
    fn the_table_names_messages_of_the_api_once_each() {
        for known in FILTERS {
            for name in [Some(known.type_name), known.per_route].into_iter().flatten() {
                assert!(is_known(name), "{name}");
            }
            assert_eq!(FILTERS.iter().filter(|k| k.type_name == known.type_name).count(), 1, "{}", known.type_name);
            let told = FILTERS.iter().filter(|k| k.per_route.is_some() && k.per_route == known.per_route).count();
            assert!(told <= 1, "{:?}", known.per_route);
        }
    }

    /// Whatever else changes in the table: these may leave it for a filter that is built, and for nothing else.
    #[test]
    fn what_guards_is_built_or_closed() {
        for name in [
            "rbac.v3.RBAC",
            "jwt_authn.v3.JwtAuthentication",
            "ext_authz.v3.ExtAuthz",
            "ratelimit.v3.RateLimit",
            "local_ratelimit.v3.LocalRateLimit",
            "lua.v3.Lua",
            "wasm.v3.Wasm",
            "ext_proc.v3.ExternalProcessor",
            "oauth2.v3.OAuth2",
            "basic_auth.v3.BasicAuth",
            "buffer.v3.Buffer",
        ] {
            let known = find(&format!("envoy.extensions.filters.http.{name}")).unwrap();
            assert!(!matches!(known.role, Role::Adds(_)), "{name}");
            assert!(!matches!(known.on_route, OnRoute::Adds(_)), "{name}");
        }
    }
}
