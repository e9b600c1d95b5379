//! The flags by name, with Envoy's words about them.

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, Command, value_parser};

use crate::observe::log::DEFAULT_FORMAT;

/// What is said of a flag that Envoy has and that changes nothing here.
const NO_EFFECT: &str = " [accepted, no effect]";

/// The command line.
pub fn command() -> Command {
    let command = Command::new("waypost")
        .about("An Envoy-compatible L7 waypoint proxy")
        .after_help("Subcommands of its own: demo, explain, hbone, sink, wire (each with --help).")
        .disable_version_flag(true)
        .arg(text("config-path", "Path to configuration file", "").short('c'))
        .arg(text("config-yaml", "Inline YAML configuration, merges with the contents of --config-path", ""))
        .arg(text("mode", "One of 'serve' (default), 'validate' (validate configs and exit) or 'init_only'", "serve"))
        .arg(number("concurrency", "# of worker threads to run; the CPU limit of the cgroup unless it is set"))
        .arg(
            text("log-level", "Log levels: [trace][debug][info][warning|warn][error][critical][off]", "info")
                .short('l'),
        )
        .arg(text(
            "component-log-level",
            "Comma-separated list of component log levels. For example upstream:debug,config:trace",
            "",
        ))
        .arg(text("log-path", "Path to logfile", ""))
        .arg(text("log-format", "Log message format in spdlog syntax", DEFAULT_FORMAT))
        .arg(flag("log-format-escaped", "Escape c-style escape sequences in the application logs"))
        .arg(text("service-cluster", "Cluster name", ""))
        .arg(text("service-node", "Node name", ""))
        .arg(text("service-zone", "Zone name", ""))
        .arg(number("drain-time-s", "LDS removal and exit drain time in seconds").default_value("600"))
        .arg(text("drain-strategy", "Drain sequence behaviour, one of 'gradual' (default) or 'immediate'", "gradual"))
        .arg(number("file-flush-interval-msec", "Interval for log flushing in msec").default_value("10000"))
        .arg(number("file-flush-min-size-kb", "Minimum size in KB for log flushing").default_value("0"))
        .arg(text("local-address-ip-version", "The local IP address version (v4 or v6)", "v4"))
        .arg(text("admin-address-path", "Admin address path", ""))
        .arg(flag("allow-unknown-static-fields", "Allow unknown fields in static configuration"))
        .arg(flag("allow-unknown-fields", "Allow unknown fields in static configuration (DEPRECATED)"))
        .arg(flag("reject-unknown-dynamic-fields", "Reject unknown fields in dynamic configuration"))
        .arg(flag("ignore-unknown-dynamic-fields", "Ignore unknown fields in dynamic configuration"))
        .arg(flag("skip-deprecated-logs", "Skips the logging of deprecated field warnings"))
        .arg(
            text("stats-tag", "A tag for all stats, as tag:value; may be repeated", "")
                .action(ArgAction::Append)
                .value_parser(NonEmptyStringValueParser::new()),
        )
        .arg(flag("version", "Displays version information and exits"))
        .arg(flag("hot-restart-version", "Hot restart compatibility version; there is no hot restart: 'disabled'"));
    without_effect(command)
}

/// Hot restart, allocator and mutex instruments of Envoy's: starting a new process beside the old is what the orchestrator does.
fn without_effect(command: Command) -> Command {
    let no = |help: &str| format!("{help}{NO_EFFECT}");
    command
        .arg(number("parent-shutdown-time-s", no("Hot restart parent shutdown time in seconds")).default_value("900"))
        .arg(flag("disable-hot-restart", no("Disable hot restart functionality")))
        .arg(number("restart-epoch", no("Hot restart epoch #")).default_value("0"))
        .arg(number("base-id", no("Base ID so that multiple proxies can run on the same host")).default_value("0"))
        .arg(flag("use-dynamic-base-id", no("The server chooses a base ID dynamically")))
        .arg(text("base-id-path", no("Path to which the base ID is written"), ""))
        .arg(flag("skip-hot-restart-on-no-parent", no("Start even if there is no hot restart parent")))
        .arg(flag("skip-hot-restart-parent-stats", no("Do not take over the stats of the hot restart parent")))
        .arg(text("socket-path", no("Path to hot restart socket file"), "@envoy_domain_socket"))
        .arg(text("socket-mode", no("Socket file permission"), "600"))
        .arg(flag("enable-mutex-tracing", no("Enable mutex contention tracing functionality")))
        .arg(flag("enable-fine-grain-logging", no("File level log control")))
        .arg(flag("enable-core-dump", no("Enable core dumps")))
        .arg(flag("log-stacktrace-single-entry", no("Emit a stack trace in a single log entry")))
        .arg(flag("cpuset-threads", no("The default # of worker threads always looks at the CPU affinity")))
        .arg(text("disable-extensions", no("Comma-separated list of extensions to disable"), ""))
}

fn text(name: &'static str, help: impl Into<String>, default: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).help(help.into()).allow_hyphen_values(true);
    if default.is_empty() { arg } else { arg.default_value(default) }
}

fn number(name: &'static str, help: impl Into<String>) -> Arg {
    Arg::new(name).long(name).help(help.into()).value_parser(value_parser!(u32))
}

fn flag(name: &'static str, help: impl Into<String>) -> Arg {
    Arg::new(name).long(name).help(help.into()).action(ArgAction::SetTrue)
}
