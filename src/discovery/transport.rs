//! gRPC over a cluster of the proxy's own: how discovery services are reached.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use waypost_xds::client::{Backoff, Connector, Dialect, Options, Service, rest};
use waypost_xds::envoy::config::core::v3::Node;

use super::source::GrpcTarget;
use crate::cluster::connect::{Connected, Sharing, UpstreamInfo, connect};
use crate::cluster::tls_options::{Speaks, TlsOptions};
use crate::worker::Worker;

/// Connects to the hosts of clusters, in turn.
pub struct ClusterConnector {
    /// What makes connections on the control thread.
    pub worker: Rc<Worker>,
    /// The services; after a failure the next one is tried.
    pub targets: Vec<GrpcTarget>,
    /// Which of them is next.
    pub next: std::cell::Cell<usize>,
}

/// An HTTP/2 connection to a discovery service.
#[derive(Clone)]
pub struct Channel {
    sender: http2::SendRequest<tonic::body::Body>,
    /// Counts the connection as one of its cluster's while it is used.
    upstream: Rc<UpstreamInfo>,
}

/// How a service is spoken to.
pub fn options(targets: &[GrpcTarget], dialect: Dialect, service: Service, node: Node, node_once: bool) -> Options {
    let target = targets.first().cloned().unwrap_or_default();
    let mut metadata = http::HeaderMap::new();
    for (name, value) in &target.metadata {
        match (name.parse::<http::HeaderName>(), value.parse()) {
            (Ok(name), Ok(value)) => {
                metadata.append(name, value);
            }
            _ => tracing::warn!(target: "config", "initial_metadata: '{name}' cannot be a header and is left out"),
        }
    }
    Options {
        dialect,
        service,
        node,
        set_node_on_first_message_only: node_once,
        authority: Some(target.authority).filter(|a| !a.is_empty()),
        destination: target.cluster,
        // What the scheme says does not matter to any server we know of; Envoy says http where there is no TLS.
        tls: false,
        metadata,
        backoff: target.back_off.map_or_else(Backoff::default, |(base, max)| Backoff::new(base, max)),
    }
}

/// Posts to the hosts of clusters, in turn.
pub struct ClusterHttp {
    /// What makes connections on the control thread.
    pub worker: Rc<Worker>,
    /// The clusters; after a failure the next one is tried.
    pub clusters: Vec<String>,
    /// Which of them is next.
    pub next: std::cell::Cell<usize>,
}

/// A response of a REST service that is larger than this is refused: as for gRPC, ten times what a large mesh needs.
const MAX_BODY: usize = 256 << 20;

impl rest::Http for ClusterHttp {
    async fn post(&self, path: &'static str, body: Vec<u8>) -> Result<(u16, Vec<u8>), String> {
        let at = self.next.get() % self.clusters.len().max(1);
        let name = self.clusters.get(at).ok_or_else(|| "no cluster is configured".to_owned())?;
        let answer = self.exchange(name, path, body).await;
        if answer.is_err() {
            self.next.set(at + 1);
        }
        answer
    }
}

impl ClusterHttp {
    async fn exchange(&self, cluster: &str, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), String> {
        let connected = open(&self.worker, cluster, Speaks::Http1).await?;
        let _upstream = connected.upstream;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(connected.io))
            .await
            .map_err(|e| format!("HTTP/1: {e}"))?;
        tokio::task::spawn_local(async move {
            // How it ended is seen by the request on it.
            let _ = connection.await;
        });
        let request = http::Request::post(path)
            .header("host", cluster)
            .header("content-type", "application/json")
            .body(http_body_util::Full::new(bytes::Bytes::from(body)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = http_body_util::Limited::new(response.into_body(), MAX_BODY);
        let body = http_body_util::BodyExt::collect(body).await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes().to_vec()))
    }
}

/// Connects to a host of a cluster.
async fn open(worker: &Rc<Worker>, name: &str, speaks: Speaks) -> Result<Connected, String> {
    let slot = worker.shared.clusters.find(name).ok_or_else(|| format!("unknown cluster '{name}'"))?;
    let cluster = slot.current.load_full().ok_or_else(|| format!("unknown cluster '{name}'"))?;
    let host = worker.pick(&cluster, &[]).ok_or_else(|| "no healthy upstream".to_owned())?;
    connect(worker, &cluster, &host, &Sharing::default(), &TlsOptions::default(), speaks, None)
        .await
        .map_err(|e| format!("upstream connect error: {e}"))
}

impl Connector for ClusterConnector {
    type ResponseBody = hyper::body::Incoming;
    type Service = Channel;

    async fn connect(&self) -> Result<Channel, String> {
        let at = self.next.get();
        self.next.set((at + 1) % self.targets.len().max(1));
        let target = self.targets.get(at).ok_or_else(|| "no service is configured".to_owned())?;
        let connected = open(&self.worker, &target.cluster, Speaks::Http2).await?;
        let upstream = connected.upstream;
        let options = upstream.cluster.http.h2.clone();
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            // A push of thousands of clusters is read faster in large frames.
            .max_frame_size(MAX_FRAME);
        if let Some((interval, timeout)) = options.keepalive {
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
        }
        let (sender, connection) =
            builder.handshake(TokioIo::new(connected.io)).await.map_err(|e| format!("HTTP/2: {e}"))?;
        let held = upstream.clone();
        tokio::task::spawn_local(async move {
            let _held = held;
            // How it ended is seen by the streams on it.
            let _ = connection.await;
        });
        Ok(Channel { sender, upstream })
    }
}

/// The largest frame that is accepted: 1 MiB, as ztunnel does.
const MAX_FRAME: u32 = 1 << 20;

/// Runs hyper's tasks on the control thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let response = self.sender.send_request(request);
        let held = self.upstream.clone();
        Box::pin(async move {
            let _held = held;
            response.await
        })
    }
}
