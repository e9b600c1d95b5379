//! The driver against an HTTP/2 server in the same thread, on paused time.

use super::*;
use crate::client::{
    Update,
    tests::{Say, accept, cds, delta_response, eds, node, sotw_response, subscribe, unsubscribe, wildcard},
};
use crate::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::time::Duration;
use tokio::{io::DuplexStream, task::LocalSet};

/// The client's end of a connection.
struct Wire(SendRequest<Body>);

impl GrpcService<Body> for Wire {
    type ResponseBody = hyper::body::Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Self::ResponseBody>, hyper::Error>>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Connects to whoever takes the other end out of the channel; refuses when nobody does.
struct ToServer(UnboundedSender<DuplexStream>);

impl Connector for ToServer {
    type ResponseBody = hyper::body::Incoming;
    type Service = Wire;

    async fn connect(&self) -> Result<Wire, String> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        self.0.send(theirs).map_err(|_| "connection refused".to_owned())?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(ours)).await;
        let (sender, connection) = handshake.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Wire(sender))
    }
}

/// The server's end of a stream.
struct Peer {
    head: http::request::Parts,
    body: RecvStream,
    buffer: BytesMut,
    respond: Option<server::SendResponse<Bytes>>,
    out: Option<SendStream<Bytes>>,
}

impl Peer {
    async fn accept(connections: &mut UnboundedReceiver<DuplexStream>) -> Self {
        let mut connection = server::handshake(connections.recv().await.unwrap()).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let (head, body) = request.into_parts();
        Self { head, body, buffer: BytesMut::new(), respond: Some(respond), out: None }
    }

    /// The next request; the server says nothing, not even headers, until it has something to say.
    async fn hears<M: Message + Default + Say>(&mut self) -> String {
        loop {
            if let Some(head) = self.buffer.first_chunk::<5>() {
                let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.buffer.len() >= 5 + len {
                    let message = self.buffer.split_to(5 + len);
                    return M::decode(&message[5..]).unwrap().say();
                }
            }
            let data = self.body.data().await.expect("the request goes on").unwrap();
            self.body.flow_control().release_capacity(data.len()).unwrap();
            self.buffer.extend_from_slice(&data);
        }
    }

    fn says(&mut self, message: &impl Message) {
        self.says_raw(&message.encode_to_vec());
    }

    fn says_raw(&mut self, message: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.put_slice(message);
        self.out().send_data(frame.freeze(), false).unwrap();
    }

    fn closes(&mut self, code: u32, message: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.into());
        trailers.insert("grpc-message", message.parse().unwrap());
        self.out().send_trailers(trailers).unwrap();
    }

    fn out(&mut self) -> &mut SendStream<Bytes> {
        if let Some(mut respond) = self.respond.take() {
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            self.out = Some(respond.send_response(head, false).unwrap());
        }
        self.out.as_mut().unwrap()
    }
}

struct Client {
    commands: UnboundedSender<Command>,
    events: UnboundedReceiver<Event>,
    connections: UnboundedReceiver<DuplexStream>,
    task: tokio::task::JoinHandle<()>,
}

