//! Stands in for a filter whose configuration has not come over ECDS.

use ::http::StatusCode;

use crate::filter::{HttpFilter, LocalReply, Step};
use crate::flags::Flag;
use crate::stream::HttpStream;

/// Answers all requests as Envoy does: 500 and the flag NFCF, and no details.
#[derive(Debug)]
pub struct MissingConfig;

impl HttpFilter for MissingConfig {
    fn on_request(&self, _: &mut HttpStream) -> Step {
        Step::Respond(LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "").flag(Flag::NoFilterConfigFound))
    }
}
