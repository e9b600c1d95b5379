//! Process logs in Envoy's format: what `tracing` is told, on stderr or in `--log-path`.

mod component;
mod pattern;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

pub use self::component::{COMPONENTS, component};
use self::pattern::{Line, Pattern};

/// `--log-format` unless it is set.
pub const DEFAULT_FORMAT: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// Envoy's log levels, those of spdlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are Envoy's")]
pub enum Level {
    Trace,
    Debug,
    #[default]
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

const LEVELS: [(Level, &str); 7] = [
    (Level::Trace, "trace"),
    (Level::Debug, "debug"),
    (Level::Info, "info"),
    (Level::Warning, "warning"),
    (Level::Error, "error"),
    (Level::Critical, "critical"),
    (Level::Off, "off"),
];

impl Level {
    /// The level of a name; `warn` is `warning`.
    pub fn parse(name: &str) -> Option<Level> {
        let name = if name == "warn" { "warning" } else { name };
        LEVELS.iter().find(|(_, n)| *n == name).map(|(l, _)| *l)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        LEVELS.get(self as usize).map_or("off", |(_, n)| n)
    }

    fn from_number(n: u8) -> Level {
        LEVELS.get(usize::from(n)).map_or(Level::Off, |(l, _)| *l)
    }

    fn of(level: tracing::Level) -> Level {
        match level {
            tracing::Level::TRACE => Level::Trace,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::INFO => Level::Info,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::ERROR => Level::Error,
        }
    }
}

/// How the process logs.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// `--log-level`
    pub level: Level,
    /// `--component-log-level`
    pub components: Vec<(usize, Level)>,
    /// `--log-format`
    pub format: String,
    /// `--log-format-escaped`
    pub escaped: bool,
    /// `--log-path`; stderr if there is none.
    pub path: Option<PathBuf>,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            level: Level::Info,
            components: Vec::new(),
            format: DEFAULT_FORMAT.to_owned(),
            escaped: false,
            path: None,
        }
    }
}

/// What can be changed of the logs while the process runs. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle(Arc<Logs>);

struct Logs {
    levels: Vec<AtomicU8>,
    pattern: ArcSwap<Pattern>,
    escaped: bool,
    path: Option<PathBuf>,
    output: Mutex<Output>,
}

enum Output {
    Stderr,
    File(File),
    #[cfg(test)]
    Memory(Vec<u8>),
}

/// Logs as told, for the whole process; to be called once.
pub fn init(options: &LogOptions) -> io::Result<LogHandle> {
    let handle = LogHandle::new(options)?;
    tracing::subscriber::set_global_default(handle.subscriber())
        .map_err(|e| io::Error::new(io::ErrorKind::AlreadyExists, e))?;
    Ok(handle)
}

impl LogHandle {
    /// Logs that nothing goes to before [`LogHandle::subscriber`] is installed.
    pub fn new(options: &LogOptions) -> io::Result<LogHandle> {
        let output = match &options.path {
            Some(path) => Output::File(open(path)?),
            None => Output::Stderr,
        };
        let logs = Logs {
            levels: COMPONENTS.iter().map(|_| AtomicU8::new(options.level as u8)).collect(),
            pattern: ArcSwap::from_pointee(Pattern::parse(&options.format)),
            escaped: options.escaped,
            path: options.path.clone(),
            output: Mutex::new(output),
        };
        let handle = LogHandle(Arc::new(logs));
        for (component, level) in &options.components {
            handle.set(*component, *level);
        }
        Ok(handle)
    }

    /// What `tracing` writes to.
    pub fn subscriber(&self) -> impl Subscriber + Send + Sync + 'static {
        EnvoySubscriber(self.0.clone())
    }

    /// Changes the format (`application_log_config.log_format`).
    pub fn set_format(&self, format: &str) {
        self.0.pattern.store(Arc::new(Pattern::parse(format)));
    }

    /// Changes the level of one component.
    pub fn set(&self, component: usize, level: Level) {
        if let Some(l) = self.0.levels.get(component) {
            l.store(level as u8, Relaxed);
        }
        tracing::callsite::rebuild_interest_cache();
    }

    /// Changes the level of all.
    pub fn set_all(&self, level: Level) {
        self.0.levels.iter().for_each(|l| l.store(level as u8, Relaxed));
        tracing::callsite::rebuild_interest_cache();
    }

    /// The components and their levels, in Envoy's order.
    pub fn levels(&self) -> impl Iterator<Item = (&'static str, Level)> {
        COMPONENTS.iter().zip(&self.0.levels).map(|(n, l)| (*n, Level::from_number(l.load(Relaxed))))
    }

    /// Opens `--log-path` again.
    pub fn reopen(&self) {
        if let Some(path) = &self.0.path
            && let Ok(file) = open(path)
        {
            *self.0.output() = Output::File(file);
        }
    }
}

