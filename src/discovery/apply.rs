//! What an update does: decoded as a whole, applied resource by resource, accepted or refused with the reasons.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::{Instant, SystemTime};

use prost::{Message, Name};
use waypost_xds::client::{Event, Resource, Update};
use waypost_xds::{any, validate};

use super::fetch::Subject;
use super::source::Source;
use super::streams::StreamId;
use super::{LARGE, Manager, QUIET, Type};
use crate::admin::{Failed, Kind};

/// A resource of an update, decoded.
pub(super) struct Decoded<'a, M> {
    pub name: &'a str,
    pub message: M,
    pub resource: &'a Resource,
}

/// Resources that were refused, with the reasons.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<(String, String)>);

impl Failures {
    /// One more.
    pub fn add(&mut self, name: &str, error: &dyn Display) {
        self.0.push((name.to_owned(), error.to_string()));
    }

    /// Envoy's words for all of them; `what` is such as `cluster(s)`.
    pub fn summary(self, what: &str) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = self.0.into_iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        Err(format!("Error adding/updating {what} {}", all.join(", ")))
    }
}

impl Manager {
    pub(super) fn event(&mut self, stream: StreamId, event: Event) {
        match event {
            Event::Connected => {
                if self.streams.source(stream) == Some(&Source::Ads) {
                    self.stats.connected_state.set(1);
                }
            }
            // The client has logged why.
            Event::Disconnected { reason: _ } => {
                let Some(source) = self.streams.source(stream).cloned() else { return };
                if source == Source::Ads {
                    self.stats.connected_state.set(0);
                }
                for (_, stats) in self.by_subject.iter().filter(|(s, _)| s.source == source) {
                    stats.update_failure.inc();
                }
                self.clusters.lost(&source);
            }
            Event::Rejected { type_url, version, reason } => {
                tracing::warn!(target: "config", "gRPC config for {type_url} rejected: {reason}");
                let (Some(kind), Some(source)) = (Type::of_url(&type_url), self.streams.source(stream).cloned()) else {
                    return;
                };
                // Nobody knows whom it was for: all who wait for the type go on.
                let subjects: Vec<Subject> =
                    self.fetches.subjects(kind).filter(|s| s.source == source).cloned().collect();
                for subject in subjects {
                    self.fetches.answered(&subject);
                    if let Some(stats) = self.by_subject.get(&subject) {
                        stats.update(&version, false);
                    }
                }
            }
            Event::Update(update) => {
                self.update(stream, &update);
                if self.tidy_at.is_some() || update.resources.iter().map(|r| r.body.value.len()).sum::<usize>() >= LARGE
                {
                    self.tidy_at = Some(Instant::now() + QUIET);
                }
            }
        }
    }

    fn update(&mut self, stream: StreamId, update: &Update) {
        let Some(source) = self.streams.source(stream).cloned() else { return };
        let result = match Type::of_url(&update.type_url) {
            Some(kind) => {
                tracing::debug!(
                    target: "config",
                    "{}: {} resources, {} removed, version {}",
                    update.type_url, update.resources.len(), update.removed.len(), update.version
                );
                let result = unique(update).and_then(|()| self.apply(kind, &source, update));
                self.count(kind, &source, update, result.as_ref().err());
                result
            }
            None => Err(format!("nothing of the type {} is asked for", update.type_url)),
        };
        if let Err(error) = &result {
            tracing::warn!(target: "config", "gRPC config for {} rejected: {error}", update.type_url);
        }
        // What the accepted resources name is asked for before the answer, as with Envoy.
        self.settle();
        self.streams.verdict(stream, update.type_url.clone(), update.nonce.clone(), result.err());
    }

    fn apply(&mut self, kind: Type, source: &Source, update: &Update) -> Result<(), String> {
        match kind {
            Type::Cluster => self.apply_clusters(update),
            Type::Endpoints => self.apply_endpoints(source, update),
            Type::Listener => self.apply_listeners(update),
            Type::Route => self.apply_routes(source, update),
            Type::Secret => self.apply_secrets(source, update),
            Type::Extension => self.apply_extensions(source, update),
            Type::Runtime => self.apply_runtime(update),
            Type::Workload => self.apply_workloads(update),
        }
    }

