//! The custom matchers of `xds/type/matcher/v3` and the CEL input that goes with one of them.

use envoy_types::pb::xds::r#type::v3::CelExpression;

/// `xds.type.matcher.v3.IPMatcher`: the longest prefix that holds an address picks the action.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct IpMatcher {
    /// The ranges and their actions.
    #[prost(message, repeated, tag = "1")]
    pub range_matchers: Vec<ip_matcher::IpRangeMatcher>,
}

/// Nested messages of [`IpMatcher`].
pub mod ip_matcher {
    use envoy_types::pb::xds::{core::v3::CidrRange, r#type::matcher::v3::matcher::OnMatch};

    /// `xds.type.matcher.v3.IPMatcher.IPRangeMatcher`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct IpRangeMatcher {
        /// The ranges, any of which matches.
        #[prost(message, repeated, tag = "1")]
        pub ranges: Vec<CidrRange>,
        /// What to do for an address within.
        #[prost(message, optional, tag = "2")]
        pub on_match: Option<OnMatch>,
        /// Whether a shorter prefix (this one) is passed over when a longer one held the address but its nested matcher did not match.
        #[prost(bool, tag = "3")]
        pub exclusive: bool,
    }

    super::super::named!("xds.type.matcher.v3": IpRangeMatcher => "IPMatcher.IPRangeMatcher");
}

/// `xds.type.matcher.v3.ServerNameMatcher`: the longest wildcard domain that holds a name picks the action.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct ServerNameMatcher {
    /// The domains and their actions.
    #[prost(message, repeated, tag = "1")]
    pub domain_matchers: Vec<server_name_matcher::DomainMatcher>,
}

/// Nested messages of [`ServerNameMatcher`].
pub mod server_name_matcher {
    use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;

    /// `xds.type.matcher.v3.ServerNameMatcher.DomainMatcher`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct DomainMatcher {
        /// `www.example.com`, `*.example.com` or `*`.
        #[prost(string, repeated, tag = "1")]
        pub domains: Vec<String>,
        /// What to do for a name within.
        #[prost(message, optional, tag = "2")]
        pub on_match: Option<OnMatch>,
    }

    super::super::named!("xds.type.matcher.v3": DomainMatcher => "ServerNameMatcher.DomainMatcher");
}

/// `xds.type.matcher.v3.CelMatcher`: a CEL expression that gives `true` matches.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct CelMatcher {
    /// The expression.
    #[prost(message, optional, tag = "1")]
    pub expr_match: Option<CelExpression>,
    /// For people.
    #[prost(string, tag = "2")]
    pub description: String,
}

/// `xds.type.matcher.v3.HttpAttributesCelMatchInput`: the request's attributes as input of a [`CelMatcher`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct HttpAttributesCelMatchInput {}

super::named!("xds.type.matcher.v3":
    IpMatcher => "IPMatcher",
    ServerNameMatcher => "ServerNameMatcher",
    CelMatcher => "CelMatcher",
    HttpAttributesCelMatchInput => "HttpAttributesCelMatchInput",
    Int64RangeMatcher => "Int64RangeMatcher",
    Int32RangeMatcher => "Int32RangeMatcher",
    DoubleRangeMatcher => "DoubleRangeMatcher",
);

/// The three range matchers differ in their number type alone.
macro_rules! range_matcher {
    ($matcher:ident, $module:ident, $range:ident, $name:literal) => {
        #[doc = concat!("`xds.type.matcher.v3.", stringify!($matcher), "`: the first range that holds a number picks the action.")]
        #[derive(Clone, PartialEq, ::prost::Message)]
        pub struct $matcher {
            /// The ranges and their actions.
            #[prost(message, repeated, tag = "1")]
            pub range_matchers: Vec<$module::RangeMatcher>,
        }

        #[doc = concat!("Nested messages of [`", stringify!($matcher), "`].")]
        pub mod $module {
            use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;

            #[doc = concat!("`xds.type.matcher.v3.", $name, "`.")]
            #[derive(Clone, PartialEq, ::prost::Message)]
            pub struct RangeMatcher {
                /// The ranges, any of which matches.
                #[prost(message, repeated, tag = "1")]
                pub ranges: Vec<crate::messages::xds_range::$range>,
                /// What to do for a number within.
                #[prost(message, optional, tag = "2")]
                pub on_match: Option<OnMatch>,
            }

            crate::messages::named!("xds.type.matcher.v3": RangeMatcher => $name);
        }
    };
}

range_matcher!(Int64RangeMatcher, int64_range_matcher, Int64Range, "Int64RangeMatcher.RangeMatcher");
range_matcher!(Int32RangeMatcher, int32_range_matcher, Int32Range, "Int32RangeMatcher.RangeMatcher");
range_matcher!(DoubleRangeMatcher, double_range_matcher, DoubleRange, "DoubleRangeMatcher.RangeMatcher");
