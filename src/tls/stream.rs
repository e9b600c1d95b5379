//! Handshakes over a byte stream.

use std::sync::Arc;

use rustls::server::Acceptor;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use waypost_filters::connection::TlsSession;

use super::{ClientTls, ServerTls, Target, reason, session_of_client, session_of_server};
use crate::net::Io;

/// What a downstream handshake gives: the stream, the session and the server name the client asked for, in lower case.
pub type Accepted = (Io, Arc<TlsSession>, Option<Arc<str>>);

/// Envoy's words where a context still lacks a secret.
const NOT_READY: &str = "TLS_error:_Secret_is_not_supplied_by_SDS";

/// Accepts TLS on a stream. The error is the text of `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`; it is empty where the peer just went away.
pub async fn accept(tls: &ServerTls, io: Io) -> Result<Accepted, Arc<str>> {
    let failed = |e: std::io::Error| {
        tls.count(|stats| stats.record_io_failure(&e));
        text(&e)
    };
    let start = LazyConfigAcceptor::new(Acceptor::default(), io).await.map_err(failed)?;
    let hello = start.client_hello();
    let name = hello.server_name().map(|n| Arc::from(n.to_ascii_lowercase()));
    let Some(config) = tls.config_for(&hello) else { return Err(NOT_READY.into()) };
    let stream = start.into_stream(config).await.map_err(failed)?;
    let connection = stream.get_ref().1;
    let session = session_of_server(connection, tls);
    tls.count(|stats| stats.record_handshake(&session, connection));
    Ok((Io::TlsServer(Box::new(stream)), Arc::new(session), name))
}

/// [`connect_to`] with what `auto_sni` gives, if anything.
pub async fn connect(tls: &ClientTls, io: Io, sni: Option<Arc<str>>) -> Result<(Io, Arc<TlsSession>), Arc<str>> {
    connect_to(tls, io, Target { sni: sni.as_deref(), ..Target::default() }).await
}

/// Opens TLS on a stream. The error is the text of `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
pub async fn connect_to(tls: &ClientTls, io: Io, target: Target<'_>) -> Result<(Io, Arc<TlsSession>), Arc<str>> {
    let Some((config, name)) = tls.connect(target) else { return Err(NOT_READY.into()) };
    let stream = TlsConnector::from(config).connect(name, io).await.map_err(|e| {
        tls.count(|stats| stats.record_io_failure(&e));
        text(&e)
    })?;
    let connection = stream.get_ref().1;
    let session = session_of_client(connection, tls);
    tls.count(|stats| stats.record_handshake(&session, connection));
    Ok((Io::TlsClient(Box::new(stream)), Arc::new(session)))
}

fn text(error: &std::io::Error) -> Arc<str> {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    tls.map(reason).unwrap_or_default().into()
}
