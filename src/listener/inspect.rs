//! Listener filters: what they learn from a connection before a filter chain is chosen.

use std::task::Poll;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use waypost_filters::address::Address;
use waypost_filters::connection::Connection;
use waypost_filters::listener::proxy_protocol::{self, ProxyProtocol};
use waypost_filters::listener::{http_inspector, original_dst, tls_inspector};

use super::{Listener, ListenerFilter};
use crate::net::Io;
use crate::net::alarm::timeout_at;

/// Why a connection goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `listener_filters_timeout` has passed.
    Timeout,
    /// An inspector cannot make anything of the bytes, or the peer has gone.
    Error,
}

/// Runs the listener filters. Bytes that were read on the way are in `read`.
pub async fn run(
    listener: &Listener,
    io: &mut Io,
    read: &mut BytesMut,
    connection: &mut Connection,
) -> Result<(), Refused> {
    if listener.filters.is_empty() {
        return Ok(());
    }
    let deadline = listener.filters_timeout.map(|t| Instant::now() + t);
    let done = timeout_at(deadline, async {
        for (filter, disabled) in &listener.filters {
            if disabled.disabled(connection.local.port()) {
                continue;
            }
            match filter {
                ListenerFilter::OriginalDst => original_dst_of(io, connection),
                ListenerFilter::TlsInspector(inspector) => tls(inspector, io, read, connection).await?,
                ListenerFilter::HttpInspector => http(io, read, connection).await?,
                ListenerFilter::ProxyProtocol(filter) => proxy(filter, io, read, connection).await?,
            }
        }
        Ok(())
    })
    .await;
    match done {
        Some(result) => result,
        None if listener.continue_on_timeout => Ok(()),
        None => Err(Refused::Timeout),
    }
}

/// Whether any filter would read bytes of a connection that comes without a byte.
pub fn reads(listener: &Listener, connection: &Connection) -> bool {
    listener.filters.iter().any(|(filter, disabled)| {
        !matches!(filter, ListenerFilter::OriginalDst) && !disabled.disabled(connection.local.port())
    })
}

/// Restores the addresses of a connection that was redirected here.
pub fn original_dst_of(io: &Io, connection: &mut Connection) {
    match io.tcp() {
        Some(tcp) => {
            if let Some(original) = crate::net::original_destination(tcp) {
                connection.local = Address::Ip(original);
            }
        }
        None => original_dst::restore_internal(connection),
    }
}

async fn more(io: &mut Io, read: &mut BytesMut) -> Result<usize, Refused> {
    std::future::poll_fn(|cx| match io.poll_fill(cx, read) {
        Poll::Ready(Ok(n)) => Poll::Ready(Ok(n)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(Refused::Error)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

async fn tls(
    inspector: &tls_inspector::TlsInspector,
    io: &mut Io,
    read: &mut BytesMut,
    connection: &mut Connection,
) -> Result<(), Refused> {
    loop {
        match inspector.inspect(read) {
            tls_inspector::Inspect::NeedMore => {
                if more(io, read).await? == 0 {
                    return Err(Refused::Error);
                }
            }
            tls_inspector::Inspect::NotTls => {
                connection.transport_protocol = "raw_buffer";
                return Ok(());
            }
            tls_inspector::Inspect::Tls { server_name, alpn, .. } => {
                connection.transport_protocol = "tls";
                connection.server_name = server_name;
                connection.application_protocols = alpn;
                return Ok(());
            }
            tls_inspector::Inspect::Invalid if inspector.close_on_error => return Err(Refused::Error),
            tls_inspector::Inspect::Invalid => {
                connection.transport_protocol = "raw_buffer";
                return Ok(());
            }
        }
    }
}

/// Takes the header of the PROXY protocol off the connection, which is another client's then.
async fn proxy(
    filter: &ProxyProtocol,
    io: &mut Io,
    read: &mut BytesMut,
    connection: &mut Connection,
) -> Result<(), Refused> {
    loop {
        match filter.inspect(read) {
            proxy_protocol::Inspect::NeedMore => {
                if more(io, read).await? == 0 {
                    return Err(Refused::Error);
                }
            }
            proxy_protocol::Inspect::Header(length, ends) => {
                read.advance(length.min(read.len()));
                if let Some((from, to)) = ends {
                    connection.remote = Address::Ip(from);
                    connection.local = Address::Ip(to);
                }
                return Ok(());
            }
            proxy_protocol::Inspect::Without => return Ok(()),
            proxy_protocol::Inspect::Invalid => return Err(Refused::Error),
        }
    }
}

async fn http(io: &mut Io, read: &mut BytesMut, connection: &mut Connection) -> Result<(), Refused> {
    // After the TLS inspector found TLS there is no HTTP to see.
    if connection.transport_protocol == "tls" {
        return Ok(());
    }
    loop {
        let found = http_inspector::inspect(read);
        if found == http_inspector::Inspect::NeedMore {
            if more(io, read).await? == 0 {
                return Err(Refused::Error);
            }
            continue;
        }
        if let Some(protocol) = found.application_protocol() {
            connection.application_protocols = vec![protocol.into()];
        }
        return Ok(());
    }
}
