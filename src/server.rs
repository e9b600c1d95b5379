//! The proxy as a process: load, start, serve, end.

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};

use waypost_filters::metadata::json_of_struct;
use waypost_xds::envoy::config::core::v3::node::UserAgentVersionType;
use waypost_xds::envoy::config::core::v3::{BuildVersion, Node};
use waypost_xds::envoy::r#type::v3::SemanticVersion;

use crate::admin::{ConfigStore, RuntimeLayer};
use crate::cli::{Mode, Options};
use crate::cluster::ClusterTable;
use crate::config::bootstrap::{self, Settings};
use crate::config::extension_slot::ExtensionSlots;
use crate::config::{ConfigError, Context, Process};
use crate::discovery::{Dynamic, Manager, Setup};
use crate::lifecycle::{Control, Drain};
use crate::listener::compile::Compiled;
use crate::listener::manager::{ListenerError, ListenerManager};
use crate::observe::access_log::AccessLogFiles;
use crate::observe::log::{self, LogHandle, LogOptions};
use crate::observe::stats::Store;
use crate::overload::resident_bytes;
use crate::route::slot::RouteSlots;
use crate::tls::SecretStore;
use crate::worker::{self, Command, Shared, Worker};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A listener.
    #[error("listener {0}: {1}")]
    Listener(Arc<str>, ListenerError),
    /// Anything else of the system.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
}

/// Runs a proxy until it ends.
pub fn run(options: Options) -> ExitCode {
    let say = |text: String| {
        // Nothing can be done about a closed stderr.
        let _ = writeln!(std::io::stderr(), "{text}");
    };
    let handle = match start_log(&options) {
        Ok(h) => h,
        Err(e) => {
            say(format!("cannot log: {e}"));
            return ExitCode::FAILURE;
        }
    };
    match serve(options, handle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(e.to_string());
            ExitCode::FAILURE
        }
    }
}

fn start_log(options: &Options) -> std::io::Result<LogHandle> {
    log::init(&LogOptions {
        level: options.log_level,
        components: options.component_log_levels.clone(),
        format: options.log_format.clone(),
        escaped: options.log_format_escaped,
        path: (!options.log_path.is_empty()).then(|| options.log_path.clone().into()),
    })
}

fn serve(options: Options, log: LogHandle) -> Result<(), StartError> {
    let proto = bootstrap::read(&options.config_path, &options.config_yaml, !options.allow_unknown_static_fields)?;
    let config = Arc::new(crate::admin::ConfigStore::default());
    config.set_bootstrap(&proto);
    crate::admin::keep_static(&config, &proto);
    let mut settings = bootstrap::settings(proto)?;
    for (given, field) in
        [(&options.service_node, &mut settings.node.id), (&options.service_cluster, &mut settings.node.cluster)]
    {
        if !given.is_empty() {
            field.clone_from(given);
        }
    }
    if !options.log_format_set {
        apply_log_format(&log, &mut settings);
    }
    let stats = Arc::new(Store::default());
    let clusters = ClusterTable::default();
    let logs = Arc::new(AccessLogFiles::new(options.file_flush_interval));
    let secrets = SecretStore::new();
    let (routes, extensions) = (Arc::new(RouteSlots::default()), Arc::new(ExtensionSlots::default()));
    let mut process = bootstrap::process(&settings);
    process.reject_unknown_dynamic = options.reject_unknown_dynamic_fields;
    let resources = std::mem::take(&mut settings.resources);
    let context = Context {
        stats: &stats,
        clusters: &clusters,
        logs: &logs,
        secrets: &secrets,
        routes: &routes,
        extensions: &extensions,
        process: &process,
    };
    let compiled = bootstrap::compile(resources, &context)?;
    let admin_address = bootstrap::admin_address(settings.admin.as_ref().and_then(|a| a.address.clone()))?;
    if options.mode == Mode::Validate {
        // Envoy's words, which scripts look for.
        let _ = writeln!(std::io::stdout(), "configuration '{}' OK", options.config_path);
        return Ok(());
    }
    if options.mode == Mode::InitOnly {
        return Ok(());
    }
    let shared = Arc::new(Shared {
        clusters,
        listeners: Default::default(),
        stats,
        drain: Drain::new(options.drain_strategy, options.drain_time),
        workers: OnceLock::new(),
        overload: std::mem::take(&mut settings.overload),
    });
    let control = Control::new(shared.clone());
    let threads =
        worker::start(&shared, options.concurrency).map_err(|e| StartError::System("cannot start workers", e))?;
    let layers = settings.runtime.iter();
    let layers = layers.map(|(name, values)| RuntimeLayer { name: name.clone(), values: values.clone() }).collect();
    let runtime = Arc::new(Mutex::new(layers));
    if let Some(address) = admin_address {
        let (config, runtime) = (config.clone(), runtime.clone());
        crate::admin::launch(address, &options, &settings, &shared, &control, config, log, &logs, &secrets, runtime)
            .map_err(|e| StartError::System("admin", e))?;
    }
    tracing::info!(target: "main", "starting main dispatch loop");
    let ended = control_loop(
        &control,
        &logs,
        &secrets,
        Configured {
            compiled: compiled.listeners,
            config,
            routes,
            extensions,
            process,
            runtime,
            node: discovery_node(settings.node),
            dynamic: settings.dynamic,
        },
    );
    for worker in shared.workers.get().into_iter().flatten() {
        // A worker that is gone needs no telling.
        let _ = worker.sender.send(Command::Stop);
    }
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!(target: "main", "a worker has ended by a panic");
        }
    }
    logs.flush();
    tracing::info!(target: "main", "exiting");
    ended
}

