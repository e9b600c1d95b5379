//! EDS: the endpoints of clusters.

use waypost_xds::client::Update;
use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::apply::Failures;
use super::fetch::Subject;
use super::source::Source;
use super::{Manager, Type};
use crate::admin::Kind;

impl Manager {
    pub(super) fn apply_endpoints(&mut self, source: &Source, update: &Update) -> Result<(), String> {
        let mut failures = Failures::default();
        for one in self.decode::<ClusterLoadAssignment>(Type::Endpoints, update)? {
            let subject = Subject { kind: Type::Endpoints, source: source.clone(), name: one.name.to_owned() };
            let clusters = self.clusters.with_endpoints(&subject);
            if clusters.is_empty() {
                // A cluster that has just gone, or that never was: nobody needs it.
                continue;
            }
            let mut refused = None;
            for cluster in clusters {
                if let Err(e) = cluster.assign(&one.message, "endpoints") {
                    refused = Some(e);
                }
            }
            match refused {
                None => {
                    let body = one.resource.body.clone();
                    self.config.put_dynamic(Kind::Endpoints, one.name, body, &update.version, false);
                }
                Some(e) => {
                    self.refused(Kind::Endpoints, one.resource, &update.version, &e);
                    failures.add(one.name, &e);
                }
            }
        }
        failures.summary("endpoint(s)")
    }
}
