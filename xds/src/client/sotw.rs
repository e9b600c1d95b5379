//! The state-of-the-world dialect for one resource type.
//!
//! What Envoy 1.40 sends, with one exception: when nothing is wanted any more it says so once, and then keeps still, also on the next stream,
//! where Envoy would send an empty list, which is the wildcard.

use super::{Resource, Subscription, Update, error_detail, interest::Interest, name};
use crate::{
    any,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource as Wrapped},
    },
    google::{protobuf::Any, rpc::Status},
    json::type_name,
};
use prost::{Message, Name};
use std::collections::{HashSet, VecDeque};

/// The state of one type, over all streams.
#[derive(Debug)]
pub struct Sotw {
    type_url: String,
    wanted: Interest,
    /// Of the last response that was accepted.
    version: String,
    /// Responses without a verdict.
    judged_next: VecDeque<Pending>,
    stream: Stream,
}

/// What a stream knows; another one knows nothing.
#[derive(Debug, Default)]
struct Stream {
    began: bool,
    changed: bool,
    /// Of the last response that was judged.
    nonce: String,
    verdicts: VecDeque<Verdict>,
}

#[derive(Debug)]
struct Verdict {
    version: String,
    nonce: String,
    error: Option<Status>,
}

#[derive(Debug)]
struct Pending {
    nonce: String,
    version: String,
    /// From a stream that is no more: there is nobody to tell.
    stale: bool,
}

impl Subscription for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn new(type_url: &str) -> Self {
        Self {
            type_url: type_url.to_owned(),
            wanted: Interest::default(),
            version: String::new(),
            judged_next: VecDeque::new(),
            stream: Stream::default(),
        }
    }

    fn subscribe(&mut self, name: &str) {
        self.stream.changed |= self.wanted.add(name);
    }

    fn unsubscribe(&mut self, name: &str) {
        self.stream.changed |= self.wanted.remove(name);
    }

    fn start_stream(&mut self) {
        self.stream = Stream::default();
        for pending in &mut self.judged_next {
            pending.stale = true;
        }
    }

    fn response(&mut self, response: DiscoveryResponse) -> Result<Update, String> {
        let DiscoveryResponse {
            version_info,
            resources,
            // "Canary" changes nothing in Envoy either.
            canary: _,
            type_url,
            nonce,
            control_plane,
            resource_errors,
        } = response;
        super::mux::note_errors(&type_url, &resource_errors);
        let mut resources = open_all(resources, &type_url, &version_info)?;
        resources.retain(|resource| self.wanted.covers(&resource.name));
        self.judged_next.push_back(Pending { nonce: nonce.clone(), version: version_info.clone(), stale: false });
        Ok(Update {
            type_url,
            version: version_info,
            nonce,
            resources,
            removed: Vec::new(),
            aliases: Vec::new(),
            missing: Vec::new(),
            complete: self.wanted.wildcard,
            control_plane: control_plane.map(|plane| plane.identifier).unwrap_or_default(),
        })
    }

    fn refuse(&mut self, nonce: &str, reason: &str) {
        nonce.clone_into(&mut self.stream.nonce);
        let (version, nonce) = (self.version.clone(), nonce.to_owned());
        self.stream.verdicts.push_back(Verdict { version, nonce, error: Some(error_detail(reason)) });
    }

    fn verdict(&mut self, nonce: &str, error: Option<&str>) {
        let Some(at) = self.judged_next.iter().position(|pending| pending.nonce == nonce) else {
            tracing::warn!("a verdict on nonce {nonce} of {}, which awaits none", self.type_url);
            return;
        };
        let Some(Pending { nonce, version, stale }) = self.judged_next.remove(at) else { return };
        if error.is_none() {
            self.version = version;
        }
        if !stale {
            self.stream.nonce.clone_from(&nonce);
            let version = self.version.clone();
            self.stream.verdicts.push_back(Verdict { version, nonce, error: error.map(error_detail) });
        }
    }

    fn unjudged(&self) -> usize {
        self.judged_next.len()
    }

    fn next_request(&mut self) -> Option<DiscoveryRequest> {
        if self.wanted.is_empty() {
            // A list that has become empty ends the subscription, and there is nothing to acknowledge from then on.
            self.stream.verdicts.clear();
            let tell = std::mem::take(&mut self.stream.changed) && self.stream.began;
            return tell.then(|| self.request(self.version.clone(), self.stream.nonce.clone(), None));
        }
        let first = !std::mem::replace(&mut self.stream.began, true);
        // An acknowledgement carries the whole list, and so any change of it.
        let changed = std::mem::take(&mut self.stream.changed);
        if let Some(Verdict { version, nonce, error }) = self.stream.verdicts.pop_front() {
            return Some(self.request(version, nonce, error));
        }
        (first || changed).then(|| self.request(self.version.clone(), self.stream.nonce.clone(), None))
    }

    fn set_node(request: &mut DiscoveryRequest, node: Node) {
        request.node = Some(node);
    }
}

impl Sotw {
    fn request(&self, version: String, nonce: String, error: Option<Status>) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: version,
            resource_names: self.wanted.list(),
            type_url: self.type_url.clone(),
            response_nonce: nonce,
            error_detail: error,
            ..DiscoveryRequest::default()
        }
    }
}

/// The resources of a response, by stream, file or HTTP.
pub(super) fn open_all(resources: Vec<Any>, type_url: &str, version: &str) -> Result<Vec<Resource>, String> {
    let mut seen = HashSet::new();
    let mut opened = Vec::with_capacity(resources.len());
    for body in resources {
        let Some(resource) = open(body, type_url, version)? else { continue };
        if !seen.insert(resource.name.clone()) {
            // Of the types that are asked for as a whole Envoy takes none then; of the others it takes what is asked for, once.
            if let kind @ ("Cluster" | "Listener") = type_url.rsplit('.').next().unwrap_or_default() {
                return Err(format!("duplicate {} {} found", kind.to_lowercase(), resource.name));
            }
            tracing::warn!(
                "the name {} occurs twice in a response of type {type_url}: the first counts",
                resource.name
            );
            continue;
        }
        opened.push(resource);
    }
    Ok(opened)
}

/// `None` for a heartbeat, which is a wrapper without a body.
fn open(body: Any, type_url: &str, version: &str) -> Result<Option<Resource>, String> {
    if type_name(&body.type_url) != Wrapped::full_name() {
        check(&body, type_url)?;
        return Ok(Some(Resource { name: name::of(&body)?, version: version.to_owned(), body }));
    }
    let wrapped = Wrapped::decode(body.value.as_slice()).map_err(|error| format!("a wrapped resource: {error}"))?;
    let Wrapped { name, resource_name, aliases: _, version: own, resource, ttl, cache_control: _, metadata: _ } =
        wrapped;
    let name = if name.is_empty() { resource_name.map(|name| name.name).unwrap_or_default() } else { name };
    if ttl.is_some() {
        tracing::warn!("the time to live of {name} ({type_url}) is not observed: it stays until it is removed");
    }
    let Some(body) = resource else { return Ok(None) };
    check(&body, type_url)?;
    let name = if name.is_empty() { name::of(&body)? } else { name };
    Ok(Some(Resource { name, version: own, body }))
}

fn check(body: &Any, type_url: &str) -> Result<(), String> {
    if body.type_url == type_url || any::type_name(body) == type_name(type_url) {
        return Ok(());
    }
    Err(format!("{} does not match the message-wide type URL {type_url} in DiscoveryResponse", body.type_url))
}

#[cfg(test)]
mod tests;
