//! Stands in for a network filter that guards and is not built yet.

use std::borrow::Cow;

use crate::connection::Connection;
use crate::filter::{NetworkFilter, NetworkStep};
use crate::http::unsupported::details;

/// Closes every connection: without its guard none may be served.
#[derive(Debug)]
pub struct Unsupported {
    details: String,
}

impl Unsupported {
    /// In the place of the filter of this name.
    pub fn new(filter: &str) -> Unsupported {
        Unsupported { details: details(filter) }
    }
}

impl NetworkFilter for Unsupported {
    fn on_new_connection(&self, _: &mut Connection) -> NetworkStep {
        NetworkStep::Close(Cow::Owned(self.details.clone()))
    }
}
