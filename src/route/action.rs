//! What a route does with a request (`Route.action`).

use super::{DirectResponse, Forward, Redirect};

/// What is done with a request.
#[derive(Debug)]
pub enum Action {
    /// `route`: sent to a cluster.
    Forward(Box<Forward>),
    /// `redirect`: answered with a `location`.
    Redirect(Redirect),
    /// `direct_response`: answered as configured.
    DirectResponse(DirectResponse),
    /// `non_forwarding_action`: for gRPC servers; a proxy answers 503 with flag NC.
    NonForwarding,
}
