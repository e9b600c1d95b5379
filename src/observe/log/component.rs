//! Envoy's logger names, and which of them a `tracing` target is.

/// Envoy's loggers, in the order of `/logging`.
pub const COMPONENTS: [&str; 73] = [
    "a2a", "admin", "ai_protocol_manager", "alternate_protocols_cache", "aws", "assert", "backtrace", "basic_auth",
    "cache_filter", "client", "config", "connection", "conn_handler", "compression", "credential_injector",
    "decompression", "dns", "dubbo", "envoy_bug", "ext_authz", "ext_proc", "rocketmq", "file", "filter",
    "forward_proxy", "geolocation", "grpc", "happy_eyeballs", "hc", "health_checker", "http", "http2", "hystrix",
    "init", "io", "jwt", "json_rpc", "kafka", "key_value_store", "lua", "local_rate_limit", "main", "matcher", "mcp",
    "misc", "mongo", "multi_connection", "notification", "oauth2", "quic", "quic_stream", "pool", "rate_limit_quota",
    "rbac", "rds", "redis", "router", "runtime", "stats", "secret", "sse", "tap", "testing", "thrift", "tracing",
    "upstream", "udp", "wasm", "websocket", "golang", "stats_sinks", "dynamic_modules", "ip_tagging",
];

/// Where a module's lines belong; the first prefix that fits counts.
const MODULES: [(&str, &str); 41] = [
    ("waypost::admin", "admin"),
    ("waypost::cluster::pool", "pool"),
    ("waypost::cluster::connect", "client"),
    ("waypost::cluster", "upstream"),
    ("waypost::config", "config"),
    ("waypost::xds", "config"),
    ("waypost::hbone", "pool"),
    ("waypost::http", "http"),
    ("waypost::listener::serve", "connection"),
    ("waypost::listener::internal", "connection"),
    ("waypost::listener", "conn_handler"),
    ("waypost::net", "connection"),
    ("waypost::observe::stats", "stats"),
    ("waypost::observe::access_log", "file"),
    ("waypost::observe::trac", "tracing"),
    ("waypost::route", "router"),
    ("waypost::tcp_proxy", "filter"),
    ("waypost::tls::s", "secret"),
    ("waypost::tls", "connection"),
    ("waypost::runtime", "runtime"),
    ("waypost::health", "hc"),
    ("waypost_xds", "config"),
    ("waypost_filters::http::ext_authz", "ext_authz"),
    ("waypost_filters::http::ext_proc", "ext_proc"),
    ("waypost_filters::http::jwt", "jwt"),
    ("waypost_filters::http::rbac", "rbac"),
    ("waypost_filters::http::lua", "lua"),
    ("waypost_filters::http::wasm", "wasm"),
    ("waypost_filters::http::local_rate", "local_rate_limit"),
    ("waypost_filters::http::basic_auth", "basic_auth"),
    ("waypost_filters::http::decompress", "decompression"),
    ("waypost_filters::http::compress", "compression"),
    ("waypost_filters::network::rbac", "rbac"),
    ("waypost_filters::matcher", "matcher"),
    ("waypost_filters", "filter"),
    ("waypost", "main"),
    ("h2", "http2"),
    ("hyper", "http"),
    ("rustls", "connection"),
    ("tonic", "grpc"),
    ("tokio", "io"),
];

/// The number of a logger.
pub fn component(name: &str) -> Option<usize> {
    COMPONENTS.iter().position(|c| *c == name)
}

/// The logger of a target, and whether the target is code of ours. A target may also be a logger's name (`target: "admin"`).
pub fn of_target(target: &str) -> (usize, bool) {
    if let Some(c) = component(target) {
        return (c, true);
    }
    let named = MODULES.iter().find(|(prefix, _)| target.starts_with(prefix)).map_or("misc", |(_, name)| name);
    (component(named).unwrap_or_default(), target.starts_with("waypost"))
}
