//! The client of a management server: what it is asked for, and what it says.
//!
//! [`delta`] and [`sotw`] are the two dialects for one resource type, [`mux`] puts the types of a stream together; none of them does any I/O.
//! [`stream`] drives a mux over gRPC, for ever; [`file`](mod@file) and [`rest`] bring the same [`Update`]s from a file and by HTTP. All of them know a
//! resource by its name and nothing else: what it means is for whoever gets the [`Event`]s, over a channel, and answers each
//! [`Update`] with a [`Command::Verdict`].

pub mod backoff;
pub mod delta;
pub mod file;
mod framing;
mod interest;
pub mod mux;
mod name;
pub mod rest;
pub mod service;
pub mod sotw;
pub mod stream;

use crate::google::{protobuf::Any, rpc::Status};

pub use backoff::Backoff;
pub use mux::{Mux, Subscription};
pub use service::Service;
pub use stream::{Connector, Options, run};

/// How a management server tells what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Only what changed: `DeltaDiscoveryRequest`.
    Delta,
    /// All of a type each time: `DiscoveryRequest`.
    Sotw,
}

/// A resource as it came, not yet looked into.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// What it is asked for by.
    pub name: String,
    /// Its own version, or in the state-of-the-world dialect that of the response.
    pub version: String,
    /// The message.
    pub body: Any,
}

/// The resources of one response, to be accepted or rejected as one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// The type of all of them.
    pub type_url: String,
    /// The version of the whole: `version_info` or `system_version_info`.
    pub version: String,
    /// What the [`Command::Verdict`] is about.
    pub nonce: String,
    /// New or changed, each name once, and none that nobody asked for.
    pub resources: Vec<Resource>,
    /// The names of those that are gone.
    pub removed: Vec<String>,
    /// State of the world of a wildcard: whatever is not among the resources is gone.
    pub complete: bool,
    /// The server's name for itself (`control_plane.identifier`), empty when it has none.
    pub control_plane: String,
}

/// What comes from a management server.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A stream began; all requests are sent (again).
    Connected,
    /// The stream ended, or there was none to be had. Another attempt follows.
    Disconnected {
        /// In the words of Envoy's log: `DeltaAggregatedResources gRPC config stream to xds-grpc closed: 14, no route`.
        reason: String,
    },
    /// Resources to judge. Exactly one [`Command::Verdict`] must follow, in the order of the updates of the type.
    Update(Update),
    /// A response that could not be taken apart. It is refused already, and what came before stays.
    Rejected {
        /// The type it was for.
        type_url: String,
        /// Its version.
        version: String,
        /// What is wrong.
        reason: String,
    },
}

/// What is wanted of a management server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// All resources of the type.
    Wildcard {
        /// The type.
        type_url: String,
    },
    /// These resources too. The name `*` is the wildcard.
    Subscribe {
        /// Their type.
        type_url: String,
        /// The names; those asked for already count for nothing.
        names: Vec<String>,
    },
    /// These no more. The name `*` ends a wildcard.
    Unsubscribe {
        /// Their type.
        type_url: String,
        /// The names; those not asked for count for nothing.
        names: Vec<String>,
    },
    /// An [`Update`] was accepted or, with an error, rejected.
    Verdict {
        /// The update's type.
        type_url: String,
        /// The update's nonce.
        nonce: String,
        /// Why it was rejected. Nothing of it counts as had then: the server sends it all again after an outage.
        error: Option<String>,
    },
}

/// The name that stands for all.
pub const WILDCARD: &str = "*";

/// More of an error than this is not for the server: Envoy's limit.
const MAX_ERROR: usize = 4096;

/// `error_detail` of a rejection, as Envoy sends it.
fn error_detail(reason: &str) -> Status {
    let message = match reason.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_ERROR) {
        Some(end) => format!("{}...(truncated)", reason.get(..end).unwrap_or_default()),
        None => reason.to_owned(),
    };
    Status { code: tonic::Code::Internal as i32, message, details: Vec::new() }
}

#[cfg(test)]
mod tests;
