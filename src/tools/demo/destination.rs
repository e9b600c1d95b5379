//! The server's side of HBONE as a ztunnel does it (its `src/proxy/inbound.rs`): mTLS, CONNECT to the pod, bytes to the workload.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::tools::sink::http2::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW};
use crate::tools::tunnel::Tunnel;

/// One pod.
pub struct Pod {
    /// The authority that CONNECT must name.
    pub address: SocketAddr,
    /// Where its workload really listens.
    pub workload: SocketAddr,
}

/// Accepts for ever.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, pod: Pod) {
    let pod = Arc::new(pod);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of files: some connection has to end first.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let (tls, pod) = (tls.clone(), pod.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            if let Ok(io) = tls.accept(stream).await {
                // The peer sees its connection end; there is nobody else to tell.
                let _ = connection(io, pod).await;
            }
        });
    }
}

async fn connection(io: tokio_rustls::server::TlsStream<TcpStream>, pod: Arc<Pod>) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(200)
        .handshake(io)
        .await?;
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        tokio::spawn(tunnel(request, respond, pod.clone()));
    }
    Ok(())
}

/// 400 for what is no CONNECT to this pod, 503 where the workload does not answer, else 200 and its bytes.
async fn tunnel(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, pod: Arc<Pod>) {
    let authority = request.uri().authority().and_then(|a| a.as_str().parse::<SocketAddr>().ok());
    if request.method() != Method::CONNECT || authority != Some(pod.address) {
        return refuse(respond, StatusCode::BAD_REQUEST);
    }
    let Ok(mut workload) = TcpStream::connect(pod.workload).await else {
        return refuse(respond, StatusCode::SERVICE_UNAVAILABLE);
    };
    let _ = workload.set_nodelay(true);
    let Ok(send) = respond.send_response(Response::new(()), false) else { return };
    let mut tunnel = Tunnel::new(send, request.into_body());
    if tokio::io::copy_bidirectional(&mut tunnel, &mut workload).await.is_err() {
        tunnel.reset(Reason::CONNECT_ERROR);
    }
}

fn refuse(mut respond: SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // The stream may be gone already.
    let _ = respond.send_response(response, true);
}
