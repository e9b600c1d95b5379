//! Drives a [`Mux`] over one gRPC stream at a time, for ever.

use super::framing::{Aside, AsideCodec, Messages};
use super::{Backoff, Command, Dialect, Event, Mux, Service, Subscription, backoff, delta::Delta, sotw::Sotw};
use crate::envoy::config::core::v3::Node;
use http::{HeaderMap, Uri, uri::Scheme};
use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
};
use tokio::{
    select,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender, error::TrySendError},
    time::Instant,
};
use tonic::{
    Code, Extensions, Request, Status, Streaming,
    body::Body,
    client::{Grpc, GrpcService},
    codegen::{StdError, tokio_stream::Stream},
    metadata::MetadataMap,
};

/// Envoy takes a message of any size. A large mesh's clusters or endpoints are tens of megabytes in one message; ten times that is still far
/// from what would exhaust a machine that could run such a mesh's proxy.
const MAX_MESSAGE: usize = 256 << 20;

/// How many updates may await their verdicts before no more are read: the server waits, and not our memory.
const MAX_UNJUDGED: usize = 32;

/// Opens connections to a management server.
pub trait Connector {
    /// The body of its responses. tonic wants it to be `Send`.
    type ResponseBody: tonic::codegen::Body<Error: Into<StdError>> + Send + 'static;
    /// An HTTP/2 connection.
    type Service: GrpcService<Body, ResponseBody = Self::ResponseBody>;

    /// Opens one, or says why there is none. Called once for each stream; it may well hand out what is open already.
    fn connect(&self) -> impl Future<Output = Result<Self::Service, String>>;
}

/// What is asked, and how: a `ConfigSource` with its `GrpcService` in other words.
#[derive(Clone, Debug)]
pub struct Options {
    /// `api_type`.
    pub dialect: Dialect,
    /// The service whose method is called.
    pub service: Service,
    /// Who asks.
    pub node: Node,
    /// `set_node_on_first_message_only`; the node is in each request otherwise.
    pub set_node_on_first_message_only: bool,
    /// The cluster's name: for the log, and the `:authority` if none is given.
    pub destination: String,
    /// `EnvoyGrpc.authority`.
    pub authority: Option<String>,
    /// Whether the connection is by TLS, which decides on `:scheme`.
    pub tls: bool,
    /// `GrpcService.initial_metadata`.
    pub metadata: HeaderMap,
    /// The waits between streams.
    pub backoff: Backoff,
}

/// Talks to a management server until the channel of commands is closed or nobody listens to the events. The subscriptions outlive each stream.
pub async fn run<C: Connector>(
    connector: C,
    options: Options,
    commands: UnboundedReceiver<Command>,
    events: UnboundedSender<Event>,
) {
    // Nothing goes wrong here: the channels are at their end, and so is the task.
    match options.dialect {
        Dialect::Delta => Driver::<C, Delta>::new(connector, options, commands, events).run().await,
        Dialect::Sotw => Driver::<C, Sotw>::new(connector, options, commands, events).run().await,
    };
}

/// Nobody is there any more to talk for.
struct Closed;

struct Driver<C, S> {
    connector: C,
    options: Options,
    origin: Uri,
    mux: Mux<S>,
    commands: UnboundedReceiver<Command>,
    events: UnboundedSender<Event>,
    failing: Option<(Code, Instant)>,
}

impl<C: Connector, S: Subscription> Driver<C, S> {
    fn new(
        connector: C,
        options: Options,
        commands: UnboundedReceiver<Command>,
        events: UnboundedSender<Event>,
    ) -> Self {
        let mux = Mux::new(options.node.clone(), options.set_node_on_first_message_only);
        Self { connector, origin: origin(&options), options, mux, commands, events, failing: None }
    }

    async fn run(mut self) -> Closed {
        loop {
            if let Err(closed) = self.one_stream().await {
                return closed;
            }
        }
    }

    async fn one_stream(&mut self) -> Result<(), Closed> {
        let status = match self.connect().await? {
            Ok(service) => self.converse(service).await?,
            Err(error) => Status::unavailable(error),
        };
        let reason = self.note_end(&status);
        self.tell(Event::Disconnected { reason })?;
        let wait = self.options.backoff.after_failure(backoff::random());
        Self::taking_commands(&mut self.mux, &mut self.commands, tokio::time::sleep(wait)).await
    }

    async fn connect(&mut self) -> Result<Result<C::Service, String>, Closed> {
        Self::taking_commands(&mut self.mux, &mut self.commands, self.connector.connect()).await
    }

