//! How a request ends.

use serde_json::{Value, json};

/// How a request ends.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is sent to an address.
    Sent {
        /// The address.
        address: String,
        /// The authorities of the CONNECTs around it, from the outside in.
        tunnels: Vec<String>,
        /// The cluster that has the host.
        cluster: String,
        /// What is sent there at last.
        what: String,
    },
    /// It is answered here.
    Answered {
        /// The status.
        status: u16,
        /// `%RESPONSE_CODE_DETAILS%`.
        details: String,
    },
    /// Its connection is closed.
    Closed(String),
}

impl Default for Outcome {
    fn default() -> Outcome {
        Outcome::Closed("nothing is known".to_owned())
    }
}

impl Outcome {
    /// As a line.
    pub fn text(&self) -> String {
        match self {
            Outcome::Sent { address, tunnels, what, .. } => {
                let tunnels: String = tunnels.iter().map(|t| format!(", in a CONNECT to {t}")).collect();
                format!("goes to {address}{tunnels}: {what}")
            }
            Outcome::Answered { status, details } if details.is_empty() => format!("answered here: {status}"),
            Outcome::Answered { status, details } => format!("answered here: {status} ({details})"),
            Outcome::Closed(why) => format!("the connection is closed: {why}"),
        }
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        match self {
            Outcome::Sent { address, tunnels, cluster, what } => {
                json!({ "address": address, "tunnels": tunnels, "cluster": cluster, "what": what })
            }
            Outcome::Answered { status, details } => json!({ "status": status, "details": details }),
            Outcome::Closed(why) => json!({ "closed": why }),
        }
    }
}
