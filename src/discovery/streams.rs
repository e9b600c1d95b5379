//! The streams to discovery services, and what is asked for on each.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use waypost_xds::client::file::FileSource;
use waypost_xds::client::{self, Command, Dialect, Event, Service, rest};
use waypost_xds::envoy::config::core::v3::Node;

use super::Type;
use super::source::{Api, Source};
use super::transport::{self, ClusterConnector, ClusterHttp};
use crate::worker::Worker;

/// A stream's number.
pub type StreamId = usize;

/// What a stream is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: Source,
    /// None for ADS, which carries all types.
    kind: Option<Type>,
    /// Secrets have a stream each, as the agent's secret service answers with all that a request names or not at all.
    name: String,
}

struct Stream {
    key: Key,
    commands: UnboundedSender<Command>,
    /// Names that are asked for from now on, by type: one request for all that a push brings.
    added: Vec<(Type, Vec<String>)>,
    removed: Vec<(Type, Vec<String>)>,
}

/// All streams of the process.
pub struct Streams {
    worker: Rc<Worker>,
    node: Node,
    ads: Option<Api>,
    by_key: HashMap<Key, StreamId>,
    all: HashMap<StreamId, Stream>,
    next: StreamId,
    sender: UnboundedSender<(StreamId, Event)>,
}

impl Streams {
    /// None yet; their events arrive at the receiver.
    pub fn new(worker: Rc<Worker>, node: Node, ads: Option<Api>) -> (Streams, UnboundedReceiver<(StreamId, Event)>) {
        let (sender, events) = unbounded_channel();
        let streams = Streams { worker, node, ads, by_key: HashMap::new(), all: HashMap::new(), next: 0, sender };
        (streams, events)
    }

    /// Where a stream's resources come from.
    pub fn source(&self, stream: StreamId) -> Option<&Source> {
        self.all.get(&stream).map(|s| &s.key.source)
    }

    /// Asks for all resources of a type.
    pub fn wildcard(&mut self, source: &Source, kind: Type) {
        let id = self.stream(source, kind, "");
        self.send(id, Command::Wildcard { type_url: kind.url().to_owned() });
    }

    /// Asks for a resource, with the next [`flush`](Streams::flush).
    pub fn subscribe(&mut self, source: &Source, kind: Type, name: &str) {
        let id = self.stream(source, kind, name);
        if let Some(stream) = self.all.get_mut(&id) {
            note(&mut stream.added, kind, name);
        }
    }

    /// Asks for it no more, with the next [`flush`](Streams::flush).
    pub fn unsubscribe(&mut self, source: &Source, kind: Type, name: &str) {
        let key = Streams::key(source, kind, name);
        let Some(&id) = self.by_key.get(&key) else { return };
        if !key.name.is_empty() {
            // The stream is for this resource alone: it ends with its commands.
            self.by_key.remove(&key);
            self.all.remove(&id);
        } else if let Some(stream) = self.all.get_mut(&id) {
            note(&mut stream.removed, kind, name);
        }
    }

    /// Accepts or refuses an update.
    pub fn verdict(&mut self, stream: StreamId, type_url: String, nonce: String, error: Option<String>) {
        self.send(stream, Command::Verdict { type_url, nonce, error });
    }

    /// Sends what was asked for since.
    pub fn flush(&mut self) {
        for stream in self.all.values_mut() {
            for (kind, names) in stream.removed.drain(..) {
                // A stream that has ended asks for nothing.
                let _ = stream.commands.send(Command::Unsubscribe { type_url: kind.url().to_owned(), names });
            }
            for (kind, names) in stream.added.drain(..) {
                let _ = stream.commands.send(Command::Subscribe { type_url: kind.url().to_owned(), names });
            }
        }
    }

    fn send(&mut self, stream: StreamId, command: Command) {
        if let Some(stream) = self.all.get(&stream) {
            // A stream that has ended has no use for it.
            let _ = stream.commands.send(command);
        }
    }

    fn key(source: &Source, kind: Type, name: &str) -> Key {
        let (kind, name) = match source {
            Source::Ads => (None, ""),
            Source::Service(_) if kind == Type::Secret => (Some(kind), name),
            Source::Service(_) | Source::Path(_) => (Some(kind), ""),
        };
        Key { source: source.clone(), kind, name: name.to_owned() }
    }

    fn stream(&mut self, source: &Source, kind: Type, name: &str) -> StreamId {
        let key = Streams::key(source, kind, name);
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        let id = self.next;
        self.next += 1;
        let (commands, receiver) = unbounded_channel();
        self.open(id, &key, kind, receiver);
        self.by_key.insert(key.clone(), id);
        self.all.insert(id, Stream { key, commands, added: Vec::new(), removed: Vec::new() });
        id
    }

    fn open(&self, id: StreamId, key: &Key, kind: Type, commands: UnboundedReceiver<Command>) {
        let (sender, mut receiver) = unbounded_channel();
        let events = self.sender.clone();
        tokio::task::spawn_local(async move {
            while let Some(event) = receiver.recv().await {
                if events.send((id, event)).is_err() {
                    return;
                }
            }
        });
        let api = match &key.source {
            Source::Ads => match &self.ads {
                Some(api) => Ok(api.clone()),
                None => {
                    tracing::warn!(target: "config", "ads is asked for, and the bootstrap has no ads_config");
                    return;
                }
            },
            Source::Service(bytes) => Api::decode(bytes),
            Source::Path(path) => {
                tokio::task::spawn_local(file(FileSource::new(path, kind.url()), commands, sender));
                return;
            }
        };
        match api {
            Ok(Api::Grpc { delta, targets, node_once }) => {
                let dialect = if delta { Dialect::Delta } else { Dialect::Sotw };
                let service = match key.kind {
                    None => Service::Aggregated,
                    Some(kind) => Service::of_type(kind.url()).unwrap_or(Service::Aggregated),
                };
                let options = transport::options(&targets, dialect, service, self.node.clone(), node_once);
                let connector = ClusterConnector { worker: self.worker.clone(), targets, next: Cell::new(0) };
                tokio::task::spawn_local(client::run(connector, options, commands, sender));
            }
            Ok(Api::Rest { clusters, delay, timeout }) => {
                let http = ClusterHttp { worker: self.worker.clone(), clusters, next: Cell::new(0) };
                let options = rest::Options {
                    type_url: kind.url().to_owned(),
                    node: self.node.clone(),
                    refresh_delay: delay,
                    request_timeout: timeout,
                    destination: http.clusters.first().cloned().unwrap_or_default(),
                };
                tokio::task::spawn_local(rest::run(http, options, commands, sender));
            }
            Err(e) => tracing::warn!(target: "config", "{e}"),
        }
    }
}

/// Reads a file until nobody wants it any more; what it is asked for does not matter, since it always gives all it has.
async fn file(source: FileSource, mut commands: UnboundedReceiver<Command>, events: UnboundedSender<Event>) {
    let end = async { while commands.recv().await.is_some() {} };
    tokio::select! {
        () = client::file::watch(source, events) => {}
        () = end => {}
    }
}

fn note(list: &mut Vec<(Type, Vec<String>)>, kind: Type, name: &str) {
    match list.iter_mut().find(|(k, _)| *k == kind) {
        Some((_, names)) => names.push(name.to_owned()),
        None => list.push((kind, vec![name.to_owned()])),
    }
}
