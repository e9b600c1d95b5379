//! What all tests of the client say and hear, a replay of a recorded conversation with istiod, and noise.

use super::{delta::Delta, mux::Incoming, sotw::Sotw, *};
use crate::{
    Value, any,
    envoy::{
        config::{cluster::v3::Cluster, core::v3::Node, endpoint::v3::ClusterLoadAssignment},
        service::discovery::v3::{
            self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        },
    },
    json::type_name,
};
use prost::{Message, Name};

pub(super) fn cds() -> String {
    Cluster::type_url()
}

pub(super) fn eds() -> String {
    ClusterLoadAssignment::type_url()
}

pub(super) fn node() -> Node {
    Node { id: "waypoint".into(), ..Node::default() }
}

pub(super) fn names(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

pub(super) fn wildcard(type_url: String) -> Command {
    Command::Wildcard { type_url }
}

pub(super) fn subscribe(type_url: String, list: &str) -> Command {
    Command::Subscribe { type_url, names: names(list) }
}

pub(super) fn unsubscribe(type_url: String, list: &str) -> Command {
    Command::Unsubscribe { type_url, names: names(list) }
}

pub(super) fn accept(type_url: String, nonce: &str) -> Command {
    Command::Verdict { type_url, nonce: nonce.into(), error: None }
}

pub(super) fn reject(type_url: String, nonce: &str, error: &str) -> Command {
    Command::Verdict { type_url, nonce: nonce.into(), error: Some(error.into()) }
}

pub(super) fn body(type_url: &str, name: &str) -> Any {
    match type_url {
        _ if type_url == cds() => any::pack(&Cluster { name: name.into(), ..Cluster::default() }),
        _ if type_url == eds() => {
            any::pack(&ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() })
        }
        _ => Any { type_url: type_url.into(), value: Vec::new() },
    }
}

/// `list`: `a=1 b=2`, names and versions.
pub(super) fn delta_response(type_url: String, nonce: &str, list: &str, removed: &str) -> DeltaDiscoveryResponse {
    let resources = list.split_whitespace().map(|item| {
        let (name, version) = item.split_once('=').unwrap();
        let resource = Some(body(&type_url, name));
        v3::Resource { name: name.into(), version: version.into(), resource, ..v3::Resource::default() }
    });
    DeltaDiscoveryResponse {
        resources: resources.collect(),
        type_url: type_url.clone(),
        nonce: nonce.into(),
        removed_resources: names(removed),
        ..DeltaDiscoveryResponse::default()
    }
}

pub(super) fn sotw_response(type_url: String, nonce: &str, version: &str, list: &str) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.into(),
        resources: names(list).iter().map(|name| body(&type_url, name)).collect(),
        type_url,
        nonce: nonce.into(),
        ..DiscoveryResponse::default()
    }
}

fn short(type_url: &str) -> &str {
    match type_name(type_url).rsplit('.').next().unwrap() {
        "Cluster" => "CDS",
        "Listener" => "LDS",
        "ClusterLoadAssignment" => "EDS",
        "Workload" => "WDS",
        other => other,
    }
}

fn part(name: &str, list: Vec<String>) -> String {
    if list.is_empty() { String::new() } else { format!(" {name}:{}", list.join(",")) }
}

/// A request in one line.
pub(super) trait Say {
    fn say(self) -> String;
}

impl Say for DeltaDiscoveryRequest {
    fn say(self) -> String {
        let mut have: Vec<_> = self.initial_resource_versions.iter().map(|(name, v)| format!("{name}={v}")).collect();
        have.sort();
        let error = self.error_detail.map(|error| format!("{} {}", error.code, error.message));
        let nonce = (!self.response_nonce.is_empty()).then_some(self.response_nonce);
        [
            short(&self.type_url).to_owned(),
            part("node", self.node.map(|node| node.id).into_iter().collect()),
            part("sub", self.resource_names_subscribe),
            part("unsub", self.resource_names_unsubscribe),
            part("have", have),
            part("nonce", nonce.into_iter().collect()),
            part("error", error.into_iter().collect()),
        ]
        .concat()
    }
}

