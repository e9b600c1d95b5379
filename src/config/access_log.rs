//! `access_log` lists: what is written, and what is passed over until it is built.

use waypost_filters::access_log::AccessLog;
use waypost_filters::cel::is_no_data;
use waypost_xds::any;
use waypost_xds::envoy::config::accesslog::v3 as proto;
use waypost_xds::envoy::config::accesslog::v3::access_log::ConfigType;

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
    let log = proto::AccessLog { name, filter, config_type };
    match AccessLog::compile(log, path, &mut |file| cx.logs.open(file)) {
        Ok(log) => Ok(Some(log)),
        // One attribute is no reason to refuse the listener, and without a filter there might be more in the log than anybody asked for.
        Err(e) if is_no_data(&e.reason) => {
            warn_once("access_log.CEL", || format!("{}: {}, and the log is not written", e.path, e.reason));
            Ok(None)
        }
        Err(e) => Err(ConfigError::new(e.path, e.reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_are_messages_of_the_api() {
        for name in NOT_BUILT {
            assert!(any::is_known(name), "{name}");
        }
    }
}
