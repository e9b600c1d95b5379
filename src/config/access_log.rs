//! `access_log` lists: what is written, and what is passed over until it is built.

use std::sync::Arc;

use waypost_filters::access_log::{AccessLog, Sink};
use waypost_xds::any;
use waypost_xds::envoy::config::accesslog::v3 as proto;
use waypost_xds::envoy::config::accesslog::v3::access_log::ConfigType;
use waypost_xds::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use waypost_xds::envoy::config::accesslog::v3::extension_filter;

use super::extension::{checked, warn_missing};
use super::{ConfigError, Context, warn_once};

/// Access logs that go to a server, or into another extension: nothing is sent yet.
pub const NOT_BUILT: &[&str] = &[
    "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
    "envoy.extensions.access_loggers.fluentd.v3.FluentdAccessLogConfig",
    "envoy.extensions.access_loggers.wasm.v3.WasmAccessLog",
];

/// A filter that cannot be evaluated yet.
pub const CEL_FILTER: &str = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";

/// Compiles a list of access logs; `path` is that of the list.
pub fn compile(protos: Vec<proto::AccessLog>, cx: &Context<'_>, path: &str) -> Result<Vec<AccessLog>, ConfigError> {
    let mut logs = Vec::with_capacity(protos.len());
    for (i, log) in protos.into_iter().enumerate() {
        logs.extend(one(log, cx, &format!("{path}[{i}]"))?);
    }
    Ok(logs)
}

/// None for a log that is not written.
fn one(log: proto::AccessLog, cx: &Context<'_>, path: &str) -> Result<Option<AccessLog>, ConfigError> {
    let proto::AccessLog { name, filter, config_type } = log;
    if let Some(ConfigType::TypedConfig(any)) = &config_type
        && let type_name = any::type_name(any)
        && NOT_BUILT.contains(&&*type_name)
    {
        let path = format!("{path}.typed_config");
        checked(any, &path)?;
        warn_missing(&type_name, "nothing is logged there", &path);
        return Ok(None);
    }
    let (filter, written) = match filter {
        None => (None, true),
        Some(filter) => evaluable(filter, &format!("{path}.filter"))?,
    };
    let log = proto::AccessLog { name, filter, config_type };
    let error = |e: waypost_filters::access_log::AccessLogError| ConfigError::new(e.path, e.reason);
    if !written {
        // What else it says is checked all the same, and no file is made.
        AccessLog::compile(log, path, &mut |_| Ok(Arc::new(Nowhere))).map_err(error)?;
        return Ok(None);
    }
    match AccessLog::compile(log, path, &mut |file| cx.logs.open(file)) {
        Ok(log) => Ok(Some(log)),
        // One field is no reason to refuse the listener.
        Err(e) if e.reason.ends_with("CEL is not supported yet") => {
            warn_once("access_log.CEL", || format!("{}: {}, and the log is not written", e.path, e.reason));
            Ok(None)
        }
        Err(e) => Err(error(e)),
    }
}

