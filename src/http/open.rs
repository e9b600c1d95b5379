//! The beginning of an exchange: a connection of a host's pool, and a request on it.

use std::rc::Rc;
use std::sync::Arc;

use waypost_filters::head::{Protocol, RequestHead};

use super::failure::Failure;
use super::upstream::{H1Client, H2Client, Upstream};
use crate::cluster::connect::{AutoSni, Sharing};
use crate::cluster::{Cluster, Host, UpstreamProtocol};
use crate::worker::Worker;

/// Gets a connection and begins the exchange.
pub async fn open(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    sharing: &Sharing,
    head: &RequestHead,
    downstream: Option<Protocol>,
    end: bool,
) -> Result<Upstream, Failure> {
    let sni: AutoSni = cluster
        .http
        .auto_sni
        .then(|| std::str::from_utf8(head.authority_bytes()).ok())
        .flatten()
        .map(|authority| host_of(authority).into());
    let h2 = match cluster.http.protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::Downstream => downstream == Some(Protocol::Http2),
        // Both are offered; the pool of HTTP/2 falls back when the host chooses HTTP/1.
        UpstreamProtocol::Alpn => true,
    };
    let pool = worker.pool(cluster, host, sharing, h2);
    if h2 {
        let lease = pool.h2(worker, sni).await.map_err(Failure::Connect)?;
        let client = H2Client::begin(lease, head, end).await.map_err(Failure::Broken)?;
        return Ok(Upstream::H2(Box::new(client)));
    }
    let conn = match pool.take_idle() {
        Some(conn) => conn,
        // Boxed: making a connection takes far more state than using one.
        None => Box::pin(pool.h1(worker, sni)).await.map_err(Failure::Connect)?,
    };
    Ok(Upstream::H1(Box::new(H1Client::begin(conn, pool, head, end))))
}

/// An authority without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => authority,
    }
}
