//! An HTTP/2 client.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::wire::Stream;
use super::within;

/// A connection to the proxy.
pub struct H2 {
    pub send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl H2 {
    pub async fn connect(addr: SocketAddr) -> H2 {
        H2::over(TcpStream::connect(addr).await.unwrap()).await
    }

    pub async fn over(stream: impl Stream + 'static) -> H2 {
        let (send, connection) = within("the handshake", h2::client::handshake(stream)).await.unwrap();
        H2 { send, connection: tokio::spawn(connection) }
    }

    /// Sends a request, with a body to follow unless `end`.
    pub async fn open(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = within("room for a stream", self.send.clone().ready()).await.unwrap();
        send.send_request(request, end).unwrap()
    }

    /// Sends GET.
    pub async fn ask(&mut self, path: &str) -> ResponseFuture {
        let request = Request::get(format!("http://test{path}")).body(()).unwrap();
        self.open(request, true).await.0
    }

    /// GET, and the answer with its body.
    pub async fn get(&mut self, path: &str) -> Response<Vec<u8>> {
        let response = self.ask(path).await;
        let (head, body) = within("a response", response).await.unwrap().into_parts();
        Response::from_parts(head, read_all(body).await.unwrap())
    }

    /// CONNECT to an authority; the streams are the tunnel.
    pub async fn tunnel(&mut self, authority: &str) -> (Response<RecvStream>, SendStream<Bytes>) {
        let request = Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap();
        let (response, send) = self.open(request, false).await;
        (within("a response", response).await.unwrap(), send)
    }

    /// Waits for the end of the connection: `Ok` after GOAWAY without an error, all streams done.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.send);
        within("the end of the connection", self.connection).await.unwrap()
    }

    pub fn has_ended(&self) -> bool {
        self.connection.is_finished()
    }
}

/// The body to its end.
pub async fn read_all(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    within("a body", async {
        let mut all = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            all.extend_from_slice(&data);
        }
        Ok(all)
    })
    .await
}

/// Answers a stream with 200 and what it sends.
pub async fn h2_echo(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let mut body = request.into_body();
    let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
    while let Some(Ok(data)) = body.data().await {
        // Both fail where the peer has gone.
        let _ = body.flow_control().release_capacity(data.len());
        let _ = send.send_data(data, false);
    }
    let _ = send.send_data(Bytes::new(), true);
}
