//! A control plane: ADS in the incremental dialect over HTTP/2 without TLS, with resources that the test sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{Request, Response};
use prost::{Message as _, Name};
use tokio::sync::watch;
use waypost_xds::envoy::config::cluster::v3::Cluster;
use waypost_xds::envoy::config::core::v3::TypedExtensionConfig;
use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypost_xds::envoy::config::listener::v3::Listener;
use waypost_xds::envoy::config::route::v3::RouteConfiguration;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::Secret;
use waypost_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use waypost_xds::google::protobuf::Any;
use waypost_xds::{any, json, yaml};

use super::{Backend, until};

/// A type of resource that the tests know by a short name.
pub trait Kind: prost::Message + Name + Default {
    fn name_of(&self) -> &str;
}

impl Kind for Cluster {
    fn name_of(&self) -> &str {
        &self.name
    }
}
impl Kind for Listener {
    fn name_of(&self) -> &str {
        &self.name
    }
}
impl Kind for RouteConfiguration {
    fn name_of(&self) -> &str {
        &self.name
    }
}
impl Kind for ClusterLoadAssignment {
    fn name_of(&self) -> &str {
        &self.cluster_name
    }
}
impl Kind for TypedExtensionConfig {
    fn name_of(&self) -> &str {
        &self.name
    }
}
impl Kind for Secret {
    fn name_of(&self) -> &str {
        &self.name
    }
}

#[derive(Default)]
struct State {
    /// By type, then by name: a version and the message; none for one that is said not to be there.
    resources: BTreeMap<String, BTreeMap<String, (u64, Any)>>,
    versions: u64,
    nonces: u64,
    /// All requests, in order.
    requests: Vec<DeltaDiscoveryRequest>,
    /// What each nonce was for.
    answers: BTreeMap<String, Option<Option<String>>>,
    /// The last nonce of each type.
    last: BTreeMap<String, String>,
    streams: usize,
}

/// A control plane inside the test, there until its end.
pub struct ControlPlane {
    backend: Backend,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    cut: watch::Sender<u64>,
}

impl ControlPlane {
    pub async fn start() -> ControlPlane {
        let (state, changed, cut) = (Arc::new(Mutex::new(State::default())), watch::channel(0).0, watch::channel(0).0);
        let (for_streams, bell, end) = (state.clone(), changed.clone(), cut.clone());
        let backend = Backend::h2(move |request, respond, _| {
            let (state, changed, cut) = (for_streams.clone(), bell.subscribe(), end.subscribe());
            serve(state, changed, cut, request, respond)
        })
        .await;
        ControlPlane { backend, state, changed, cut }
    }

    pub fn addr(&self) -> SocketAddr {
        self.backend.addr.unwrap()
    }

