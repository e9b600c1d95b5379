//! Stands in for a filter that guards and is not built yet.

use std::sync::Arc;

use ::http::StatusCode;

use crate::filter::{HttpFilter, LocalReply, Step};
use crate::flags::Flag;
use crate::stream::HttpStream;

/// Lets no request through: without its guard a request must not be sent on.
#[derive(Debug)]
pub struct Unsupported {
    details: Arc<str>,
}

impl Unsupported {
    /// In the place of the filter of this name.
    pub fn new(filter: &str) -> Unsupported {
        Unsupported { details: details(filter).into() }
    }
}

/// `%RESPONSE_CODE_DETAILS%`, or `%CONNECTION_TERMINATION_DETAILS%`; no spaces, as in all of Envoy's details.
pub fn details(filter: &str) -> String {
    let name: String = filter.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect();
    format!("filter_not_supported{{{name}}}")
}

impl HttpFilter for Unsupported {
    fn on_request(&self, _: &mut HttpStream) -> Step {
        // Envoy says the same of a filter whose configuration has not arrived: 500, NFCF.
        let reply = LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, self.details.to_string());
        Step::Respond(reply.flag(Flag::NoFilterConfigFound))
    }
}