impl Say for DiscoveryRequest {
    fn say(self) -> String {
        let error = self.error_detail.map(|error| format!("{} {}", error.code, error.message));
        let some = |text: String| (!text.is_empty()).then_some(text).into_iter().collect::<Vec<_>>();
        [
            short(&self.type_url).to_owned(),
            part("node", self.node.map(|node| node.id).into_iter().collect()),
            part("version", some(self.version_info)),
            part("names", self.resource_names),
            part("nonce", some(self.response_nonce)),
            part("error", error.into_iter().collect()),
        ]
        .concat()
    }
}

/// One side of a conversation.
pub(super) struct Talk<S>(pub Mux<S>);

impl<S: Subscription<Request: Say>> Talk<S> {
    /// A stream that is open.
    pub fn begin() -> Self {
        let mut mux = Mux::new(node(), true);
        mux.start_stream();
        Self(mux)
    }

    pub fn says(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.next_request()).map(Say::say).collect()
    }

    pub fn told<const N: usize>(&mut self, commands: [Command; N]) -> Vec<String> {
        commands.into_iter().for_each(|command| self.0.command(command));
        self.says()
    }

    /// A response; gives the names in the update, and those gone after a dash each.
    pub fn hears(&mut self, response: S::Response) -> Vec<String> {
        match self.0.response(response) {
            Some(Event::Update(update)) => {
                let gone = update.removed.iter().map(|name| format!("-{name}"));
                update.resources.iter().map(|resource| resource.name.clone()).chain(gone).collect()
            }
            Some(Event::Rejected { reason, .. }) => vec![format!("rejected: {reason}")],
            other => vec![format!("{other:?}")],
        }
    }

    pub fn reconnects(&mut self) -> Vec<String> {
        self.0.start_stream();
        self.says()
    }
}

/// Every request that a real client of istiod's sent in a day of updates is said again, in the same order, when the same commands are given.
#[test]
fn a_recorded_conversation_with_istiod_is_said_again_word_for_word() {
    let recorded = include_str!("../../testdata/waypoint-basic/recorded/conversation.jsonl");
    let mut mux = Mux::<Delta>::new(node(), true);
    mux.start_stream();
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let mut requests = 0;
    let mut types = std::collections::HashMap::new();
    for line in recorded.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let kind = line["type"].as_str().unwrap_or_default();
        match line["dir"].as_str().unwrap() {
            "response" => {
                let type_url = types[kind];
                let listed = list(&line["resources"]).into_iter().map(|name| v3::Resource {
                    resource: Some(body(type_url, &name)),
                    name,
                    ..v3::Resource::default()
                });
                let response = DeltaDiscoveryResponse {
                    resources: listed.collect(),
                    removed_resources: list(&line["removed"]),
                    type_url: type_url.to_owned(),
                    nonce: line["nonce"].as_str().unwrap().to_owned(),
                    ..DeltaDiscoveryResponse::default()
                };
                assert!(matches!(mux.response(response), Some(Event::Update(_))));
            }
            "request" => {
                let wanted = &line["body"];
                let type_url = wanted["type_url"].as_str().unwrap();
                types.insert(kind.to_owned(), Box::leak(type_url.to_owned().into_boxed_str()) as &str);
                let type_url = type_url.to_owned();
                let names = list(&wanted["resource_names_subscribe"]);
                let gone = list(&wanted["resource_names_unsubscribe"]);
                mux.command(match wanted["response_nonce"].as_str() {
                    Some(nonce) => Command::Verdict { type_url, nonce: nonce.to_owned(), error: None },
                    None if !names.is_empty() => Command::Subscribe { type_url, names: names.clone() },
                    None if !gone.is_empty() => Command::Unsubscribe { type_url, names: gone.clone() },
                    None => Command::Wildcard { type_url },
                });
                let said = mux.next_request().unwrap();
                assert_eq!(said.node.is_some(), wanted.get("node").is_some());
                assert_eq!(said.resource_names_subscribe, names);
                assert_eq!(said.resource_names_unsubscribe, gone);
                assert_eq!(said.response_nonce, wanted["response_nonce"].as_str().unwrap_or_default());
                assert!(said.initial_resource_versions.is_empty() && said.error_detail.is_none());
                assert_eq!(mux.next_request(), None);
                requests += 1;
            }
            _ => {}
        }
    }
    assert_eq!(requests, 43);
    assert_eq!(mux.unjudged(), 0);
}

