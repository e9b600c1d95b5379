//! The admin thread: an HTTP/1.1 server on a runtime of its own.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue, SERVER, USER_AGENT, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;
use waypost_filters::access_log::Sink;

use super::AdminState;
use super::help;
use super::page::Page;
use super::query::Query;

/// A form is a few parameters; more than this is no form.
const MAX_BODY: usize = 64 * 1024;

/// How long a client may take to send its request line and headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long answers may take to leave when the process ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// `admin` of the bootstrap.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// `address`
    pub address: SocketAddr,
    /// `access_log`: lines in Envoy's default format.
    pub access_log: Vec<Arc<dyn Sink>>,
}

/// Starts the admin thread; the address is the one that was bound. The thread ends when the process is to end.
pub fn start(config: AdminConfig, state: Arc<AdminState>) -> std::io::Result<(JoinHandle<()>, SocketAddr)> {
    let AdminConfig { address, access_log } = config;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    if !state.options.admin_address_path.is_empty()
        && let Err(e) = std::fs::write(&state.options.admin_address_path, bound.to_string())
    {
        let path = &state.options.admin_address_path;
        tracing::error!(target: "admin", "cannot open admin address output file {path} for writing: {e}");
    }
    tracing::info!(target: "main", "admin address: {bound}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(serve(listener, Arc::new(Admin { state, access_log })));
    })?;
    Ok((thread, bound))
}

struct Admin {
    state: Arc<AdminState>,
    access_log: Vec<Arc<dyn Sink>>,
}

async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(l) => l,
        Err(e) => return tracing::error!(target: "admin", "admin listener: {e}"),
    };
    let mut connections = JoinSet::new();
    let ended = admin.state.control.ended();
    tokio::pin!(ended);
    loop {
        let accepted = tokio::select! {
            () = &mut ended => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => drop(connections.spawn(connection(admin.clone(), stream, peer))),
            Err(e) => {
                // Out of descriptors, say: the next attempt would fail at once.
                tracing::warn!(target: "admin", "admin listener: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    // Whoever is still there is not told anything.
    let _ = tokio::time::timeout(FAREWELL, all).await;
}

async fn connection(admin: Arc<Admin>, stream: tokio::net::TcpStream, peer: SocketAddr) {
    let service = {
        let admin = admin.clone();
        service_fn(move |request| {
            let admin = admin.clone();
            async move { Ok::<_, Infallible>(respond(&admin, request, peer).await) }
        })
    };
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    // A client that breaks off is no news.
    let _ = tokio::select! {
        r = connection.as_mut() => r,
        () = admin.state.control.ended() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

async fn respond(admin: &Admin, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
    let start = Instant::now();
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut query = Query::parse(target);
    let form = head.headers.get(CONTENT_TYPE).is_some_and(|t| t == "application/x-www-form-urlencoded");
    let mut received = 0;
    if head.method == Method::POST
        && let Ok(body) = Limited::new(body, MAX_BODY).collect().await
    {
        let body = body.to_bytes();
        received = body.len();
        if form {
            query.add_form(&String::from_utf8_lossy(&body));
        }
    }
    let page = help::answer(&head.method, &help::Request { state: &admin.state, query: &query });
    if !admin.access_log.is_empty() {
        let header = |name: HeaderName| head.headers.get(name).map_or("-", |v| v.to_str().unwrap_or("-"));
        let sent = if head.method == Method::HEAD { 0 } else { page.body.len() };
        let line = format!(
            "[{}] \"{} {target} {:?}\" {} - {received} {sent} {} - \"{}\" \"{}\" \"-\" \"{}\" \"-\"\n",
            now(),
            head.method,
            head.version,
            page.status.as_u16(),
            start.elapsed().as_millis(),
            peer.ip(),
            header(USER_AGENT),
            header(HOST),
        );
        for sink in &admin.access_log {
            sink.line(&mut |out| out.extend_from_slice(line.as_bytes()));
        }
    }
    response(page)
}

fn now() -> String {
    let t = time::OffsetDateTime::now_utc();
    let (h, m, s) = t.to_hms();
    let date = format!("{:04}-{:02}-{:02}", t.year(), u8::from(t.month()), t.day());
    format!("{date}T{h:02}:{m:02}:{s:02}.{:03}Z", t.millisecond())
}

fn response(page: Page) -> Response<Full<Bytes>> {
    let Page { status, content_type, body } = page;
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    response
}
