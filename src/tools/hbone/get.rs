//! `waypost hbone get`: requests through a tunnel, by a client library that is strict about HTTP.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::client::{Client, Connection, Renewed, Target, header, within};
use super::{count_arg, target, target_arg};
use crate::tools::args::{option, value};
use crate::tools::error::Error;
use crate::tools::histogram::Histogram;

/// ztunnel's POOL_MAX_STREAMS_PER_CONNECTION.
const TUNNELS_PER_CONNECTION: usize = 100;

/// The command's arguments.
pub fn cli() -> Command {
    Command::new("get")
        .about("Sends a request, or many, and prints the answer, or how long they took")
        .args(super::client::args())
        .arg(
            option("request", "METHOD", "the method: GET, or POST with --data")
                .short('X')
                .value_parser(|m: &str| m.parse::<Method>().map_err(|e| e.to_string())),
        )
        .arg(option("header", "NAME: VALUE", "add a header").short('H').value_parser(header).action(ArgAction::Append))
        .arg(option("data", "DATA", "the body; @FILE reads it from a file").short('d'))
        .arg(Arg::new("http2").long("http2").action(ArgAction::SetTrue).help("speak HTTP/2 inside the tunnel"))
        .arg(count_arg("repeat", "1", "how many requests in all"))
        .arg(count_arg("concurrency", "1", "how many tunnels at a time"))
        .arg(target_arg())
}

/// What to ask, and how.
struct Question {
    request: Request<Full<Bytes>>,
    authority: String,
    http2: bool,
    timeout: Duration,
}

impl Question {
    fn from_args(m: &ArgMatches) -> Result<Self, Error> {
        let (target, http2) = (target(m)?, m.get_flag("http2"));
        let body = match m.get_one::<String>("data") {
            Some(data) => Some(match data.strip_prefix('@') {
                Some(path) => read(path.into())?,
                None => Bytes::from(data.clone()),
            }),
            None => None,
        };
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::new(Full::new(body.unwrap_or_default()));
        *request.method_mut() = m.get_one("request").cloned().unwrap_or(method);
        for (name, value) in m.get_many::<(HeaderName, HeaderValue)>("header").into_iter().flatten() {
            request.headers_mut().append(name, value.clone());
        }
        let usage = |e: &dyn ToString| Error::Usage(e.to_string());
        if http2 {
            // Its host is :authority.
            let host = request.headers_mut().remove(header::HOST);
            let host = host.as_ref().and_then(|h| h.to_str().ok()).unwrap_or(target.host());
            *request.uri_mut() = Uri::builder()
                .scheme("http")
                .authority(host)
                .path_and_query(target.path())
                .build()
                .map_err(|e| usage(&e))?;
        } else {
            *request.uri_mut() = target.path().parse().map_err(|e| usage(&e))?;
            if !request.headers().contains_key(header::HOST) {
                let host = HeaderValue::from_str(target.host()).map_err(|e| usage(&e))?;
                request.headers_mut().insert(header::HOST, host);
            }
        }
        Ok(Self { request, authority: target.authority, http2, timeout: value(m, "timeout") })
    }

    /// Opens a tunnel and an HTTP connection in it.
    async fn open(&self, connection: &Connection) -> Result<Session, Error> {
        let tunnel = TokioIo::new(connection.open(&self.authority).await?);
        let failed = |e| Error::tunnel(&self.authority, reason(&e));
        if self.http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), tunnel).await.map_err(failed)?;
            tokio::spawn(connection);
            Ok(Session::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(tunnel).await.map_err(failed)?;
            tokio::spawn(connection);
            Ok(Session::Http1(sender))
        }
    }

    /// Asks, and reads the whole answer.
    async fn ask(&self, session: &mut Session) -> Result<Response<Bytes>, Error> {
        let failed = |e| Error::tunnel(&self.authority, reason(&e));
        within(self.timeout, "the answer", async {
            let request = self.request.clone();
            let response = match session {
                Session::Http1(sender) => {
                    sender.ready().await.map_err(failed)?;
                    sender.send_request(request).await
                }
                Session::Http2(sender) => {
                    sender.ready().await.map_err(failed)?;
                    sender.send_request(request).await
                }
            };
            let (parts, body) = response.map_err(failed)?.into_parts();
            let body = body.collect().await.map_err(failed)?.to_bytes();
            Ok(Response::from_parts(parts, body))
        })
        .await
    }
}

