use std::time::Duration;

use super::{Invocation, IpVersion, Mode, Options, VERSION, parse};
use crate::lifecycle::DrainStrategy;
use crate::observe::log::{DEFAULT_FORMAT, Level, component};

fn args(line: &str) -> Vec<std::ffi::OsString> {
    std::iter::once("envoy").chain(line.split_whitespace()).map(Into::into).collect()
}

fn options(line: &str) -> Options {
    match parse(args(line)) {
        Ok(Invocation::Proxy(o)) => *o,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    parse(args(line)).unwrap_err().0
}

#[test]
fn defaults_are_envoys() {
    let o = options("");
    assert_eq!((o.drain_time, o.parent_shutdown_time), (Duration::from_secs(600), Duration::from_secs(900)));
    assert_eq!((o.file_flush_interval, o.file_flush_min_size_kb), (Duration::from_secs(10), 0));
    assert_eq!((o.log_level, o.log_format.as_str(), o.log_format_set), (Level::Info, DEFAULT_FORMAT, false));
    assert_eq!((o.drain_strategy, o.mode), (DrainStrategy::Gradual, Mode::Serve));
    assert_eq!(o.concurrency, std::thread::available_parallelism().unwrap().get());
    assert_eq!(o.socket_path, "@envoy_domain_socket");
}

#[test]
fn what_pilot_agent_passes_is_understood() {
    let o = options(
        "-c etc/istio/proxy/envoy-rev.json --drain-time-s 45 --drain-strategy immediate --local-address-ip-version v6 \
         --file-flush-interval-msec 1000 --disable-hot-restart --allow-unknown-static-fields -l warning \
         --component-log-level misc:error,upstream:debug --skip-deprecated-logs --concurrency 0",
    );
    assert_eq!(o.config_path, "etc/istio/proxy/envoy-rev.json");
    assert_eq!((o.drain_time, o.drain_strategy), (Duration::from_secs(45), DrainStrategy::Immediate));
    assert_eq!((o.local_address_ip_version, o.file_flush_interval), (IpVersion::V6, Duration::from_secs(1)));
    assert_eq!((o.log_level, o.concurrency), (Level::Warning, 1));
    let levels = [(component("misc").unwrap(), Level::Error), (component("upstream").unwrap(), Level::Debug)];
    assert_eq!(o.component_log_levels, levels);
    assert!(o.disable_hot_restart && o.allow_unknown_static_fields && o.skip_deprecated_logs);
    let yaml: Vec<std::ffi::OsString> = vec!["envoy".into(), "--config-yaml".into(), "--- {node: {id: a}}".into()];
    assert!(matches!(parse(yaml), Ok(Invocation::Proxy(o)) if o.config_yaml == "--- {node: {id: a}}"));
    assert!(options("--log-format %v").log_format_set);
    assert_eq!(
        options("--stats-tag a:b --stats-tag c:d:e").stats_tags,
        [("a".into(), "b".into()), ("c".into(), "d:e".into())]
    );
    assert_eq!(options("--disable-extensions a,b --socket-mode 644").disabled_extensions, ["a", "b"]);
    assert_eq!(options("--mode init_only").mode, Mode::InitOnly);
}

#[test]
fn errors_are_envoys() {
    for (line, text) in [
        ("--mode foo", "error: unknown mode 'foo'"),
        ("-l foo", "error: invalid log level specified 'foo'"),
        ("--component-log-level foo:bar", "error: invalid log level specified 'bar'"),
        ("--component-log-level upstream", "error: component log level not correctly specified 'upstream'"),
        ("--component-log-level foo:debug", "error: invalid component specified 'foo'"),
        ("--drain-strategy x", "error: unknown drain-strategy 'x'"),
        ("--local-address-ip-version v5", "error: unknown IP address version 'v5'"),
        ("--stats-tag x", "error: misformatted stats-tag 'x'"),
        ("--stats-tag a.b:b", "error: misformatted stats-tag 'a.b:b' contains invalid char in 'a.b'"),
        ("--restart-epoch 1 --use-dynamic-base-id", "error: cannot use --restart-epoch=1 with --use-dynamic-base-id"),
    ] {
        assert_eq!(error(line), text);
    }
    for line in ["--foo", "-c", "extra", "--concurrency x", "-c a -c b"] {
        assert!(error(line).starts_with("error: "), "{line}: {}", error(line));
    }
}

#[test]
fn texts_and_tools() {
    assert_eq!(parse(args("--version")), Ok(Invocation::Print(format!("\nenvoy  version: {VERSION}\n\n"))));
    assert_eq!(VERSION.split('/').count(), 5);
    assert_eq!(parse(args("--hot-restart-version")), Ok(Invocation::Print("disabled\n".into())));
    let Ok(Invocation::Print(help)) = parse(args("--help")) else { panic!("no help") };
    for flag in ["--drain-time-s", "--base-id-path", "--ignore-unknown-dynamic-fields", "no effect", "hbone"] {
        assert!(help.contains(flag), "{flag}");
    }
    let tool = Invocation::Tool("hbone".into(), vec!["--to".into(), "x".into()]);
    assert_eq!(parse(args("hbone --to x")), Ok(tool));
}