/// What is left of a filter without the parts that cannot be evaluated, and whether anything may pass it. Such a part takes nothing: a filter
/// keeps events out of a log, and without it there might be more in there than anybody asked for.
fn evaluable(
    filter: proto::AccessLogFilter,
    path: &str,
) -> Result<(Option<proto::AccessLogFilter>, bool), ConfigError> {
    let proto::AccessLogFilter { filter_specifier } = filter;
    let several = |filters: Vec<proto::AccessLogFilter>, field: &str| {
        let part = |(i, f)| evaluable(f, &format!("{path}.{field}.filters[{i}]"));
        filters.into_iter().enumerate().map(part).collect::<Result<Vec<_>, ConfigError>>()
    };
    let wrap = |f| Some(proto::AccessLogFilter { filter_specifier: Some(f) });
    Ok(match filter_specifier {
        Some(FilterSpecifier::ExtensionFilter(extension)) => {
            let proto::ExtensionFilter { name, config_type } = extension;
            match config_type {
                Some(extension_filter::ConfigType::TypedConfig(any)) if any::type_name(&any) == CEL_FILTER => {
                    let path = format!("{path}.extension_filter.typed_config");
                    checked(&any, &path)?;
                    warn_once(CEL_FILTER, || {
                        format!("{path}: {CEL_FILTER} is not built yet: what it would have to choose is not logged")
                    });
                    (None, false)
                }
                config_type => {
                    (wrap(FilterSpecifier::ExtensionFilter(proto::ExtensionFilter { name, config_type })), true)
                }
            }
        }
        Some(FilterSpecifier::AndFilter(proto::AndFilter { filters })) if filters.len() > 1 => {
            let (parts, written): (Vec<_>, Vec<_>) = several(filters, "and_filter")?.into_iter().unzip();
            let and = |filters| FilterSpecifier::AndFilter(proto::AndFilter { filters });
            (joined(parts, and), !written.contains(&false))
        }
        Some(FilterSpecifier::OrFilter(proto::OrFilter { filters })) if filters.len() > 1 => {
            let parts = several(filters, "or_filter")?;
            let written = parts.iter().any(|(_, written)| *written);
            let or = |filters| FilterSpecifier::OrFilter(proto::OrFilter { filters });
            // A part that takes nothing adds nothing.
            (joined(parts.into_iter().filter(|(_, w)| *w).map(|(f, _)| f).collect(), or), written)
        }
        other => (Some(proto::AccessLogFilter { filter_specifier: other }), true),
    })
}

/// The parts that are left as one filter.
fn joined(
    parts: Vec<Option<proto::AccessLogFilter>>,
    several: impl Fn(Vec<proto::AccessLogFilter>) -> FilterSpecifier,
) -> Option<proto::AccessLogFilter> {
    let mut parts: Vec<_> = parts.into_iter().flatten().collect();
    match parts.len() {
        0 | 1 => parts.pop(),
        _ => Some(proto::AccessLogFilter { filter_specifier: Some(several(parts)) }),
    }
}

#[derive(Debug)]
struct Nowhere;

impl Sink for Nowhere {
    fn line(&self, _: &mut dyn FnMut(&mut Vec<u8>)) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_xds::{json, yaml};

    fn filter(text: &str) -> (String, bool) {
        let cel = format!(
            "extension_filter: {{name: cel, typed_config: {{'@type': type.googleapis.com/{CEL_FILTER}, expression: 'true'}}}}"
        );
        let ge = |n: u32| {
            format!("status_code_filter: {{comparison: {{op: GE, value: {{default_value: {n}, runtime_key: k}}}}}}")
        };
        let text = text
            .replace("CEL", &format!("{{{cel}}}"))
            .replace("GE4", &format!("{{{}}}", ge(400)))
            .replace("GE5", &format!("{{{}}}", ge(500)));
        let proto = json::from_value(&yaml::parse(&text).unwrap(), &json::Options::reject_unknown()).unwrap();
        let (left, written) = evaluable(proto, "f").unwrap();
        let shown = match left.and_then(|f| f.filter_specifier) {
            None => "-".to_owned(),
            Some(FilterSpecifier::AndFilter(f)) => format!("and {}", f.filters.len()),
            Some(FilterSpecifier::OrFilter(f)) => format!("or {}", f.filters.len()),
            Some(_) => "one".to_owned(),
        };
        (shown, written)
    }

    #[test]
    fn what_cannot_be_evaluated_takes_nothing() {
        assert_eq!(filter("CEL"), ("-".into(), false));
        assert_eq!(filter("{and_filter: {filters: [GE4, CEL]}}"), ("one".into(), false));
        assert_eq!(filter("{or_filter: {filters: [GE4, CEL]}}"), ("one".into(), true));
        assert_eq!(filter("{or_filter: {filters: [CEL, CEL]}}"), ("-".into(), false));
        assert_eq!(
            filter("{or_filter: {filters: [GE4, GE5, {and_filter: {filters: [GE4, CEL]}}]}}"),
            ("or 2".into(), true)
        );
        assert_eq!(filter("{and_filter: {filters: [GE4, GE5]}}"), ("and 2".into(), true));
        assert_eq!(filter("GE4"), ("one".into(), true));
    }

    #[test]
    fn sinks_are_messages_of_the_api() {
        for name in NOT_BUILT.iter().chain([&CEL_FILTER]) {
            assert!(any::is_known(name), "{name}");
        }
    }
}
