//! `TypedStruct`: a message as JSON within an `Any`, from control planes that lack the message's schema.

use envoy_types::pb::google::protobuf::Struct;

/// `udpa.type.v1.TypedStruct`.
pub mod udpa_v1 {
    use super::Struct;

    /// `udpa.type.v1.TypedStruct`, the older of the two; what istiod sends.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct TypedStruct {
        /// The type that `value` is to be read as.
        #[prost(string, tag = "1")]
        pub type_url: String,
        /// The message, in the protobuf JSON mapping.
        #[prost(message, optional, tag = "2")]
        pub value: Option<Struct>,
    }

    super::super::named!("udpa.type.v1": TypedStruct => "TypedStruct");
}

/// `xds.type.v3.TypedStruct`.
pub mod xds_v3 {
    use super::Struct;

    /// `xds.type.v3.TypedStruct`, the newer of the two; what EnvoyFilter users write.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct TypedStruct {
        /// The type that `value` is to be read as.
        #[prost(string, tag = "1")]
        pub type_url: String,
        /// The message, in the protobuf JSON mapping.
        #[prost(message, optional, tag = "2")]
        pub value: Option<Struct>,
    }

    super::super::named!("xds.type.v3": TypedStruct => "TypedStruct");
}
