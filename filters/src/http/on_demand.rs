//! `envoy.filters.http.on_demand`: a request without a route waits while its routes are asked for.

use waypost_xds::envoy::extensions::filters::http::on_demand::v3 as proto;

use crate::filter::{HttpFilter, Step};
use crate::stream::HttpStream;

/// Asks for virtual hosts, and for the routes of scopes. Clusters are not asked for.
#[derive(Clone, Copy, Debug)]
pub struct OnDemand;

impl OnDemand {
    /// The filter, and whether its configuration wants clusters on demand.
    pub fn compile(config: proto::OnDemand) -> (OnDemand, bool) {
        let proto::OnDemand { odcds } = config;
        (OnDemand, odcds.is_some())
    }
}

impl HttpFilter for OnDemand {
    fn on_request(&self, _stream: &mut HttpStream) -> Step {
        Step::FindRoute
    }
}