impl Client {
    fn start(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            dialect: Dialect::Delta,
            service: Service::Aggregated,
            node: node(),
            set_node_on_first_message_only: true,
            destination: "xds-grpc".into(),
            authority: None,
            tls: false,
            metadata: HeaderMap::new(),
            backoff: Backoff::default(),
        };
        change(&mut options);
        let (connector, connections) = mpsc::unbounded_channel();
        let (commands, for_driver) = mpsc::unbounded_channel();
        let (to_us, events) = mpsc::unbounded_channel();
        let task = tokio::task::spawn_local(run(ToServer(connector), options, for_driver, to_us));
        Self { commands, events, connections, task }
    }

    fn asks(&self, command: Command) {
        self.commands.send(command).unwrap();
    }

    async fn hears(&mut self) -> Event {
        self.events.recv().await.unwrap()
    }

    async fn gets(&mut self) -> Update {
        match self.hears().await {
            Event::Update(update) => update,
            other => panic!("expected an update: {other:?}"),
        }
    }

    async fn loses_it(&mut self) -> String {
        match self.hears().await {
            Event::Disconnected { reason } => reason,
            other => panic!("expected the end of the stream: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn subscriptions_and_versions_outlive_the_stream() {
    let test = async {
        let mut client = Client::start(|_| {});
        client.asks(wildcard(cds()));
        let mut server = Peer::accept(&mut client.connections).await;
        assert_eq!(client.hears().await, Event::Connected);
        assert_eq!(
            server.head.uri.path(),
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        );
        assert_eq!(server.head.uri.authority().unwrap(), "xds-grpc");
        assert_eq!(server.head.headers["content-type"], "application/grpc");
        assert_eq!(server.hears::<DeltaDiscoveryRequest>().await, "CDS node:waypoint");

        server.says(&delta_response(cds(), "1", "a=1 b=1", ""));
        assert_eq!(client.gets().await.resources.len(), 2);
        client.asks(subscribe(eds(), "a b"));
        client.asks(accept(cds(), "1"));
        assert_eq!(server.hears::<DeltaDiscoveryRequest>().await, "EDS sub:a,b");
        assert_eq!(server.hears::<DeltaDiscoveryRequest>().await, "CDS nonce:1");

        server.closes(14, "going%20away");
        assert_eq!(
            client.loses_it().await,
            "DeltaAggregatedResources gRPC config stream to xds-grpc closed: 14, going away"
        );
        client.asks(unsubscribe(eds(), "b"));
        let mut server = Peer::accept(&mut client.connections).await;
        assert_eq!(client.hears().await, Event::Connected);
        assert_eq!(server.hears::<DeltaDiscoveryRequest>().await, "CDS node:waypoint have:a=1,b=1");
        assert_eq!(server.hears::<DeltaDiscoveryRequest>().await, "EDS sub:a");

        drop(client.commands);
        client.task.await.unwrap();
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_single_type_is_asked_for_in_the_state_of_the_world_dialect() {
    let test = async {
        let mut client = Client::start(|options| {
            options.dialect = Dialect::Sotw;
            options.service = Service::Endpoint;
            options.authority = Some("istiod.example:15012".into());
            options.tls = true;
            options.metadata.insert("x-token", "secret".parse().unwrap());
        });
        client.asks(subscribe(eds(), "a"));
        let mut server = Peer::accept(&mut client.connections).await;
        assert_eq!(server.head.uri.path(), "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints");
        assert_eq!(server.head.uri.authority().unwrap(), "istiod.example:15012");
        assert_eq!(server.head.uri.scheme_str(), Some("https"));
        assert_eq!(server.head.headers["x-token"], "secret");
        assert_eq!(server.hears::<DiscoveryRequest>().await, "EDS node:waypoint names:a");
        assert_eq!(client.hears().await, Event::Connected);
        server.says(&sotw_response(eds(), "n", "v", "a"));
        assert_eq!(client.gets().await.version, "v");
        client.asks(accept(eds(), "n"));
        assert_eq!(server.hears::<DiscoveryRequest>().await, "EDS version:v names:a nonce:n");
        // A connection cut off is no clean end.
        server.respond = None;
        drop(server);
        assert!(client.loses_it().await.starts_with("StreamEndpoints gRPC config stream to xds-grpc closed: "));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_at_once_and_servers_that_are_down_are_tried_ever_more_rarely() {
    let test = async {
        let mut client = Client::start(|_| {});
        client.asks(wildcard(cds()));
        let begin = Instant::now();
        for _ in 0..40 {
            let mut server = Peer::accept(&mut client.connections).await;
            assert_eq!(server.hears::<DeltaDiscoveryRequest>().await, "CDS node:waypoint");
            server.closes(0, "");
            assert_eq!(client.hears().await, Event::Connected);
            assert!(client.loses_it().await.ends_with("closed: 0, "));
        }
        // Up to 30 s each, and half of that on average: it would take luck beyond belief to see a tenth.
        assert!(begin.elapsed() > Duration::from_secs(50), "{:?}", begin.elapsed());
        drop(client.connections);
        let begin = Instant::now();
        for _ in 0..40 {
            loop {
                match client.events.recv().await.unwrap() {
                    Event::Disconnected { reason } if reason.ends_with("closed: 14, connection refused") => break,
                    _ => {}
                }
            }
        }
        assert!(begin.elapsed() > Duration::from_secs(50), "{:?}", begin.elapsed());
        // A response makes up for it all, which the back-off's own tests show; here nobody listens any more.
        drop(client.events);
        client.task.await.unwrap();
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sends_noise_is_left_and_tried_again() {
    let test = async {
        let mut client = Client::start(|_| {});
        client.asks(wildcard(cds()));
        let mut noise = crate::client::tests::Noise(42);
        for _ in 0..30 {
            let mut server = Peer::accept(&mut client.connections).await;
            server.hears::<DeltaDiscoveryRequest>().await;
            let bytes: Vec<u8> = (0..60).map(|_| noise.next() as u8).collect();
            server.says_raw(&bytes);
            server.closes(2, "");
            while !matches!(client.hears().await, Event::Disconnected { .. }) {}
        }
        let mut server = Peer::accept(&mut client.connections).await;
        assert_eq!(server.hears::<DeltaDiscoveryRequest>().await, "CDS node:waypoint");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_is_read_than_is_judged() {
    let test = async {
        let mut client = Client::start(|_| {});
        client.asks(wildcard(cds()));
        let mut server = Peer::accept(&mut client.connections).await;
        assert_eq!(client.hears().await, Event::Connected);
        assert_eq!(server.hears::<DeltaDiscoveryRequest>().await, "CDS node:waypoint");
        for index in 0..2 * MAX_UNJUDGED {
            server.says(&delta_response(cds(), &index.to_string(), "a=1", ""));
        }
        for _ in 0..MAX_UNJUDGED {
            client.gets().await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(client.events.try_recv().is_err());
        for index in 0..2 * MAX_UNJUDGED {
            client.asks(accept(cds(), &index.to_string()));
            assert_eq!(server.hears::<DeltaDiscoveryRequest>().await, format!("CDS nonce:{index}"));
        }
    };
    LocalSet::new().run_until(test).await;
}

#[test]
fn a_cluster_name_that_is_no_authority_is_replaced() {
    let options = |destination: &str| Options {
        dialect: Dialect::Delta,
        service: Service::Aggregated,
        node: node(),
        set_node_on_first_message_only: true,
        destination: destination.into(),
        authority: Some(String::new()),
        tls: false,
        metadata: HeaderMap::new(),
        backoff: Backoff::default(),
    };
    assert_eq!(origin(&options("xds-grpc")), "http://xds-grpc/");
    assert_eq!(origin(&options("outbound|15010||istiod")), "http://localhost/");
}