    /// Counts the update for those who asked, and ends their waiting, accepted or not.
    fn count(&mut self, kind: Type, source: &Source, update: &Update, error: Option<&String>) {
        let names = update.resources.iter().map(|r| r.name.as_str()).chain(update.removed.iter().map(String::as_str));
        let mut subjects: Vec<Subject> =
            names.map(|n| Subject { kind, source: source.clone(), name: n.to_owned() }).collect();
        subjects.push(Subject { kind, source: source.clone(), name: String::new() });
        for subject in subjects {
            if !self.fetches.answered(&subject) {
                continue;
            }
            if let Some(stats) = self.by_subject.get(&subject) {
                stats.update(&update.version, error.is_none());
            }
        }
        if error.is_none()
            && let Some(kind) = dump_kind(kind)
        {
            self.config.set_version(kind, &update.version);
        }
    }

    /// Keeps what was refused for `/config_dump`.
    pub(super) fn refused(&self, kind: Kind, resource: &Resource, version: &str, error: &dyn Display) {
        let failed = Failed {
            message: Some(resource.body.clone()),
            version: version.to_owned(),
            details: error.to_string(),
            at: SystemTime::now(),
        };
        self.config.failed(kind, &resource.name, failed);
    }

    /// A resource did not come in time.
    pub(super) fn expired(&mut self, subject: &Subject) {
        tracing::warn!(
            target: "config",
            "{}: initial fetch timeout{}{}",
            subject.kind.url(),
            if subject.name.is_empty() { "" } else { " for " },
            subject.name
        );
        if let Some(stats) = self.by_subject.get(subject) {
            stats.init_fetch_timeout.inc();
        }
        if let Some(slot) = self.secret_slots.get(subject) {
            slot.settle();
        }
        if subject.kind == Type::Extension
            && let Some(slot) = self.parts.extensions.find(&subject.source, &subject.name)
        {
            slot.stats.config_fail.inc();
        }
        for cluster in self.clusters.with_endpoints(subject) {
            cluster.stats.init_fetch_timeout.inc();
        }
    }
}

impl Manager {
    /// Decodes and validates all resources of an update: one that cannot be read refuses all of them, as with Envoy. Clusters and listeners that
    /// are known as they come are left out, since nothing is done about them: with a push most come again as they were.
    pub(super) fn decode<'a, M: Message + Name + Default>(
        &self,
        kind: Type,
        update: &'a Update,
    ) -> Result<Vec<Decoded<'a, M>>, String> {
        let name = M::full_name();
        let decode = |resource: &'a Resource| {
            let same = dump_kind(kind).is_some_and(|k| self.config.same(k, &resource.name, &resource.body));
            if same && matches!(kind, Type::Cluster | Type::Listener) {
                return Ok(None);
            }
            let message = any::unpack(&resource.body, &resource.name).map_err(|e| e.to_string())?;
            // What has been looked at before is not looked at again.
            if !same {
                self.note_unknown(&name, resource)?;
            }
            Ok(Some(Decoded { name: &resource.name, message, resource }))
        };
        update.resources.iter().filter_map(|resource| decode(resource).transpose()).collect()
    }

    /// Counts fields that the API does not have, and refuses them with `--reject-unknown-dynamic-fields`.
    fn note_unknown(&self, name: &str, resource: &Resource) -> Result<(), String> {
        let unknown = validate::unknown_fields(name, &resource.body.value, UNKNOWN_FIELDS);
        if unknown.is_empty() {
            return Ok(());
        }
        let list = unknown.join(", ");
        if self.parts.process.reject_unknown_dynamic {
            return Err(format!("{}: Protobuf message (type {name}) has unknown fields: {list}", resource.name));
        }
        self.stats.dynamic_unknown_fields.add(unknown.len() as u64);
        crate::config::warn_once(&format!("unknown fields of {name}"), || {
            format!("{}: unknown fields of {name} are ignored: {list}", resource.name)
        });
        Ok(())
    }
}

/// So many unknown fields of a resource are counted and named.
const UNKNOWN_FIELDS: usize = 16;

/// No name may come twice.
fn unique(update: &Update) -> Result<(), String> {
    let mut seen = HashSet::with_capacity(update.resources.len());
    for resource in &update.resources {
        if !seen.insert(resource.name.as_str()) {
            return Err(format!("duplicate name {} found among added/updated resources", resource.name));
        }
    }
    Ok(())
}

/// Where `/config_dump` keeps a type.
fn dump_kind(kind: Type) -> Option<Kind> {
    match kind {
        Type::Cluster => Some(Kind::Cluster),
        Type::Endpoints => Some(Kind::Endpoints),
        Type::Listener => Some(Kind::Listener),
        Type::Route => Some(Kind::Route),
        Type::Secret => Some(Kind::Secret),
        Type::Extension => Some(Kind::Extension),
        Type::Runtime | Type::Workload => None,
    }
}
