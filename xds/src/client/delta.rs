//! The incremental dialect for one resource type.
//!
//! What Envoy 1.40 sends, with two exceptions, both for istiod, which passes over a request whose nonce is not that of its last response: changes of
//! interest never travel with an ACK but alone, without a nonce; and what is taken back before it was sent is not sent.

use super::{Resource, Subscription, Update, WILDCARD, error_detail, interest::Interest};
use crate::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wrapped, ResourceName},
    },
    google::rpc::Status,
};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// The state of one type, over all streams.
#[derive(Debug)]
pub struct Delta {
    type_url: String,
    wanted: Interest,
    /// What is had, by name: the next stream begins with it.
    versions: HashMap<String, String>,
    /// Responses without a verdict.
    judged_next: VecDeque<Pending>,
    stream: Stream,
}

/// What a stream knows; another one knows nothing.
#[derive(Debug, Default)]
struct Stream {
    began: bool,
    /// Names that the server was told.
    told: BTreeSet<String>,
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
    verdicts: VecDeque<(String, Option<Status>)>,
}

#[derive(Debug)]
struct Pending {
    nonce: String,
    /// From a stream that is no more: there is nobody to tell.
    stale: bool,
    versions: Vec<(String, String)>,
    removed: Vec<String>,
}

impl Subscription for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn new(type_url: &str) -> Self {
        Self {
            type_url: type_url.to_owned(),
            wanted: Interest::default(),
            versions: HashMap::new(),
            judged_next: VecDeque::new(),
            stream: Stream::default(),
        }
    }

    fn subscribe(&mut self, name: &str) {
        if self.wanted.add(name) {
            // Even if the server knows it still: whoever lost interest may have forgotten what it had, and needs it again.
            self.stream.removed.remove(name);
            self.stream.added.insert(name.to_owned());
        }
    }

    fn unsubscribe(&mut self, name: &str) {
        if !self.wanted.remove(name) {
            return;
        }
        self.stream.added.remove(name);
        if self.stream.told.contains(name) {
            self.stream.removed.insert(name.to_owned());
        }
        // While there is a wildcard the resource may well be part of it; the server will say.
        let wanted = &self.wanted;
        if name == WILDCARD {
            self.versions.retain(|name, _| wanted.covers(name));
        } else if !wanted.covers(name) {
            self.versions.remove(name);
        }
        for pending in &mut self.judged_next {
            pending.versions.retain(|(name, _)| wanted.covers(name));
        }
    }

    fn start_stream(&mut self) {
        self.stream = Stream::default();
        for pending in &mut self.judged_next {
            pending.stale = true;
        }
    }

    fn response(&mut self, response: DeltaDiscoveryResponse) -> Result<Update, String> {
        let DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url,
            removed_resources,
            removed_resource_names,
            nonce,
            control_plane,
            resource_errors,
        } = response;
        super::mux::note_errors(&type_url, &resource_errors);
        let mut seen = HashSet::new();
        let mut kept = Vec::with_capacity(resources.len());
        let (mut aliases, mut missing) = (Vec::new(), Vec::new());
        for resource in resources {
            if !resource.aliases.is_empty() {
                let to = if resource.resource.is_some() { &mut aliases } else { &mut missing };
                to.extend(resource.aliases.iter().cloned());
            }
            let resource = self.open(resource, &type_url, &mut seen)?;
            kept.extend(resource.filter(|resource| self.wanted.covers(&resource.name)));
        }
        let mut removed = removed_resources;
        removed.extend(removed_resource_names.into_iter().map(plain_name));
        for name in &removed {
            if !seen.insert(name.clone()) {
                return Err(format!("duplicate name {name} found in the union of added+removed resources"));
            }
        }
        removed.retain(|name| self.wanted.covers(name));
        self.judged_next.push_back(Pending {
            nonce: nonce.clone(),
            stale: false,
            versions: kept.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect(),
            removed: removed.clone(),
        });
        Ok(Update {
            type_url,
            version: system_version_info,
            nonce,
            resources: kept,
            removed,
            aliases,
            missing,
            complete: false,
            control_plane: control_plane.map(|plane| plane.identifier).unwrap_or_default(),
        })
    }

    fn refuse(&mut self, nonce: &str, reason: &str) {
        self.stream.verdicts.push_back((nonce.to_owned(), Some(error_detail(reason))));
    }

    fn verdict(&mut self, nonce: &str, error: Option<&str>) {
        let Some(at) = self.judged_next.iter().position(|pending| pending.nonce == nonce) else {
            tracing::warn!("a verdict on nonce {nonce} of {}, which awaits none", self.type_url);
            return;
        };
        let Some(Pending { nonce, stale, versions, removed }) = self.judged_next.remove(at) else { return };
        if error.is_none() {
            self.versions.extend(versions);
            for name in removed {
                self.versions.remove(&name);
            }
        }
        if !stale {
            self.stream.verdicts.push_back((nonce, error.map(error_detail)));
        }
    }

    fn unjudged(&self) -> usize {
        self.judged_next.len()
    }

    fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if !self.stream.began {
            return self.first_request();
        }
        if let Some((nonce, error)) = self.stream.verdicts.pop_front() {
            return Some(DeltaDiscoveryRequest { response_nonce: nonce, error_detail: error, ..self.request() });
        }
        let Stream { told, added, removed, .. } = &mut self.stream;
        if added.is_empty() && removed.is_empty() {
            return None;
        }
        let (added, removed) = (std::mem::take(added), std::mem::take(removed));
        told.extend(added.iter().cloned());
        told.retain(|name| !removed.contains(name));
        Some(DeltaDiscoveryRequest {
            resource_names_subscribe: added.into_iter().collect(),
            resource_names_unsubscribe: removed.into_iter().collect(),
            ..self.request()
        })
    }

    fn set_node(request: &mut DeltaDiscoveryRequest, node: Node) {
        request.node = Some(node);
    }
}

