//! What a filter is.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use ::http::{HeaderMap, StatusCode};

use crate::connection::Connection;
use crate::flags::Flag;
use crate::stream::HttpStream;

/// A configured HTTP filter. One object serves every stream of its chain, on every worker; what belongs to a stream it keeps in the
/// stream's filter state or metadata. A filter without work on a route is not in that route's chain.
pub trait HttpFilter: Send + Sync + 'static {
    /// The request's head has been read; the filter may change it.
    fn on_request(&self, _stream: &mut HttpStream) -> Step {
        Step::Continue
    }

    /// The response's head is about to be sent; the filter may change it. Filters see it in reverse order.
    fn on_response(&self, _stream: &mut HttpStream) {}

    /// What the filter would do with a request, for `waypost explain`: it does it to the stream, but asks nobody and counts nothing that
    /// other processes see. A filter that has more to tell than its step does overrides this.
    fn explain(&self, stream: &mut HttpStream) -> Verdict {
        match self.on_request(stream) {
            Step::Continue => Verdict::Continue(String::new()),
            Step::Respond(reply) => Verdict::Respond(Box::new(reply), String::new()),
            Step::FindRoute => Verdict::Continue("asks for a route where there is none".to_owned()),
            // Dropped before it was polled, it does nothing.
            Step::Wait(_) => Verdict::Asks("somebody else decides".to_owned()),
        }
    }
}

/// What a filter says.
pub enum Step {
    /// Go on with the next filter.
    Continue,
    /// Answer at once; nothing is sent upstream.
    Respond(LocalReply),
    /// Where the request has no route, ask for one and wait for it; then go on.
    FindRoute,
    /// Wait for this, and then do what it says.
    Wait(Pin<Box<dyn Future<Output = Resume> + Send>>),
}

/// What a filter says when it is asked to explain itself; the texts are for people, such as the policy that decided, and may be empty.
pub enum Verdict {
    /// The request goes on.
    Continue(String),
    /// The request is answered here.
    Respond(Box<LocalReply>, String),
    /// It depends on an answer that only a real request would get.
    Asks(String),
}

/// How a stream goes on after a filter has waited.
pub type Resume = Box<dyn FnOnce(&mut HttpStream) -> Step + Send>;

/// A response made here. The connection manager adds Envoy's headers and, for gRPC, maps it to trailers.
#[derive(Clone, Debug)]
pub struct LocalReply {
    /// The status.
    pub status: StatusCode,
    /// The body, `text/plain`; empty for none.
    pub body: Cow<'static, str>,
    /// Headers beside Envoy's own.
    pub headers: HeaderMap,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// The response flag, if it has one.
    pub flag: Option<Flag>,
    /// `grpc-status` for gRPC requests, where it is not the one of the HTTP status.
    pub grpc_status: Option<u32>,
    /// Whether the HTTP/1 connection is closed after it.
    pub close: bool,
}

impl LocalReply {
    /// A reply without a body.
    pub fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> LocalReply {
        LocalReply {
            status,
            body: Cow::Borrowed(""),
            headers: HeaderMap::new(),
            details: details.into(),
            flag: None,
            grpc_status: None,
            close: false,
        }
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<Cow<'static, str>>) -> LocalReply {
        self.body = body.into();
        self
    }

    /// With a response flag.
    pub fn flag(mut self, flag: Flag) -> LocalReply {
        self.flag = Some(flag);
        self
    }

    /// Closing the connection.
    pub fn closing(mut self) -> LocalReply {
        self.close = true;
        self
    }
}

/// A configured network filter that is not terminal: it sees the connection once, before its first byte.
pub trait NetworkFilter: Send + Sync + 'static {
    /// The connection has its filter chain; the filter may change what is known of it.
    fn on_new_connection(&self, connection: &mut Connection) -> NetworkStep;
}

/// What a network filter says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkStep {
    /// Go on with the next filter.
    Continue,
    /// Close the connection; the text is `%CONNECTION_TERMINATION_DETAILS%`.
    Close(Cow<'static, str>),
}
