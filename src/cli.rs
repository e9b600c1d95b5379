//! Envoy's command line: its flags, its messages and its exit codes.

mod flags;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use clap::error::ErrorKind;

use crate::lifecycle::DrainStrategy;
use crate::observe::log::{self, Level};

/// What Envoy prints as `--version` and `/server_info`'s `version`: source revision, version, its state, how it was built, the TLS library.
pub const VERSION: &str =
    concat!("0000000000000000000000000000000000000000/", env!("CARGO_PKG_VERSION"), "/Clean/RELEASE/aws-lc");

/// Subcommands that no Envoy has.
const TOOLS: [&str; 5] = ["demo", "explain", "hbone", "sink", "wire"];

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    /// Run, validate or initialise a proxy.
    Proxy(Box<Options>),
    /// Run one of our own tools with the arguments behind its name.
    Tool(String, Vec<OsString>),
    /// Print a text (`--help`, `--version`, `--hot-restart-version`).
    Print(String),
}

/// A command line that cannot be used; the text is for stderr as it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct CliError(pub String);

/// `--mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `serve`
    #[default]
    Serve,
    /// `validate`: load the configuration, say `configuration '…' OK` and end.
    Validate,
    /// `init_only`: initialise without opening sockets, and end.
    InitOnly,
}

/// `--local-address-ip-version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpVersion {
    /// `v4`
    #[default]
    V4,
    /// `v6`
    V6,
}

/// The options of a proxy; each field is the flag of the same name (`admin.v3.CommandLineOptions`).
#[allow(missing_docs, reason = "the fields are the flags")]
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub config_path: String,
    pub config_yaml: String,
    pub mode: Mode,
    pub concurrency: usize,
    pub log_level: Level,
    /// As it was written, for `/server_info`.
    pub component_log_level: String,
    pub component_log_levels: Vec<(usize, Level)>,
    pub log_path: String,
    pub log_format: String,
    /// Whether `--log-format` was given; else the bootstrap's `application_log_config` counts.
    pub log_format_set: bool,
    pub log_format_escaped: bool,
    pub service_cluster: String,
    pub service_node: String,
    pub service_zone: String,
    pub drain_time: Duration,
    pub drain_strategy: DrainStrategy,
    pub parent_shutdown_time: Duration,
    pub file_flush_interval: Duration,
    pub file_flush_min_size_kb: u32,
    pub local_address_ip_version: IpVersion,
    pub admin_address_path: String,
    pub base_id: u32,
    pub base_id_path: String,
    pub use_dynamic_base_id: bool,
    pub restart_epoch: u32,
    pub disable_hot_restart: bool,
    pub skip_hot_restart_on_no_parent: bool,
    pub skip_hot_restart_parent_stats: bool,
    pub allow_unknown_static_fields: bool,
    pub reject_unknown_dynamic_fields: bool,
    pub ignore_unknown_dynamic_fields: bool,
    pub skip_deprecated_logs: bool,
    pub enable_mutex_tracing: bool,
    pub enable_fine_grain_logging: bool,
    pub enable_core_dump: bool,
    pub log_stacktrace_single_entry: bool,
    pub cpuset_threads: bool,
    pub disabled_extensions: Vec<String>,
    pub socket_path: String,
    pub socket_mode: u32,
    pub stats_tags: Vec<(String, String)>,
}

/// Runs the command: what `main` returns.
pub fn cli_main() -> ExitCode {
    // Nothing can be done about a closed stdout or stderr.
    let err = |text: &str| drop(writeln!(std::io::stderr(), "{text}"));
    match parse(std::env::args_os()) {
        Ok(Invocation::Proxy(options)) => crate::server::run(*options),
        Ok(Invocation::Tool(name, args)) => crate::tools::run(&name, args),
        Ok(Invocation::Print(text)) => {
            drop(std::io::stdout().write_all(text.as_bytes()));
            ExitCode::SUCCESS
        }
        Err(e) => {
            err(&e.0);
            ExitCode::FAILURE
        }
    }
}

/// Reads a command line, the program's name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let program = args.first().map_or_else(|| "waypost".to_owned(), |a| a.to_string_lossy().into_owned());
    if let Some(name) = args.get(1).and_then(|a| a.to_str())
        && TOOLS.contains(&name)
    {
        return Ok(Invocation::Tool(name.to_owned(), args.into_iter().skip(2).collect()));
    }
    let matches = match flags::command().try_get_matches_from(args) {
        Ok(m) => m,
        Err(e) if e.kind() == ErrorKind::DisplayHelp => return Ok(Invocation::Print(e.render().to_string())),
        Err(e) => return Err(CliError(e.render().to_string().trim_end().to_owned())),
    };
    if matches.get_flag("version") {
        return Ok(Invocation::Print(format!("\n{program}  version: {VERSION}\n\n")));
    }
    if matches.get_flag("hot-restart-version") {
        // There is no hot restart, and this is how Envoy says so.
        return Ok(Invocation::Print("disabled\n".to_owned()));
    }
    options(&matches).map(|o| Invocation::Proxy(Box::new(o)))
}

fn text(m: &ArgMatches, name: &str) -> String {
    m.get_one::<String>(name).cloned().unwrap_or_default()
}

fn number(m: &ArgMatches, name: &str) -> u32 {
    m.get_one::<u32>(name).copied().unwrap_or_default()
}

fn level(name: &str) -> Result<Level, CliError> {
    Level::parse(name).ok_or_else(|| CliError(format!("error: invalid log level specified '{name}'")))
}