    /// One stream, until it ends.
    async fn converse(&mut self, service: C::Service) -> Result<Status, Closed> {
        let messages = Messages::default();
        let service = Aside { service, messages: messages.clone(), max: MAX_MESSAGE };
        let mut grpc = Grpc::with_origin(service, self.origin.clone()).max_decoding_message_size(MAX_MESSAGE);
        let ready = Self::taking_commands(&mut self.mux, &mut self.commands, grpc.ready()).await?;
        if let Err(error) = ready {
            return Ok(Status::unavailable(error.into().to_string()));
        }
        let Ok(path) = self.options.service.path(self.options.dialect).try_into() else {
            return Ok(Status::internal("the method has no path"));
        };
        // One request at a time: what is not sent yet may still be overtaken by a change of mind.
        let (requests, body) = mpsc::channel(1);
        let metadata = MetadataMap::from_headers(self.options.metadata.clone());
        let request = Request::from_parts(metadata, Extensions::default(), Requests(body));
        self.mux.start_stream();
        self.tell(Event::Connected)?;
        // A server may keep its response headers until it has something to say, so requests must flow before.
        let opening = grpc.streaming(request, path, AsideCodec::<S::Request, S::Response>::new(messages));
        let mut responses: Streaming<S::Response> = match self.sending(&requests, opening).await? {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(status),
        };
        loop {
            match self.sending(&requests, responses.message()).await? {
                Ok(Some(response)) => {
                    self.options.backoff.reset();
                    self.failing = None;
                    if let Some(event) = self.mux.response(response) {
                        self.tell(event)?;
                    }
                }
                Ok(None) => return Ok(Status::ok("")),
                Err(status) => return Ok(status),
            }
            while self.mux.unjudged() >= MAX_UNJUDGED {
                let command = self.commands.recv().await.ok_or(Closed)?;
                self.mux.command(command);
                self.sending(&requests, std::future::ready(())).await?;
            }
        }
    }

    /// Waits for something, and takes commands and sends requests meanwhile.
    async fn sending<T>(
        &mut self,
        requests: &mpsc::Sender<S::Request>,
        other: impl Future<Output = T>,
    ) -> Result<T, Closed> {
        let mut other = pin!(other);
        loop {
            // All commands there are, before a request is made of them.
            while let Some(command) = ready_command(&mut self.commands)? {
                self.mux.command(command);
            }
            let full = loop {
                match requests.try_reserve() {
                    Ok(permit) => match self.mux.next_request() {
                        Some(request) => permit.send(request),
                        None => break false,
                    },
                    Err(TrySendError::Full(())) => break true,
                    // The stream is over, and `other` will know why.
                    Err(TrySendError::Closed(())) => break false,
                }
            };
            select! {
                biased;
                command = self.commands.recv() => self.mux.command(command.ok_or(Closed)?),
                done = &mut other => return Ok(done),
                _ = requests.reserve(), if full => {}
            }
        }
    }

    /// Waits for something, and takes commands meanwhile.
    async fn taking_commands<T>(
        mux: &mut Mux<S>,
        commands: &mut UnboundedReceiver<Command>,
        other: impl Future<Output = T>,
    ) -> Result<T, Closed> {
        let mut other = pin!(other);
        loop {
            select! {
                biased;
                command = commands.recv() => mux.command(command.ok_or(Closed)?),
                done = &mut other => return Ok(done),
            }
        }
    }

    fn tell(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).map_err(|_| Closed)
    }

    /// Logs the end of a stream as loudly as Envoy does: what may well pass is a warning only when it lasts.
    fn note_end(&mut self, status: &Status) -> String {
        let (code, number, message) = (status.code(), status.code() as i32, status.message());
        let stream = format!(
            "{} gRPC config stream to {} closed",
            self.options.service.method(self.options.dialect),
            self.options.destination
        );
        let reason = format!("{stream}: {number}, {message}");
        let now = Instant::now();
        match (code, self.failing) {
            (Code::Ok, _) => tracing::debug!("{reason}"),
            (Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unavailable, Some((before, since)))
                if before == code =>
            {
                let lasted = now.duration_since(since);
                if lasted > self.options.backoff.max() {
                    tracing::warn!("{stream} since {}s ago: {number}, {message}", lasted.as_secs());
                } else {
                    tracing::debug!("{reason}");
                }
            }
            (Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unavailable, None) => {
                self.failing = Some((code, now));
                tracing::debug!("{reason}");
            }
            (Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unavailable, Some((before, since))) => {
                let ago = now.duration_since(since).as_secs();
                self.failing = Some((code, now));
                tracing::warn!("{reason} (previously {} since {ago}s ago)", before as i32);
            }
            _ => tracing::warn!("{reason}"),
        }
        reason
    }
}

/// The next command, if it is there already.
fn ready_command(commands: &mut UnboundedReceiver<Command>) -> Result<Option<Command>, Closed> {
    match commands.try_recv() {
        Ok(command) => Ok(Some(command)),
        Err(mpsc::error::TryRecvError::Empty) => Ok(None),
        Err(mpsc::error::TryRecvError::Disconnected) => Err(Closed),
    }
}

/// Scheme and authority. A cluster's name may hold characters that no authority has (`outbound|15010||istiod`); a name that is none is said instead.
fn origin(options: &Options) -> Uri {
    let scheme = if options.tls { Scheme::HTTPS } else { Scheme::HTTP };
    let authority = options.authority.as_deref().filter(|authority| !authority.is_empty());
    let authority = authority.unwrap_or(&options.destination);
    let build =
        |authority: &str| Uri::builder().scheme(scheme.clone()).authority(authority).path_and_query("/").build();
    build(authority)
        .or_else(|error| {
            tracing::warn!("`{authority}` cannot be the :authority of a management server: {error}");
            build("localhost")
        })
        .unwrap_or_default()
}

/// The requests of a stream, as tonic wants them.
struct Requests<T>(mpsc::Receiver<T>);

impl<T> Stream for Requests<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

#[cfg(test)]
mod tests;
