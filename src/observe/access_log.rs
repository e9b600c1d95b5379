//! Access-log files: one writer for each path.
//!
//! A worker appends whole lines to a buffer of its own, and the path's writer thread takes the buffers away: every flush interval, and when
//! one has grown to 64 KiB. The lock of a buffer is only ever contended for the moment of the exchange. A writer that cannot keep up lets
//! buffers grow to a limit, after which lines are dropped and counted; a worker never waits for a disk or a pipe.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use waypost_filters::access_log::Sink;

/// Default of `--file-flush-interval-msec`.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// The size of a buffer at which it is written without waiting for the interval; Envoy's default.
const MIN_FLUSH_SIZE: usize = 64 * 1024;

/// What a thread may hold for one file. Some tens of thousands of lines: a writer that far behind will not catch up.
const MAX_BUFFER_SIZE: usize = 8 * 1024 * 1024;

/// How long a flush waits for a writer that is stuck.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// The access-log files of the process; one writer for each path.
#[derive(Debug)]
pub struct AccessLogFiles {
    interval: Duration,
    writers: Mutex<HashMap<String, Writer>>,
}

#[derive(Debug)]
struct Writer {
    log: Arc<LogFile>,
    thread: Option<JoinHandle<()>>,
}

/// One file, as its sinks and its writer share it.
#[derive(Debug)]
struct LogFile {
    path: String,
    /// The place of this file's buffer in each thread's [`BUFFERS`].
    slot: usize,
    buffers: Mutex<Vec<Buffer>>,
    writer: Mutex<Option<thread::Thread>>,
    dropped: AtomicU64,
    reopen: AtomicBool,
    stop: AtomicBool,
    /// How many flushes were asked for, and how many are done.
    asked: AtomicU64,
    done: Mutex<u64>,
    progress: Condvar,
}

#[derive(Debug)]
enum Output {
    Stdout,
    Stderr,
    File(File),
}

/// Lines of one thread for one file; the thread adds to them and the file's writer takes them.
type Buffer = Arc<Mutex<Vec<u8>>>;

static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread's buffers by slot.
    static BUFFERS: RefCell<Vec<Option<Buffer>>> = const { RefCell::new(Vec::new()) };
}

impl Default for AccessLogFiles {
    fn default() -> AccessLogFiles {
        AccessLogFiles::new(FLUSH_INTERVAL)
    }
}

impl AccessLogFiles {
    /// Files that are written at least this often (`--file-flush-interval-msec`).
    pub fn new(interval: Duration) -> AccessLogFiles {
        AccessLogFiles { interval, writers: Mutex::default() }
    }

    /// The sink of a path; the file is created if need be. An error says why it cannot be opened.
    pub fn open(&self, path: &str) -> Result<Arc<dyn Sink>, String> {
        let mut writers = lock(&self.writers);
        if let Some(writer) = writers.get(path) {
            return Ok(writer.log.clone());
        }
        let output = Output::open(path).map_err(|e| format!("unable to open file '{path}': {}", reason(&e)))?;
        let log = Arc::new(LogFile {
            path: path.to_owned(),
            slot: NEXT_SLOT.fetch_add(1, Ordering::Relaxed),
            buffers: Mutex::default(),
            writer: Mutex::default(),
            dropped: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            done: Mutex::new(0),
            progress: Condvar::new(),
        });
        let (shared, interval) = (log.clone(), self.interval);
        let thread = thread::Builder::new()
            .name("access_log".to_owned())
            .spawn(move || shared.run(output, interval))
            .map_err(|e| format!("unable to start the writer of '{path}': {e}"))?;
        *lock(&log.writer) = Some(thread.thread().clone());
        writers.insert(path.to_owned(), Writer { log: log.clone(), thread: Some(thread) });
        Ok(log)
    }