fn options(m: &ArgMatches) -> Result<Options, CliError> {
    let mode = match text(m, "mode").as_str() {
        "serve" => Mode::Serve,
        "validate" => Mode::Validate,
        "init_only" => Mode::InitOnly,
        other => return Err(CliError(format!("error: unknown mode '{other}'"))),
    };
    let local_address_ip_version = match text(m, "local-address-ip-version").as_str() {
        "v4" => IpVersion::V4,
        "v6" => IpVersion::V6,
        other => return Err(CliError(format!("error: unknown IP address version '{other}'"))),
    };
    let drain_strategy = match text(m, "drain-strategy").as_str() {
        "gradual" => DrainStrategy::Gradual,
        "immediate" => DrainStrategy::Immediate,
        other => return Err(CliError(format!("error: unknown drain-strategy '{other}'"))),
    };
    let (restart_epoch, use_dynamic_base_id) = (number(m, "restart-epoch"), m.get_flag("use-dynamic-base-id"));
    if restart_epoch > 0 && use_dynamic_base_id {
        return Err(CliError(format!("error: cannot use --restart-epoch={restart_epoch} with --use-dynamic-base-id")));
    }
    let component_log_level = text(m, "component-log-level");
    let seconds = |name| Duration::from_secs(number(m, name).into());
    Ok(Options {
        config_path: text(m, "config-path"),
        config_yaml: text(m, "config-yaml"),
        mode,
        concurrency: concurrency(m.get_one::<u32>("concurrency").copied()),
        log_level: level(&text(m, "log-level"))?,
        component_log_levels: component_levels(&component_log_level)?,
        component_log_level,
        log_path: text(m, "log-path"),
        log_format: text(m, "log-format"),
        log_format_set: m.value_source("log-format") == Some(clap::parser::ValueSource::CommandLine),
        log_format_escaped: m.get_flag("log-format-escaped"),
        service_cluster: text(m, "service-cluster"),
        service_node: text(m, "service-node"),
        service_zone: text(m, "service-zone"),
        drain_time: seconds("drain-time-s"),
        drain_strategy,
        parent_shutdown_time: seconds("parent-shutdown-time-s"),
        file_flush_interval: Duration::from_millis(number(m, "file-flush-interval-msec").into()),
        file_flush_min_size_kb: number(m, "file-flush-min-size-kb"),
        local_address_ip_version,
        admin_address_path: text(m, "admin-address-path"),
        base_id: number(m, "base-id"),
        base_id_path: text(m, "base-id-path"),
        use_dynamic_base_id,
        restart_epoch,
        disable_hot_restart: m.get_flag("disable-hot-restart"),
        skip_hot_restart_on_no_parent: m.get_flag("skip-hot-restart-on-no-parent"),
        skip_hot_restart_parent_stats: m.get_flag("skip-hot-restart-parent-stats"),
        allow_unknown_static_fields: m.get_flag("allow-unknown-static-fields") || m.get_flag("allow-unknown-fields"),
        reject_unknown_dynamic_fields: m.get_flag("reject-unknown-dynamic-fields"),
        ignore_unknown_dynamic_fields: m.get_flag("ignore-unknown-dynamic-fields"),
        skip_deprecated_logs: m.get_flag("skip-deprecated-logs"),
        enable_mutex_tracing: m.get_flag("enable-mutex-tracing"),
        enable_fine_grain_logging: m.get_flag("enable-fine-grain-logging"),
        enable_core_dump: m.get_flag("enable-core-dump"),
        log_stacktrace_single_entry: m.get_flag("log-stacktrace-single-entry"),
        cpuset_threads: m.get_flag("cpuset-threads"),
        disabled_extensions: split(&text(m, "disable-extensions")),
        socket_path: text(m, "socket-path"),
        socket_mode: u32::from_str_radix(&text(m, "socket-mode"), 8).unwrap_or_default(),
        stats_tags: m
            .get_many::<String>("stats-tag")
            .into_iter()
            .flatten()
            .map(|t| stats_tag(t))
            .collect::<Result<_, _>>()?,
    })
}

fn split(list: &str) -> Vec<String> {
    list.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

/// The standard library's answer takes the CPU affinity and the quota of cgroups v1 and v2, rounded down, into account; Envoy's is the same.
fn concurrency(given: Option<u32>) -> usize {
    match given {
        Some(n) => n.max(1) as usize,
        None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

fn component_levels(list: &str) -> Result<Vec<(usize, Level)>, CliError> {
    split(list)
        .iter()
        .map(|item| {
            let (name, l) = item
                .split_once(':')
                .ok_or_else(|| CliError(format!("error: component log level not correctly specified '{item}'")))?;
            let l = level(l)?;
            let component =
                log::component(name).ok_or_else(|| CliError(format!("error: invalid component specified '{name}'")))?;
            Ok((component, l))
        })
        .collect()
}

fn stats_tag(tag: &str) -> Result<(String, String), CliError> {
    let (name, value) =
        tag.split_once(':').ok_or_else(|| CliError(format!("error: misformatted stats-tag '{tag}'")))?;
    let bad = |part: &str| CliError(format!("error: misformatted stats-tag '{tag}' contains invalid char in '{part}'"));
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(bad(name));
    }
    if value.is_empty() || value.contains('.') {
        return Err(bad(value));
    }
    Ok((name.to_owned(), value.to_owned()))
}
