//! The proxy as a process: load, start, serve, end.

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use waypost_filters::address::Address;
use waypost_filters::metadata::json_of_struct;

use crate::cli::{Mode, Options};
use crate::cluster::ClusterTable;
use crate::config::ConfigError;
use crate::config::bootstrap::{self, Settings};
use crate::lifecycle::{Control, Drain, ServerState};
use crate::listener::ListenerSet;
use crate::net::socket::listen;
use crate::observe::access_log::AccessLogFiles;
use crate::observe::log::{self, LogHandle, LogOptions};
use crate::observe::stats::Store;
use crate::overload::resident_bytes;
use crate::tls::SecretStore;
use crate::worker::{self, Command, Shared};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A socket of a listener.
    #[error("listener {name}: cannot listen on {address}: {error}")]
    Listen {
        /// The listener.
        name: Arc<str>,
        /// Where.
        address: Address,
        /// Why.
        error: std::io::Error,
    },
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
    let process = bootstrap::process(&settings);
    let resources = std::mem::take(&mut settings.resources);
    let compiled = bootstrap::compile(resources, &stats, &clusters, &logs, &secrets, &process)?;
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
        listeners: ArcSwap::from_pointee(compiled.listeners),
        stats,
        drain: Drain::new(options.drain_strategy, options.drain_time),
        workers: OnceLock::new(),
        overload: std::mem::take(&mut settings.overload),
    });
    let control = Control::new(shared.clone());
    let threads =
        worker::start(&shared, options.concurrency).map_err(|e| StartError::System("cannot start workers", e))?;
    if let Some(address) = admin_address {
        crate::admin::launch(address, &options, &settings, &shared, &control, config, log, &logs, &secrets)
            .map_err(|e| StartError::System("admin", e))?;
    }
    open(&shared)?;
    control.stage.set(ServerState::Live);
    tracing::info!(target: "main", "starting main dispatch loop");
    control_loop(&control, &secrets, &logs);
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
    Ok(())
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

/// Opens the listening sockets, one for each worker, so that the kernel spreads connections.
fn open(shared: &Arc<Shared>) -> Result<(), StartError> {
    let set: Arc<ListenerSet> = shared.listeners.load_full();
    let workers = shared.workers.get().map(Vec::as_slice).unwrap_or_default();
    for listener in set.all.iter().filter(|l| l.bind && !l.internal) {
        for address in &listener.addresses {
            let fail = |error| StartError::Listen { name: listener.name.clone(), address: address.clone(), error };
            let shares = matches!(address, Address::Ip(_)) && listener.options.reuse_port;
            let mut first = None;
            for worker in workers {
                let socket = match &first {
                    Some(socket) if !shares => socket2::Socket::try_clone(socket).map_err(fail)?,
                    _ => listen(address, &listener.options).map_err(fail)?,
                };
                if first.is_none() && !shares {
                    first = Some(socket.try_clone().map_err(fail)?);
                }
                let command = match address {
                    Address::Pipe(_) => Command::ListenUnix(listener.clone(), socket.into()),
                    _ => Command::Listen(listener.clone(), socket.into()),
                };
                // The worker has just been started.
                let _ = worker.sender.send(command);
            }
        }
    }
    Ok(())
}

/// What the main thread does while workers serve: signals, secrets that change, overload.
fn control_loop(control: &Arc<Control>, secrets: &Arc<SecretStore>, logs: &Arc<AccessLogFiles>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            tracing::error!(target: "main", "no runtime: {e}");
            return;
        }
    };
    runtime.block_on(async {
        let secrets = secrets.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(SECRET_INTERVAL);
            loop {
                tick.tick().await;
                secrets.reload();
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
        for cluster in control.shared.clusters.clusters() {
            // Nobody waits: until its names are known, a cluster has no hosts. The task ends with the cluster.
            drop(crate::cluster::dns::resolve(&cluster, tokio::sync::oneshot::channel().0));
        }
        let logs = logs.clone();
        if let Err(e) = control.clone().signals(move || logs.reopen()).await {
            tracing::error!(target: "main", "signals: {e}");
        }
    });
}

/// How often files of secrets are looked at: a certificate that has been replaced is served within this time.
const SECRET_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);
