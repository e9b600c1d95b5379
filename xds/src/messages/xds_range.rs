//! The number ranges of `xds/type/v3/range.proto`: from `start`, up to but without `end`.

/// `xds.type.v3.Int64Range`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Int64Range {
    /// The first number within.
    #[prost(int64, tag = "1")]
    pub start: i64,
    /// The first number after.
    #[prost(int64, tag = "2")]
    pub end: i64,
}

/// `xds.type.v3.Int32Range`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Int32Range {
    /// The first number within.
    #[prost(int32, tag = "1")]
    pub start: i32,
    /// The first number after.
    #[prost(int32, tag = "2")]
    pub end: i32,
}

/// `xds.type.v3.DoubleRange`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct DoubleRange {
    /// The first number within.
    #[prost(double, tag = "1")]
    pub start: f64,
    /// The first number after.
    #[prost(double, tag = "2")]
    pub end: f64,
}

super::named!("xds.type.v3": Int64Range => "Int64Range", Int32Range => "Int32Range", DoubleRange => "DoubleRange");