enum Session {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// The library's message leaves out why.
fn reason(e: &hyper::Error) -> String {
    match std::error::Error::source(e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    }
}

fn read(path: PathBuf) -> Result<Bytes, Error> {
    std::fs::read(&path).map(Bytes::from).map_err(|source| Error::File { path, source })
}

/// Asks once and prints the answer, or often and prints a summary.
pub async fn run(m: &ArgMatches) -> Result<(), Error> {
    let client = Arc::new(Client::from_args(m)?);
    let question = Arc::new(Question::from_args(m)?);
    let (repeat, concurrency): (u32, u32) = (value(m, "repeat"), value(m, "concurrency"));
    if repeat == 1 && concurrency == 1 {
        let connection = client.connect(0).await?;
        let mut session = question.open(&connection).await?;
        return print(&question.ask(&mut session).await?);
    }
    many(&client, &question, u64::from(repeat.max(concurrency)), concurrency as usize).await
}

fn print(response: &Response<Bytes>) -> Result<(), Error> {
    let status = response.status();
    let mut out = io::stdout().lock();
    writeln!(out, "{:?} {} {}", response.version(), status.as_str(), status.canonical_reason().unwrap_or(""))?;
    for (name, value) in response.headers() {
        write!(out, "{name}: ")?;
        out.write_all(value.as_bytes())?;
        writeln!(out)?;
    }
    writeln!(out)?;
    out.write_all(response.body())?;
    Ok(out.flush()?)
}

#[derive(Default)]
struct Tally {
    latency: Histogram,
    errors: u64,
    last_error: Option<Error>,
    statuses: std::collections::BTreeMap<u16, u64>,
}

async fn many(client: &Arc<Client>, question: &Arc<Question>, count: u64, concurrency: usize) -> Result<(), Error> {
    let lanes = Renewed::connect(client, concurrency.div_ceil(TUNNELS_PER_CONNECTION)).await?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    let left = Arc::new(AtomicU64::new(count));
    let start = Instant::now();
    let tasks: Vec<_> = (0..concurrency)
        .zip(lanes.iter().cycle())
        .map(|(_, lane)| tokio::spawn(ask_on(lane.clone(), question.clone(), left.clone(), tally.clone())))
        .collect();
    let shown = tokio::spawn(progress(left.clone(), count));
    for task in tasks {
        task.await.map_err(|e| Error::Failed(e.to_string()))?;
    }
    shown.abort();
    let elapsed = start.elapsed();
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let (h, ms) = (&tally.latency, |us: u64| us as f64 / 1e3);
    let statuses: Vec<_> = tally.statuses.iter().map(|(s, n)| format!("{s}: {n}")).collect();
    let rps = h.count() as f64 / elapsed.as_secs_f64();
    let mut out = io::stdout().lock();
    writeln!(out, "requests {}  errors {}  rps {rps:.1}  ({})", h.count(), tally.errors, statuses.join(", "))?;
    let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| ms(h.quantile(q)));
    writeln!(out, "ms: min {:.3}  p50 {p50:.3}  p90 {p90:.3}  p99 {p99:.3}  max {:.3}", ms(h.min()), ms(h.max()))?;
    tally.last_error.take().map_or(Ok(()), Err)
}

async fn progress(left: Arc<AtomicU64>, count: u64) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = write!(io::stderr(), "\r{} of {count}", count - left.load(Ordering::Relaxed));
    }
}

async fn ask_on(lane: Arc<Renewed>, question: Arc<Question>, left: Arc<AtomicU64>, tally: Arc<Mutex<Tally>>) {
    let mut session = None;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
        let start = Instant::now();
        let answer = asked(&lane, &question, &mut session).await;
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(response) => {
                tally.latency.record(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
                *tally.statuses.entry(response.status().as_u16()).or_default() += 1;
            }
            Err(e) => {
                tally.errors += 1;
                tally.last_error = Some(e);
                session = None;
            }
        }
    }
}

/// One request on the lane's tunnel; it is opened where there is none, or where the last answer closed it.
async fn asked(lane: &Renewed, question: &Question, session: &mut Option<Session>) -> Result<Response<Bytes>, Error> {
    let usable = match session {
        Some(Session::Http1(s)) => !s.is_closed(),
        Some(Session::Http2(s)) => !s.is_closed(),
        None => false,
    };
    let session = match session {
        Some(session) if usable => session,
        slot => slot.insert(question.open(&lane.get().await?).await?),
    };
    let response = question.ask(session).await?;
    Ok(response)
}

/// One GET, for the demonstration: status and body.
pub async fn once(client: &Client, target: &Target) -> Result<(u16, Bytes), Error> {
    let mut request = Request::new(Full::default());
    let usage = |e: &dyn ToString| Error::Usage(e.to_string());
    *request.uri_mut() = target.path().parse().map_err(|e| usage(&e))?;
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(target.host()).map_err(|e| usage(&e))?);
    let question = Question { request, authority: target.authority.clone(), http2: false, timeout: client.timeout };
    let mut session = question.open(&client.connect(0).await?).await?;
    let response = question.ask(&mut session).await?;
    Ok((response.status().as_u16(), response.into_body()))
}