impl Delta {
    fn request(&self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest { type_url: self.type_url.clone(), ..DeltaDiscoveryRequest::default() }
    }

    /// All that is wanted, and all that is had. Without any interest there is none: the empty list would be the wildcard.
    fn first_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if self.wanted.is_empty() {
            return None;
        }
        let told = self.wanted.wildcard.then(|| WILDCARD.to_owned());
        let told = told.into_iter().chain(self.wanted.names.iter().cloned()).collect();
        self.stream = Stream { began: true, told, ..Stream::default() };
        Some(DeltaDiscoveryRequest {
            resource_names_subscribe: self.wanted.list(),
            initial_resource_versions: self.versions.clone(),
            ..self.request()
        })
    }

    /// `None` for what carries nothing: a heartbeat of what is had already, or an alias that leads nowhere.
    fn open(&self, resource: Wrapped, type_url: &str, seen: &mut HashSet<String>) -> Result<Option<Resource>, String> {
        let Wrapped { name, resource_name, aliases, version, resource, ttl, cache_control, metadata } = resource;
        // Envoy does nothing with these either.
        let _ = (cache_control, metadata);
        let name = if name.is_empty() { resource_name.map(plain_name).unwrap_or_default() } else { name };
        if !seen.insert(name.clone()) {
            return Err(format!("duplicate name {name} found among added/updated resources"));
        }
        if ttl.is_some() {
            tracing::warn!("the time to live of {name} ({type_url}) is not observed: it stays until it is removed");
        }
        let Some(body) = resource else {
            if self.versions.get(&name) == Some(&version) || !aliases.is_empty() {
                return Ok(None);
            }
            return Err(format!("the resource {name} in a response of type {type_url} has no body"));
        };
        if body.type_url != type_url {
            return Err(format!(
                "type URL {} embedded in an individual Any does not match the message-wide type URL {type_url} in DeltaDiscoveryResponse",
                body.type_url
            ));
        }
        Ok(Some(Resource { name, version, body }))
    }
}

/// Dynamic parameters belong to a request; a name is all that is kept.
fn plain_name(name: ResourceName) -> String {
    let ResourceName { name, dynamic_parameter_constraints: _ } = name;
    name
}

#[cfg(test)]
mod tests;
