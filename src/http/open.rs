//! The beginning of an exchange: a connection of a host's pool, and a request on it.

use std::rc::Rc;
use std::sync::Arc;

use waypost_filters::head::{Protocol, RequestHead};
use waypost_filters::stream::StreamInfo;

use super::failure::Failure;
use super::upstream::{Broken, H1Client, H2Client, Upstream};
use crate::cluster::connect::Sharing;
use crate::cluster::pool::Place;
use crate::cluster::tls_options::TlsOptions;
use crate::cluster::{Cluster, Host, UpstreamProtocol};
use crate::worker::Worker;

/// How many new connections that take no request a request may meet. Those that have ended or said goodbye unnoticed do not count: each is
/// met once, and a host that goes says goodbye on all that it has.
const STALE_LIMIT: u32 = 3;

/// Gets a connection and begins the exchange.
pub async fn open(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    sharing: &Sharing,
    head: &RequestHead,
    info: &StreamInfo,
    end: bool,
) -> Result<Upstream, Failure> {
    let protocol = cluster.http.protocol;
    let h2 = match protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::Downstream => info.protocol == Some(Protocol::Http2),
        // Both are offered, and one pool holds what hosts choose.
        UpstreamProtocol::Alpn => true,
    };
    let asked = TlsOptions::of_request(cluster, host, head, info, h2);
    let pool = worker.pool(cluster, host, sharing, &asked, h2);
    if !h2 {
        let conn = match pool.take_idle() {
            Some(conn) => conn,
            // Boxed: making a connection takes far more state than using one.
            None => Box::pin(pool.h1(worker)).await.map_err(Failure::Connect)?,
        };
        return Ok(Upstream::H1(Box::new(H1Client::begin(conn, pool, head, end))));
    }
    let mut stale = 0;
    loop {
        let lease = if protocol == UpstreamProtocol::Alpn {
            match Box::pin(pool.negotiated(worker)).await.map_err(Failure::Connect)? {
                Place::H1(conn) => return Ok(Upstream::H1(Box::new(H1Client::begin(conn, pool, head, end)))),
                Place::H2(lease) => lease,
            }
        } else {
            pool.h2(worker).await.map_err(Failure::Connect)?
        };
        let new = lease.conn.upstream.requests.get() == 0;
        match H2Client::begin(lease, head, end).await {
            Ok(client) => return Ok(Upstream::H2(Box::new(client))),
            // The connection had ended or said goodbye, and the pool did not know yet: nothing has been sent, and it knows now.
            Err(Broken::Refused) if stale < STALE_LIMIT => stale += u32::from(new),
            Err(broken) => return Err(Failure::Broken(broken)),
        }
    }
}