    /// Sets resources of a type, each in YAML, and pushes them together.
    pub fn set<K: Kind>(&self, resources: &[&str]) {
        let mut state = self.state.lock().unwrap();
        for text in resources {
            let value = yaml::parse(text).unwrap();
            let message: K = json::from_value(&value, &json::Options::reject_unknown()).unwrap();
            let body = any::pack(&message);
            state.put::<K>(message.name_of(), body);
        }
        drop(state);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Sets something that need not be what its type says.
    pub fn set_raw<K: Kind>(&self, name: &str, value: &[u8]) {
        self.state.lock().unwrap().put::<K>(name, Any { type_url: K::type_url(), value: value.to_vec() });
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn remove<K: Kind>(&self, name: &str) {
        self.state.lock().unwrap().resources.entry(K::type_url()).or_default().remove(name);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Ends all streams.
    pub fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// How many streams there have been.
    pub fn streams(&self) -> usize {
        self.state.lock().unwrap().streams
    }

    /// The requests of a type so far.
    pub fn requests<K: Kind>(&self) -> Vec<DeltaDiscoveryRequest> {
        let state = self.state.lock().unwrap();
        state.requests.iter().filter(|r| r.type_url == K::type_url()).cloned().collect()
    }

    /// Waits until the last push of a type has been answered; the reason, where it was refused.
    pub async fn answer<K: Kind>(&self) -> Option<String> {
        let answer = || {
            let state = self.state.lock().unwrap();
            let sent = state.last.get(&K::type_url())?;
            state.answers.get(sent)?.clone()
        };
        until(&format!("{} is answered", K::NAME), || async { answer().is_some() }).await;
        answer().unwrap()
    }

    /// Waits until the last push of a type has been accepted.
    pub async fn accepted<K: Kind>(&self) {
        assert_eq!(self.answer::<K>().await, None);
    }

    /// For a bootstrap: clusters and listeners over ADS.
    pub fn bootstrap(&self) -> String {
        let node = "node: {id: test, cluster: test}\n";
        format!(
            "{node}dynamic_resources: {{ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: \
             xds}}}}]}}, cds_config: {{ads: {{}}, resource_api_version: V3}}, lds_config: {{ads: {{}}, resource_api_version: V3}}}}"
        )
    }
}

impl State {
    fn put<K: Kind>(&mut self, name: &str, body: Any) {
        self.versions += 1;
        let version = self.versions;
        let of_type = self.resources.entry(K::type_url()).or_default();
        if of_type.get(name).is_none_or(|(_, old)| *old != body) {
            of_type.insert(name.to_owned(), (version, body));
        }
    }
}

/// What a stream has asked for of a type, and what it has been given.
#[derive(Default)]
struct Interest {
    all: bool,
    names: BTreeSet<String>,
    given: BTreeMap<String, u64>,
    asked: bool,
    answered: bool,
}

async fn serve(
    state: Arc<Mutex<State>>,
    mut changed: watch::Receiver<u64>,
    mut cut: watch::Receiver<u64>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    state.lock().unwrap().streams += 1;
    assert_eq!(request.uri().path(), "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources");
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut out) = respond.send_response(head, false) else { return };
    let mut body = request.into_body();
    let mut read = BytesMut::new();
    let mut interests: BTreeMap<String, Interest> = BTreeMap::new();
    loop {
        tokio::select! {
            data = body.data() => {
                let Some(Ok(data)) = data else { return };
                // The whole push of a test fits into a window, but not all of its pushes.
                let _ = body.flow_control().release_capacity(data.len());
                read.extend_from_slice(&data);
                while let Some(request) = take(&mut read) {
                    note(&state, &mut interests, request);
                }
            }
            _ = changed.changed() => {}
            _ = cut.changed() => {
                out.send_reset(h2::Reason::CANCEL);
                return;
            }
        }
        for (type_url, interest) in &mut interests {
            if let Some(response) = response(&mut state.lock().unwrap(), type_url, interest)
                && out.send_data(frame(&response), false).is_err()
            {
                return;
            }
        }
    }
}

fn note(state: &Mutex<State>, interests: &mut BTreeMap<String, Interest>, request: DeltaDiscoveryRequest) {
    let mut state = state.lock().unwrap();
    let interest = interests.entry(request.type_url.clone()).or_default();
    if !request.response_nonce.is_empty() {
        let error = request.error_detail.as_ref().map(|e| e.message.clone());
        if let Some(answer) = state.answers.get_mut(&request.response_nonce) {
            *answer = Some(error);
        }
    }
    if !interest.asked && request.resource_names_subscribe.is_empty() {
        interest.all = true;
    }
    interest.asked = true;
    for name in &request.resource_names_subscribe {
        // What is asked for again is given again.
        interest.given.remove(name);
        interest.names.insert(name.clone());
    }
    for name in &request.resource_names_unsubscribe {
        interest.names.remove(name);
        interest.given.remove(name);
    }
    state.requests.push(request);
}

fn response(state: &mut State, type_url: &str, interest: &mut Interest) -> Option<DeltaDiscoveryResponse> {
    let none = BTreeMap::new();
    let there = state.resources.get(type_url).unwrap_or(&none);
    let wanted = |name: &String| interest.all || interest.names.contains(name);
    let new: Vec<Resource> = there
        .iter()
        .filter(|(name, (version, _))| wanted(name) && interest.given.get(*name) != Some(version))
        .map(|(name, (version, body))| Resource {
            name: name.clone(),
            version: version.to_string(),
            resource: Some(body.clone()),
            ..Resource::default()
        })
        .collect();
    let gone: Vec<String> = interest.given.keys().filter(|n| !there.contains_key(*n)).cloned().collect();
    if new.is_empty() && gone.is_empty() && (interest.answered || !interest.all) {
        return None;
    }
    interest.answered = true;
    for resource in &new {
        interest.given.insert(resource.name.clone(), resource.version.parse().unwrap());
    }
    for name in &gone {
        interest.given.remove(name);
    }
    state.nonces += 1;
    let nonce = state.nonces.to_string();
    state.answers.insert(nonce.clone(), None);
    state.last.insert(type_url.to_owned(), nonce.clone());
    Some(DeltaDiscoveryResponse {
        system_version_info: state.versions.to_string(),
        resources: new,
        type_url: type_url.to_owned(),
        removed_resources: gone,
        nonce,
        ..DeltaDiscoveryResponse::default()
    })
}

/// A message of gRPC: not compressed, its length, its bytes.
fn frame(message: &DeltaDiscoveryResponse) -> Bytes {
    let body = message.encode_to_vec();
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&body);
    out.into()
}

fn take(read: &mut BytesMut) -> Option<DeltaDiscoveryRequest> {
    let length = u32::from_be_bytes(read.get(1..5)?.try_into().unwrap()) as usize;
    if read.len() < 5 + length {
        return None;
    }
    read.advance(5);
    Some(DeltaDiscoveryRequest::decode(read.split_to(length)).unwrap())
}