#[test]
fn a_node_goes_with_the_first_request_of_a_stream_or_with_each() {
    let mut once = Talk::<Delta>::begin();
    assert_eq!(once.told([wildcard(cds()), subscribe(eds(), "a")]), ["CDS node:waypoint", "EDS sub:a"]);
    assert_eq!(once.reconnects(), ["CDS node:waypoint", "EDS sub:a"]);

    let mut each = Talk::<Sotw>(Mux::new(node(), false));
    assert_eq!(each.told([wildcard(cds()), subscribe(eds(), "a")]), ["CDS node:waypoint", "EDS node:waypoint names:a"]);
}

#[test]
fn a_response_for_a_type_that_nobody_asked_for_is_dropped() {
    let mut talk = Talk::<Delta>::begin();
    assert!(talk.0.response(delta_response(cds(), "1", "a=1", "")).is_none());
    assert_eq!(talk.says(), [""; 0]);
}

#[test]
fn a_stream_for_one_type_need_not_name_it() {
    let mut talk = Talk::<Sotw>::begin();
    talk.told([wildcard(cds())]);
    let mut response = sotw_response(cds(), "1", "v1", "a");
    response.type_url.clear();
    assert_eq!(talk.hears(response), ["a"]);
    assert_eq!(talk.told([accept(cds(), "1")]), ["CDS version:v1 nonce:1"]);
}

#[test]
fn a_long_error_is_cut_at_a_character() {
    assert_eq!(error_detail("short").message, "short");
    let long = error_detail(&"ü".repeat(4000)).message;
    assert_eq!(long, format!("{}...(truncated)", "ü".repeat(2048)));
}

#[test]
fn each_service_has_its_methods() {
    assert_eq!(
        Service::Aggregated.path(Dialect::Delta),
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    );
    assert_eq!(Service::Secret.path(Dialect::Sotw), "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets");
    assert_eq!(Service::of_type(&eds()), Some(Service::Endpoint));
    assert_eq!(Service::of_type("type.googleapis.com/istio.workload.Workload"), None);
    assert_eq!(Service::Cluster.rest_path(), Some("/v3/discovery:clusters"));
}

#[test]
fn a_workload_is_named_by_its_uid() {
    let workload = crate::istio::workload::Workload {
        name: "reviews".into(),
        uid: "Kubernetes//Pod/default/reviews".into(),
        ..crate::istio::workload::Workload::default()
    };
    assert_eq!(name::of(&any::pack(&workload)).unwrap(), "Kubernetes//Pod/default/reviews");
    assert_eq!(name::of(&body(&eds(), "a")).unwrap(), "a");
    assert!(name::of(&Any { type_url: cds(), value: vec![0x0a, 9, b'a'] }).is_err());
}

/// A small generator: the same noise in each run.
pub(super) struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A message with some bytes changed, dropped or added.
    pub fn bend(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bent = bytes.to_vec();
        for _ in 0..1 + self.next() % 4 {
            let at = self.next() as usize % (bent.len() + 1);
            match self.next() % 3 {
                0 => bent.insert(at, self.next() as u8),
                1 if at < bent.len() => drop(bent.remove(at)),
                _ if at < bent.len() => bent[at] = self.next() as u8,
                _ => {}
            }
        }
        bent
    }
}

fn survives<S: Subscription<Response: Incoming, Request: Say>>(sample: &S::Response) {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut talk = Talk::<S>::begin();
    talk.told([wildcard(cds()), subscribe(eds(), "a b")]);
    let wire = sample.encode_to_vec();
    for round in 0..20_000 {
        let bytes = if round % 2 == 0 { noise.bend(&wire) } else { (0..40).map(|_| noise.next() as u8).collect() };
        let Ok(response) = S::Response::decode(bytes.as_slice()) else { continue };
        if let Some(Event::Update(update)) = talk.0.response(response) {
            let error = noise.next().is_multiple_of(2).then(|| "no".to_owned());
            talk.0.command(Command::Verdict { type_url: update.type_url, nonce: update.nonce, error });
        }
        talk.says();
        if round % 100 == 0 {
            talk.reconnects();
        }
    }
    assert_eq!(talk.0.unjudged(), 0);
}

#[test]
fn noise_in_a_response_does_no_harm() {
    survives::<Delta>(&delta_response(cds(), "n", "a=1 b=2", "c d"));
    survives::<Sotw>(&sotw_response(cds(), "n", "v", "a b"));
}
