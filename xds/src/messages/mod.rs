//! The messages that the crate `envoy-types` lacks. Their `.proto` files are in `proto/`; a test holds the two to each other.

pub mod istio;
pub mod typed_struct;
pub mod xds_matcher;
pub mod xds_range;

/// Gives messages their protobuf name, by which they are found in the schema table and in an `Any`.
macro_rules! named {
    ($package:literal: $($message:ty => $name:literal),+ $(,)?) => {$(
        impl ::prost::Name for $message {
            const NAME: &'static str = $name;
            const PACKAGE: &'static str = $package;

            fn full_name() -> String {
                concat!($package, ".", $name).into()
            }

            fn type_url() -> String {
                concat!("type.googleapis.com/", $package, ".", $name).into()
            }
        }
    )+};
}
use named;

#[cfg(test)]
mod tests;
