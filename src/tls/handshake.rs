//! Handshakes over any byte stream.

use std::sync::Arc;

use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use waypost_filters::connection::TlsSession;

use super::stats::NOT_READY;
use super::{ClientTls, ServerTls, Target, TlsStats, io_reason, session_of_client, session_of_server};
use crate::net::Io;

/// Says why a handshake failed, in Envoy's words, and counts it. Nothing where it was the connection below that failed.
fn failed(error: &std::io::Error, stats: Option<&TlsStats>) -> Arc<str> {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    if let (Some(e), Some(stats)) = (tls, stats) {
        stats.record_failure(e);
    }
    io_reason(error).unwrap_or_default().into()
}

/// A connection whose context has no secret yet; Envoy ends it at once, before it has read anything.
fn not_ready(stats: Option<&TlsStats>) -> Arc<str> {
    if let Some(stats) = stats {
        stats.record_not_ready();
    }
    NOT_READY.into()
}

/// Accepts a TLS connection: the stream and its session. The name that the client asked for is the TLS inspector's to tell, as in Envoy.
pub async fn accept(tls: &Arc<ServerTls>, io: Io, stats: Option<&TlsStats>) -> Result<(Io, Arc<TlsSession>), Arc<str>> {
    if !tls.ready() {
        return Err(not_ready(stats));
    }
    let start =
        LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await.map_err(|e| failed(&e, stats))?;
    let config = tls.config_for(&start.client_hello()).ok_or_else(|| not_ready(stats))?;
    let stream = start.into_stream(config).await.map_err(|e| failed(&e, stats))?;
    let connection = stream.get_ref().1;
    let session = Arc::new(session_of_server(connection, tls));
    if let Some(stats) = stats {
        stats.record_handshake(&session, connection);
    }
    Ok((Io::TlsServer(Box::new(stream)), session))
}

/// Makes a TLS connection over a byte stream.
pub async fn connect(
    tls: &Arc<ClientTls>,
    io: Io,
    target: Target<'_>,
    stats: Option<&TlsStats>,
) -> Result<(Io, Arc<TlsSession>), Arc<str>> {
    let (config, name) = tls.connect(target).ok_or_else(|| not_ready(stats))?;
    let stream = TlsConnector::from(config).connect(name, io).await.map_err(|e| failed(&e, stats))?;
    let connection = stream.get_ref().1;
    let session = Arc::new(session_of_client(connection, tls));
    if let Some(stats) = stats {
        stats.record_handshake(&session, connection);
    }
    Ok((Io::TlsClient(Box::new(stream)), session))
}