    /// Opens all files again under their paths (`POST /reopen_logs`, SIGUSR1), after what has been logged is written.
    pub fn reopen(&self) {
        for writer in lock(&self.writers).values() {
            writer.log.reopen.store(true, Ordering::Release);
            writer.log.wake();
        }
    }

    /// Writes everything that has been logged, and returns when it is written, or when a writer is stuck; for shutdown and tests.
    pub fn flush(&self) {
        let logs: Vec<Arc<LogFile>> = lock(&self.writers).values().map(|w| w.log.clone()).collect();
        let asked: Vec<u64> = logs.iter().map(|log| log.ask()).collect();
        for (log, asked) in logs.iter().zip(asked) {
            log.wait(asked);
        }
    }

    /// How many lines were dropped as a writer did not keep up.
    pub fn dropped(&self) -> u64 {
        lock(&self.writers).values().map(|w| w.log.dropped.load(Ordering::Relaxed)).sum()
    }
}

impl Drop for AccessLogFiles {
    fn drop(&mut self) {
        self.flush();
        for writer in lock(&self.writers).values_mut() {
            writer.log.stop.store(true, Ordering::Release);
            writer.log.wake();
            // A writer that is stuck is left behind; the process is about to end.
            if let Some(thread) = writer.thread.take()
                && thread.is_finished()
            {
                let _ = thread.join();
            }
        }
    }
}

impl Sink for LogFile {
    fn line(&self, write: &mut dyn FnMut(&mut Vec<u8>)) {
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() <= self.slot {
                buffers.resize(self.slot + 1, None);
            }
            let Some(slot) = buffers.get_mut(self.slot) else { return };
            let buffer = slot.get_or_insert_with(|| {
                let buffer = Arc::default();
                lock(&self.buffers).push(Arc::clone(&buffer));
                buffer
            });
            let mut text = lock(buffer);
            let before = text.len();
            if before >= MAX_BUFFER_SIZE {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            write(&mut text);
            let is_due = before < MIN_FLUSH_SIZE && text.len() >= MIN_FLUSH_SIZE;
            drop(text);
            if is_due {
                self.wake();
            }
        });
    }
}

impl LogFile {
    fn wake(&self) {
        if let Some(writer) = &*lock(&self.writer) {
            writer.unpark();
        }
    }

    fn ask(&self) -> u64 {
        let asked = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake();
        asked
    }

    fn wait(&self, asked: u64) {
        let done = lock(&self.done);
        let result = self.progress.wait_timeout_while(done, FLUSH_PATIENCE, |done| *done < asked);
        if result.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            tracing::warn!(path = self.path, "access log was not flushed in time");
        }
    }

    /// The life of the writer thread.
    fn run(&self, mut output: Output, interval: Duration) {
        let mut taken = Vec::new();
        loop {
            let stop = self.stop.load(Ordering::Acquire);
            let asked = self.asked.load(Ordering::Acquire);
            let reopen = self.reopen.swap(false, Ordering::AcqRel);
            self.write_all(&mut output, &mut taken);
            if reopen {
                match Output::open(&self.path) {
                    Ok(opened) => output = opened,
                    Err(e) => tracing::warn!(path = self.path, "access log cannot be opened again: {e}"),
                }
            }
            *lock(&self.done) = asked;
            self.progress.notify_all();
            if stop {
                return;
            }
            thread::park_timeout(interval);
        }
    }

    /// Takes what threads have buffered and writes it.
    fn write_all(&self, output: &mut Output, taken: &mut Vec<u8>) {
        let buffers: Vec<_> = lock(&self.buffers).clone();
        for buffer in &buffers {
            taken.clear();
            // One that grew large is given back to the allocator.
            taken.shrink_to(2 * MIN_FLUSH_SIZE);
            std::mem::swap(&mut *lock(buffer), taken);
            if !taken.is_empty()
                && let Err(e) = output.write(taken)
            {
                tracing::warn!(path = self.path, "access log cannot be written: {e}");
            }
        }
        drop(buffers);
        // Buffers of threads that have ended, once they are written.
        lock(&self.buffers).retain(|b| Arc::strong_count(b) > 1 || !lock(b).is_empty());
    }
}

