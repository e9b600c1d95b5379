//! All resource types of one stream.

use super::{Command, Event, Update, WILDCARD};
use crate::envoy::{config::core::v3::Node, service::discovery::v3::ResourceError};
use std::collections::VecDeque;

/// One resource type in one dialect, without I/O: [`Delta`](super::delta::Delta) or [`Sotw`](super::sotw::Sotw).
pub trait Subscription: Sized {
    /// What is sent.
    type Request: prost::Message + 'static;
    /// What comes.
    type Response: prost::Message + Default + Incoming + 'static;

    /// Wants nothing yet.
    fn new(type_url: &str) -> Self;
    /// Wants a resource, or all (`*`).
    fn subscribe(&mut self, name: &str);
    /// Wants it no more.
    fn unsubscribe(&mut self, name: &str);
    /// Whatever was said, this stream does not know it.
    fn start_stream(&mut self);
    /// Takes a response apart; an error is its refusal and goes to [`Self::refuse`].
    fn response(&mut self, response: Self::Response) -> Result<Update, String>;
    /// Answers a response that became no update.
    fn refuse(&mut self, nonce: &str, reason: &str);
    /// Answers a response that became an update.
    fn verdict(&mut self, nonce: &str, error: Option<&str>);
    /// How many updates have no verdict yet.
    fn unjudged(&self) -> usize;
    /// What is to be sent now, if anything: verdicts before changes.
    fn next_request(&mut self) -> Option<Self::Request>;
    /// Tells who asks.
    fn set_node(request: &mut Self::Request, node: Node);
}

/// What the responses of both dialects have.
pub trait Incoming {
    /// The type of the resources.
    fn type_url(&self) -> &str;
    /// The version of the whole.
    fn version(&self) -> &str;
    /// What the answer refers to.
    fn nonce(&self) -> &str;
    /// Only a stream for many types names the type in each response; the others may leave it out.
    fn set_type_url(&mut self, type_url: &str);
}

impl Incoming for crate::envoy::service::discovery::v3::DeltaDiscoveryResponse {
    fn type_url(&self) -> &str {
        &self.type_url
    }
    fn version(&self) -> &str {
        &self.system_version_info
    }
    fn nonce(&self) -> &str {
        &self.nonce
    }
    fn set_type_url(&mut self, type_url: &str) {
        type_url.clone_into(&mut self.type_url);
    }
}

impl Incoming for crate::envoy::service::discovery::v3::DiscoveryResponse {
    fn type_url(&self) -> &str {
        &self.type_url
    }
    fn version(&self) -> &str {
        &self.version_info
    }
    fn nonce(&self) -> &str {
        &self.nonce
    }
    fn set_type_url(&mut self, type_url: &str) {
        type_url.clone_into(&mut self.type_url);
    }
}

/// The conversation on a stream: commands and responses in, requests and events out.
#[derive(Debug)]
pub struct Mux<S> {
    node: Node,
    node_on_first_message_only: bool,
    node_sent: bool,
    /// In the order of their first subscription, which is the order of the requests on a new stream.
    types: Vec<(String, S)>,
    /// Types that may have something to say, in the order in which they got it.
    queue: VecDeque<usize>,
}

impl<S: Subscription> Mux<S> {
    /// Nothing is wanted yet.
    pub fn new(node: Node, node_on_first_message_only: bool) -> Self {
        Self { node, node_on_first_message_only, node_sent: false, types: Vec::new(), queue: VecDeque::new() }
    }

    /// Takes a command; what there is to send then comes from [`Self::next_request`].
    pub fn command(&mut self, command: Command) {
        let index = match command {
            Command::Wildcard { type_url } => self.with(&type_url, |subscription| subscription.subscribe(WILDCARD)),
            Command::Subscribe { type_url, names } => {
                self.with(&type_url, |subscription| names.iter().for_each(|name| subscription.subscribe(name)))
            }
            Command::Unsubscribe { type_url, names } => {
                self.with(&type_url, |subscription| names.iter().for_each(|name| subscription.unsubscribe(name)))
            }
            Command::Verdict { type_url, nonce, error } => {
                self.with(&type_url, |subscription| subscription.verdict(&nonce, error.as_deref()))
            }
        };
        self.queue.push_back(index);
    }

    /// A new stream: all is to be said again.
    pub fn start_stream(&mut self) {
        self.node_sent = false;
        self.types.iter_mut().for_each(|(_, subscription)| subscription.start_stream());
        self.queue = (0..self.types.len()).collect();
    }

    /// Takes a response. One for a type that nobody asked for is dropped, as Envoy does.
    pub fn response(&mut self, mut response: S::Response) -> Option<Event> {
        if response.type_url().is_empty()
            && let [(only, _)] = self.types.as_slice()
        {
            response.set_type_url(&only.clone());
        }
        let Some(index) = self.types.iter().position(|(type_url, _)| type_url == response.type_url()) else {
            tracing::warn!(
                "Dropping received response (with version {}) for non-existent subscription {}.",
                response.version(),
                response.type_url()
            );
            return None;
        };
        let (type_url, subscription) = self.types.get_mut(index)?;
        let (version, nonce) = (response.version().to_owned(), response.nonce().to_owned());
        Some(match subscription.response(response) {
            Ok(update) => Event::Update(update),
            Err(reason) => {
                subscription.refuse(&nonce, &reason);
                self.queue.push_back(index);
                Event::Rejected { type_url: type_url.clone(), version, reason }
            }
        })
    }

    /// What is to be sent next, if anything.
    pub fn next_request(&mut self) -> Option<S::Request> {
        while let Some(index) = self.queue.pop_front() {
            let Some((_, subscription)) = self.types.get_mut(index) else { continue };
            let Some(mut request) = subscription.next_request() else { continue };
            // On a new stream a type's commands are summed up in one request; what is left over comes after the others.
            self.queue.push_back(index);
            if !(self.node_sent && self.node_on_first_message_only) {
                S::set_node(&mut request, self.node.clone());
                self.node_sent = true;
            }
            return Some(request);
        }
        None
    }

    /// How many updates have no verdict yet.
    pub fn unjudged(&self) -> usize {
        self.types.iter().map(|(_, subscription)| subscription.unjudged()).sum()
    }

    fn with(&mut self, type_url: &str, act: impl FnOnce(&mut S)) -> usize {
        let index = self.types.iter().position(|(known, _)| known == type_url).unwrap_or_else(|| {
            self.types.push((type_url.to_owned(), S::new(type_url)));
            self.types.len() - 1
        });
        if let Some((_, subscription)) = self.types.get_mut(index) {
            act(subscription);
        }
        index
    }
}

/// A server may say why it has not got a resource. Envoy passes over it; an operator may want to know.
pub(super) fn note_errors(type_url: &str, errors: &[ResourceError]) {
    for ResourceError { resource_name, error_detail } in errors {
        let name = resource_name.as_ref().map(|name| name.name.as_str()).unwrap_or_default();
        let reason = error_detail.as_ref().map(|detail| detail.message.as_str()).unwrap_or_default();
        tracing::warn!("the management server has no {name} of type {type_url}: {reason}");
    }
}