/// `json_format` of `application_log_config.log_format` as the pattern that it stands for; keys are sorted as Envoy does.
pub fn json_pattern(format: &serde_json::Value) -> String {
    fn sorted(value: &serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(map) => {
                let mut pairs: Vec<_> = map.iter().collect();
                pairs.sort_by_key(|(k, _)| k.as_str());
                pairs.into_iter().map(|(k, v)| (k.clone(), sorted(v))).collect::<serde_json::Map<_, _>>().into()
            }
            serde_json::Value::Array(list) => list.iter().map(sorted).collect::<Vec<_>>().into(),
            other => other.clone(),
        }
    }
    sorted(format).to_string()
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Logs {
    fn output(&self) -> std::sync::MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shows(&self, metadata: &Metadata<'_>) -> bool {
        let (component, own) = component::of_target(metadata.target());
        let level = Level::of(*metadata.level());
        // What libraries say below `info` may hold header values: tokens and cookies are not ours to log.
        (own || level >= Level::Info) && self.levels.get(component).is_some_and(|l| level as u8 >= l.load(Relaxed))
    }

    fn write(&self, line: &[u8]) {
        // There is no place to report that a log cannot be written.
        let _ = match &mut *self.output() {
            Output::Stderr => io::stderr().write_all(line),
            Output::File(file) => file.write_all(line),
            #[cfg(test)]
            Output::Memory(bytes) => bytes.write_all(line),
        };
    }
}

struct EnvoySubscriber(Arc<Logs>);

thread_local! {
    static BUFFER: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
    /// This thread's number in the kernel, 0 until it was looked up.
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

fn thread_number() -> u32 {
    THREAD.with(|cell| {
        if cell.get() == 0 {
            // The link reads `<process>/task/<thread>`.
            let link = std::fs::read_link("/proc/thread-self").unwrap_or_default();
            let number = link.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
            cell.set(number.unwrap_or_else(std::process::id));
        }
        cell.get()
    })
}

impl Subscriber for EnvoySubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Levels change rarely and the cache is rebuilt then, so a line that is off costs one load.
        if metadata.is_event() && self.0.shows(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.0.shows(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        BUFFER.with(|buffer| {
            // A value that logs while it is being formatted is left out.
            let Ok(mut buffer) = buffer.try_borrow_mut() else { return };
            let (message, out) = &mut *buffer;
            message.clear();
            out.clear();
            event.record(&mut Fields(message));
            let (component, _) = component::of_target(metadata.target());
            let line = Line {
                time: time::OffsetDateTime::now_utc(),
                level: Level::of(*metadata.level()),
                component: COMPONENTS.get(component).copied().unwrap_or("misc"),
                file: metadata.file().unwrap_or_default(),
                line: metadata.line().unwrap_or_default(),
                thread: thread_number(),
                message,
            };
            self.0.pattern.load().format(&line, out);
            if self.0.escaped {
                *out = pattern::c_escape(out);
            }
            out.push('\n');
            self.0.write(out.as_bytes());
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        // Spans are disabled; an id is needed all the same.
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The message, then ` name=value` for each field.
struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            let fields = std::mem::take(self.0);
            let r = write!(self.0, "{value:?}");
            self.0.push_str(&fields);
            r
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
impl LogHandle {
    fn to_memory(&self) {
        *self.0.output() = Output::Memory(Vec::new());
    }

    fn written(&self) -> String {
        match &*self.0.output() {
            Output::Memory(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Output::Stderr | Output::File(_) => String::new(),
        }
    }
}
