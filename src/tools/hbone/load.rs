//! `waypost hbone load`: requests back to back on long-lived tunnels, and what they cost in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{ArgMatches, Command};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, Renewed, Target};
use super::{count_arg, print_json, target, target_arg};
use crate::tools::args::{duration, option, value};
use crate::tools::error::Error;
use crate::tools::exchange::exchange;
use crate::tools::histogram::Histogram;

/// A tunnel that fails is opened anew, but a proxy that refuses all of them is not to be flooded.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// The answer to the last request may come a little after the end.
const GRACE: Duration = Duration::from_secs(5);

/// The command's arguments.
pub fn cli() -> Command {
    Command::new("load")
        .about("Requests back to back on C × S tunnels; one line of JSON")
        .args(super::client::args())
        .arg(count_arg("connections", "1", "HBONE connections"))
        .arg(count_arg("streams", "1", "tunnels on each"))
        .arg(
            option("duration", "TIME", "how long, unless SIGINT ends it before")
                .default_value("5s")
                .value_parser(duration),
        )
        .arg(target_arg())
}

#[derive(Default)]
struct Tally {
    latency: Histogram,
    errors: u64,
    first_error: Option<String>,
}

/// What a load measured.
pub struct Outcome {
    /// Latencies in microseconds, of the requests that were answered below 400.
    pub latency: Histogram,
    /// Tunnels that failed, and answers of 400 and above.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Runs the load and prints its line.
pub async fn run(m: &ArgMatches) -> Result<(), Error> {
    let client = Arc::new(Client::from_args(m)?);
    let (connections, streams): (u32, u32) = (value(m, "connections"), value(m, "streams"));
    let o =
        load(&client, &target(m)?, connections as usize, streams as usize, value(m, "duration"), interrupted()).await?;
    let requests = o.latency.count();
    print_json(&json!({
        "requests": requests,
        "errors": o.errors,
        "rps": (requests as f64 / o.elapsed.as_secs_f64() * 10.0).round() / 10.0,
        "p50_us": o.latency.quantile(0.5),
        "p99_us": o.latency.quantile(0.99),
        "duration_s": o.elapsed.as_secs_f64(),
    }))?;
    match o.first_error {
        Some(e) if requests == 0 => Err(Error::Failed(e)),
        Some(e) => super::note(&format!("{} errors, the first: {e}", o.errors)),
        None => Ok(()),
    }
}

/// When a load is over: at its time, or when it is told to stop.
#[derive(Clone)]
struct Over {
    end: Instant,
    told: Arc<AtomicBool>,
}

impl Over {
    fn at(&self, now: Instant) -> bool {
        now >= self.end || self.told.load(Ordering::Relaxed)
    }
}

/// Set by SIGINT, so that a load whose length nobody knows beforehand can be ended and still print its line.
fn interrupted() -> Arc<AtomicBool> {
    let told = Arc::new(AtomicBool::new(false));
    let flag = told.clone();
    if let Ok(mut int) = signal(SignalKind::interrupt()) {
        tokio::spawn(async move {
            int.recv().await;
            flag.store(true, Ordering::Relaxed);
        });
    }
    told
}

/// Loads `target` until the time is over, or `told` is set.
pub async fn load(
    client: &Arc<Client>,
    target: &Target,
    connections: usize,
    streams: usize,
    time: Duration,
    told: Arc<AtomicBool>,
) -> Result<Outcome, Error> {
    let lanes = Renewed::connect(client, connections).await?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    let request = target.get(target.path());
    let start = Instant::now();
    let end = start + time;
    let over = Over { end, told };
    let tasks: Vec<_> = lanes
        .iter()
        .flat_map(|lane| std::iter::repeat_n(lane, streams))
        .map(|lane| {
            tokio::spawn(stream(lane.clone(), target.authority.clone(), request.clone(), over.clone(), tally.clone()))
        })
        .collect();
    for task in tasks {
        let abort = task.abort_handle();
        if tokio::time::timeout_at((end + GRACE).into(), task).await.is_err() {
            abort.abort();
            failed(&tally, &format!("no answer {GRACE:?} after the end"));
        }
    }
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let Tally { latency, errors, first_error } = std::mem::take(&mut *tally);
    Ok(Outcome { latency, errors, first_error, elapsed: start.elapsed() })
}

async fn stream(lane: Arc<Renewed>, authority: String, request: Bytes, over: Over, tally: Arc<Mutex<Tally>>) {
    while !over.at(Instant::now()) {
        if let Err(e) = tunnel(&lane, &authority, &request, &over, &tally).await {
            failed(&tally, &e.to_string());
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

/// Requests on one tunnel, until the end or until the peer wants no more on it.
async fn tunnel(
    lane: &Renewed,
    authority: &str,
    request: &Bytes,
    over: &Over,
    tally: &Mutex<Tally>,
) -> Result<(), Error> {
    let mut tunnel = lane.get().await?.open(authority).await?;
    let mut input = Bytes::new();
    let mut start = Instant::now();
    while !over.at(start) {
        let answer =
            exchange(&mut tunnel, &mut input, request.clone()).await.map_err(|e| Error::tunnel(authority, e))?;
        let now = Instant::now();
        if answer.status < 400 {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.latency.record(u64::try_from((now - start).as_micros()).unwrap_or(u64::MAX));
        } else {
            failed(tally, &format!("answered {}", answer.status));
        }
        if !answer.reusable {
            break;
        }
        start = now;
    }
    Ok(())
}

fn failed(tally: &Mutex<Tally>, reason: &str) {
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.errors += 1;
    tally.first_error.get_or_insert_with(|| reason.to_owned());
}
