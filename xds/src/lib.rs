//! Envoy's API as Rust types, and the JSON and YAML that it is written in.
//!
//! The types come from the crate `envoy-types` and, where it has gaps, from [`messages`]; [`envoy`], [`google`], [`xds`], [`udpa`] and [`istio`]
//! name them all. [`json`] carries messages between their wire form and JSON by a table that is built into the binary: nothing is parsed
//! at start-up and nothing is held on the heap. [`validate`] checks the rules that the API states for its fields, and [`any`] opens extension
//! configuration, checked and seen through a `TypedStruct`. [`client`] talks to management servers in both dialects of xDS, and knows no
//! resource but by its name.
//!
//! ```
//! use waypost_xds::{envoy::config::bootstrap::v3::Bootstrap, json, validate, yaml};
//!
//! let document = yaml::parse("node: {id: one}\nadmin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}")?;
//! let bootstrap: Bootstrap = json::from_value(&document, &json::Options::reject_unknown())?;
//! validate::check_message(&bootstrap)?;
//! assert_eq!(bootstrap.node.as_ref().map(|node| node.id.as_str()), Some("one"));
//!
//! let dump = json::to_value(&bootstrap, true)?;
//! assert_eq!(dump["admin"]["address"]["socket_address"]["port_value"], 9901);
//!
//! let error = json::from_value::<Bootstrap>(&yaml::parse("node: {id: on}")?, &json::Options::reject_unknown());
//! assert_eq!(error.unwrap_err().to_string(), "node.id: expected a string, found a boolean");
//! # Ok::<(), waypost_xds::Error>(())
//! ```

pub mod any;
pub mod client;
mod error;
pub mod json;
pub mod messages;
mod schema;
pub mod validate;
mod wire;
pub mod yaml;

pub use envoy_types::pb::{cel, envoy, google, opentelemetry};
pub use error::Error;
pub use messages::istio;
pub use serde_json::Value;

/// `xds.*`, those of [`messages`] among them.
pub mod xds {
    pub use envoy_types::pb::xds::{annotations, core};

    /// `xds.type.*`.
    pub mod r#type {
        /// `xds.type.v3`.
        pub mod v3 {
            pub use crate::messages::{typed_struct::xds_v3::*, xds_range::*};
            pub use envoy_types::pb::xds::r#type::v3::*;
        }

        /// `xds.type.matcher.*`.
        pub mod matcher {
            /// `xds.type.matcher.v3`.
            pub mod v3 {
                pub use crate::messages::xds_matcher::*;
                pub use envoy_types::pb::xds::r#type::matcher::v3::*;
            }
        }
    }
}

/// `udpa.*`, those of [`messages`] among them.
pub mod udpa {
    pub use envoy_types::pb::udpa::annotations;

    /// `udpa.type.*`.
    pub mod r#type {
        /// `udpa.type.v1`.
        pub mod v1 {
            pub use crate::messages::typed_struct::udpa_v1::*;
        }
    }
}