/// What the bootstrap gave, on its way to the control thread.
struct Configured {
    compiled: Vec<Compiled>,
    config: Arc<ConfigStore>,
    routes: Arc<RouteSlots>,
    extensions: Arc<ExtensionSlots>,
    process: Process,
    runtime: Arc<Mutex<Vec<RuntimeLayer>>>,
    node: Node,
    dynamic: Dynamic,
}

/// What a discovery service is told of us: to it we are an Envoy, of the version whose API we speak.
fn discovery_node(mut node: Node) -> Node {
    node.user_agent_name = "envoy".to_owned();
    node.user_agent_version_type = Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
        version: Some(SemanticVersion { major_number: 1, minor_number: 40, patch: 0 }),
        metadata: None,
    }));
    node
}

/// `application_log_config.log_format`.
fn apply_log_format(log: &LogHandle, settings: &mut Settings) {
    use waypost_xds::envoy::config::bootstrap::v3::bootstrap::application_log_config::{LogFormat, log_format};
    match settings.log.take().and_then(|l| l.log_format).and_then(|LogFormat { log_format }| log_format) {
        Some(log_format::LogFormat::TextFormat(text)) => log.set_format(&text),
        Some(log_format::LogFormat::JsonFormat(fields)) => {
            log.set_format(&log::json_pattern(&json_of_struct(fields)));
        }
        None => {}
    }
}

/// What the main thread does while workers serve: discovery, signals, secrets in files, overload.
fn control_loop(
    control: &Arc<Control>,
    logs: &Arc<AccessLogFiles>,
    secrets: &Arc<SecretStore>,
    configured: Configured,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| StartError::System("no runtime", e))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let files = secrets.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(SECRET_INTERVAL);
            loop {
                tick.tick().await;
                files.reload();
            }
        });
        let shared = control.shared.clone();
        if shared.overload.watches() {
            tokio::spawn(async move {
                let mut tick = tokio::time::interval(shared.overload.interval);
                loop {
                    tick.tick().await;
                    shared.overload.update(resident_bytes());
                }
            });
        }
        let shared = control.shared.clone();
        let Configured { compiled, config, routes, extensions, process, runtime, node, dynamic } = configured;
        let manager = Manager::new(Setup {
            worker: Worker::control(shared.clone()),
            listeners: ListenerManager::new(shared.clone()),
            shared,
            config,
            logs: logs.clone(),
            secrets: secrets.clone(),
            routes,
            extensions,
            process,
            node,
            dynamic,
            compiled,
            control: control.clone(),
            workloads: Arc::default(),
            runtime,
        });
        let logs = logs.clone();
        tokio::select! {
            result = control.clone().signals(move || logs.reopen()) => {
                result.map_err(|e| StartError::System("signals", e))
            }
            result = manager.run() => {
                result.map_err(|(name, e)| StartError::Listener(name, e))
            }
        }
    })
}

/// How often files of secrets are looked at: a certificate that has been replaced is served within this time.
const SECRET_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);