impl Output {
    fn open(path: &str) -> io::Result<Output> {
        Ok(match path {
            "/dev/stdout" => Output::Stdout,
            "/dev/stderr" => Output::Stderr,
            path => Output::File(OpenOptions::new().append(true).create(true).open(path)?),
        })
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text)?;
                stdout.flush()
            }
            Output::Stderr => io::stderr().lock().write_all(text),
            Output::File(file) => file.write_all(text),
        }
    }
}

/// An error's text without Rust's error number, as C prints it.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test, removed at its end.
    struct Directory(std::path::PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("waypost-access-log-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Directory(path)
        }

        fn file(&self, name: &str) -> String {
            self.0.join(name).to_str().unwrap().to_owned()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn hour() -> AccessLogFiles {
        AccessLogFiles::new(Duration::from_secs(3600))
    }

    fn say(sink: &dyn Sink, text: &str) {
        sink.line(&mut |out| out.extend_from_slice(text.as_bytes()));
    }

    #[test]
    fn lines_of_several_threads_are_whole_and_in_the_file_after_a_flush() {
        let directory = Directory::new("threads");
        let (files, path) = (hour(), directory.file("log"));
        let sink = files.open(&path).unwrap();
        thread::scope(|scope| {
            for t in 0..4 {
                let sink = &sink;
                scope.spawn(move || (0..5000).for_each(|i| say(&**sink, &format!("{t} line {i} of five thousand\n"))));
            }
        });
        files.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 20_000);
        assert!(text.lines().all(|l| l.ends_with("of five thousand") && l.split(' ').count() == 6));
        // Of one thread, in their order.
        let mine: Vec<&str> = text.lines().filter(|l| l.starts_with("2 ")).collect();
        assert!(mine.iter().enumerate().all(|(i, l)| *l == format!("2 line {i} of five thousand")));
        assert_eq!(files.dropped(), 0);
    }

    #[test]
    fn a_path_has_one_writer_and_reopening_follows_the_path() {
        let directory = Directory::new("reopen");
        let (files, path) = (hour(), directory.file("log"));
        let (one, two) = (files.open(&path).unwrap(), files.open(&path).unwrap());
        say(&*one, "a\n");
        say(&*two, "b\n");
        files.flush();
        let moved = directory.file("log.1");
        std::fs::rename(&path, &moved).unwrap();
        say(&*one, "c\n");
        files.reopen();
        files.flush();
        say(&*one, "d\n");
        drop(files);
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "a\nb\nc\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "d\n");
    }

    #[test]
    fn a_full_buffer_is_written_without_waiting() {
        let directory = Directory::new("full");
        let (files, path) = (hour(), directory.file("log"));
        let sink = files.open(&path).unwrap();
        say(&*sink, &"x".repeat(MIN_FLUSH_SIZE));
        let start = std::time::Instant::now();
        while std::fs::metadata(&path).unwrap().len() < MIN_FLUSH_SIZE as u64 {
            assert!(start.elapsed() < Duration::from_secs(20), "not written");
            thread::yield_now();
        }
    }

    #[test]
    fn lines_are_dropped_and_counted_when_the_writer_does_not_keep_up() {
        let log = LogFile {
            path: String::new(),
            slot: NEXT_SLOT.fetch_add(1, Ordering::Relaxed),
            buffers: Mutex::default(),
            writer: Mutex::default(),
            dropped: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            done: Mutex::new(0),
            progress: Condvar::new(),
        };
        say(&log, &"x".repeat(MAX_BUFFER_SIZE));
        say(&log, "y");
        say(&log, "z");
        assert_eq!(log.dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert_eq!(
            hour().open("/no/such/directory/log").unwrap_err(),
            "unable to open file '/no/such/directory/log': No such file or directory"
        );
    }
}
