//! `AccessLogFilter`: which events are logged.

use std::hash::{BuildHasher, Hasher, RandomState};

use ::prost::Message;

use super::matching::{HeaderMatch, MetadataMatch};
use super::{AccessLogError, error};
use crate::cel;
use crate::flags::{Flag, Flags};
use crate::format::{AccessLogType, FormatContext, duration_of, grpc_status};
use waypost_xds::envoy::config::accesslog::v3 as proto;
use waypost_xds::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use waypost_xds::envoy::config::accesslog::v3::comparison_filter::Op;
use waypost_xds::envoy::config::core::v3::RuntimeUInt32;
use waypost_xds::envoy::data::accesslog::v3::AccessLogType as ProtoType;
use waypost_xds::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use waypost_xds::envoy::r#type::v3::FractionalPercent;
use waypost_xds::envoy::r#type::v3::fractional_percent::DenominatorType;

/// The end of the type URL of `ExpressionFilter`.
const CEL_FILTER: &str = "/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";

/// A compiled filter.
#[derive(Clone, Debug)]
pub(super) enum Filter {
    StatusCode(Comparison),
    Duration(Comparison),
    NotHealthCheck,
    /// Nothing is traced yet.
    Traceable,
    Runtime(Sampling),
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Header(HeaderMatch),
    /// Any flag, if none is named.
    ResponseFlag(Option<Flags>),
    GrpcStatus {
        statuses: Vec<i64>,
        exclude: bool,
    },
    /// Without a matcher no key is ever found.
    Metadata {
        matcher: Option<MetadataMatch>,
        if_missing: bool,
    },
    /// An expression that is true.
    Cel(cel::Expression),
    /// A bit for each type.
    LogType {
        types: u32,
        exclude: bool,
    },
}

/// `ComparisonFilter`
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    op: Op,
    value: u64,
}

/// `RuntimeFilter`: so many of so many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    numerator: u64,
    denominator: u64,
    independent: bool,
}

impl Filter {
    /// Compiles a filter; none where the message has none.
    pub fn compile(filter: proto::AccessLogFilter, path: &str) -> Result<Option<Filter>, AccessLogError> {
        let proto::AccessLogFilter { filter_specifier } = filter;
        filter_specifier.map(|s| specifier(s, path)).transpose()
    }

    pub fn passes(&self, cx: &FormatContext<'_>) -> bool {
        match self {
            Filter::StatusCode(c) => c.holds(cx.info.response_code.into()),
            Filter::Duration(c) => c.holds(u64::try_from(duration_of(cx).as_millis()).unwrap_or(u64::MAX)),
            // The health_check filter, which would mark such streams, is not supported, so none is one.
            Filter::NotHealthCheck => true,
            Filter::Traceable => false,
            Filter::Runtime(s) => s.takes(cx),
            Filter::And(filters) => filters.iter().all(|f| f.passes(cx)),
            Filter::Or(filters) => filters.iter().any(|f| f.passes(cx)),
            Filter::Header(matcher) => cx.request.is_some_and(|r| matcher.matches(r)),
            Filter::ResponseFlag(None) => !cx.info.flags.is_empty(),
            Filter::ResponseFlag(Some(flags)) => cx.info.flags.intersects(*flags),
            Filter::GrpcStatus { statuses, exclude } => statuses.contains(&grpc_status(cx)) != *exclude,
            Filter::Metadata { matcher, if_missing } => {
                matcher.as_ref().map_or(*if_missing, |m| m.matches(&cx.info.metadata, *if_missing))
            }
            Filter::Cel(expression) => expression.is_true(cx),
            Filter::LogType { types, exclude } => (types & bit(cx.access_log_type) != 0) != *exclude,
        }
    }
}

fn specifier(specifier: FilterSpecifier, path: &str) -> Result<Filter, AccessLogError> {
    Ok(match specifier {
        FilterSpecifier::StatusCodeFilter(proto::StatusCodeFilter { comparison: c }) => {
            Filter::StatusCode(comparison(c, &format!("{path}.status_code_filter.comparison"))?)
        }
        FilterSpecifier::DurationFilter(proto::DurationFilter { comparison: c }) => {
            Filter::Duration(comparison(c, &format!("{path}.duration_filter.comparison"))?)
        }
        FilterSpecifier::NotHealthCheckFilter(proto::NotHealthCheckFilter {}) => Filter::NotHealthCheck,
        FilterSpecifier::TraceableFilter(proto::TraceableFilter {}) => Filter::Traceable,
        FilterSpecifier::RuntimeFilter(filter) => runtime(filter, &format!("{path}.runtime_filter"))?,
        FilterSpecifier::AndFilter(proto::AndFilter { filters }) => {
            Filter::And(several(filters, &format!("{path}.and_filter.filters"))?)
        }
        FilterSpecifier::OrFilter(proto::OrFilter { filters }) => {
            Filter::Or(several(filters, &format!("{path}.or_filter.filters"))?)
        }
        FilterSpecifier::HeaderFilter(proto::HeaderFilter { header }) => {
            let path = format!("{path}.header_filter.header");
            let Some(header) = header else { return Err(error(&path, "value is required")) };
            Filter::Header(HeaderMatch::compile(header, &path)?)
        }
        FilterSpecifier::ResponseFlagFilter(proto::ResponseFlagFilter { flags }) => {
            response_flags(&flags, &format!("{path}.response_flag_filter.flags"))?
        }
        FilterSpecifier::GrpcStatusFilter(proto::GrpcStatusFilter { statuses, exclude }) => {
            Filter::GrpcStatus { statuses: statuses.into_iter().map(i64::from).collect(), exclude }
        }
        FilterSpecifier::MetadataFilter(proto::MetadataFilter { matcher, match_if_key_not_found }) => {
            let path = format!("{path}.metadata_filter.matcher");
            let if_missing = match_if_key_not_found.is_none_or(|b| b.value);
            Filter::Metadata { matcher: matcher.map(|m| MetadataMatch::compile(m, &path)).transpose()?, if_missing }
        }
        FilterSpecifier::LogTypeFilter(proto::LogTypeFilter { types, exclude }) => {
            let path = format!("{path}.log_type_filter.types");
            let types = types.into_iter().map(|t| log_type(t, &path)).try_fold(0, |bits, t| Ok(bits | t?))?;
            Filter::LogType { types, exclude }
        }
        FilterSpecifier::ExtensionFilter(filter) => extension(filter, &format!("{path}.extension_filter"))?,
    })
}

fn extension(filter: proto::ExtensionFilter, path: &str) -> Result<Filter, AccessLogError> {
    let proto::ExtensionFilter { name, config_type } = filter;
    let Some(proto::extension_filter::ConfigType::TypedConfig(any)) =
        config_type.filter(|proto::extension_filter::ConfigType::TypedConfig(any)| any.type_url.ends_with(CEL_FILTER))
    else {
        return Err(error(path, format!("access log filter '{name}' is not supported yet")));
    };
    let path = format!("{path}.typed_config");
    let ExpressionFilter { expression, cel_config } =
        ExpressionFilter::decode(any.value.as_slice()).map_err(|e| error(&path, e.to_string()))?;
    let options = cel_config.map(cel::Options::from).unwrap_or_default();
    let compiled = cel::Expression::parse(&expression, options);
    compiled.map(Filter::Cel).map_err(|e| error(&format!("{path}.expression"), e.to_string()))
}

fn several(filters: Vec<proto::AccessLogFilter>, path: &str) -> Result<Vec<Filter>, AccessLogError> {
    if filters.len() < 2 {
        return Err(error(path, "value must contain at least 2 item(s)"));
    }
    let mut compiled = Vec::with_capacity(filters.len());
    for (i, filter) in filters.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        compiled.push(Filter::compile(filter, &path)?.ok_or_else(|| error(&path, "filter_specifier is required"))?);
    }
    Ok(compiled)
}

fn comparison(comparison: Option<proto::ComparisonFilter>, path: &str) -> Result<Comparison, AccessLogError> {
    let Some(proto::ComparisonFilter { op, value }) = comparison else {
        return Err(error(path, "value is required"));
    };
    // There is no runtime yet that would know the key, so the default is the value.
    let Some(RuntimeUInt32 { default_value, runtime_key: _ }) = value else {
        return Err(error(&format!("{path}.value"), "value is required"));
    };
    let op =
        Op::try_from(op).map_err(|_| error(&format!("{path}.op"), "value must be one of the defined enum values"))?;
    Ok(Comparison { op, value: default_value.into() })
}

fn runtime(filter: proto::RuntimeFilter, path: &str) -> Result<Filter, AccessLogError> {
    let proto::RuntimeFilter { runtime_key, percent_sampled, use_independent_randomness } = filter;
    if runtime_key.is_empty() {
        return Err(error(&format!("{path}.runtime_key"), "value length must be at least 1 characters"));
    }
    // Without a percentage and without a runtime that knows the key: none.
    let FractionalPercent { numerator, denominator } = percent_sampled.unwrap_or_default();
    let denominator = match DenominatorType::try_from(denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => {
            let path = format!("{path}.percent_sampled.denominator");
            return Err(error(&path, "value must be one of the defined enum values"));
        }
    };
    Ok(Filter::Runtime(Sampling { numerator: numerator.into(), denominator, independent: use_independent_randomness }))
}

fn response_flags(names: &[String], path: &str) -> Result<Filter, AccessLogError> {
    let mut flags = Flags::NONE;
    for (i, name) in names.iter().enumerate() {
        match Flag::ALL.iter().find(|f| f.short() == name) {
            Some(flag) => flags.set(*flag),
            None => return Err(error(&format!("{path}[{i}]"), "value must be in list of response flags")),
        }
    }
    Ok(Filter::ResponseFlag((!names.is_empty()).then_some(flags)))
}

/// The bit of a type. Types of logs that are not written here (UDP) are accepted: their bit never comes.
fn log_type(value: i32, path: &str) -> Result<u32, AccessLogError> {
    match ProtoType::try_from(value) {
        Ok(_) => Ok(1_u32.checked_shl(u32::try_from(value).unwrap_or(u32::MAX)).unwrap_or(0)),
        Err(_) => Err(error(path, "value must be one of the defined enum values")),
    }
}

fn bit(log_type: AccessLogType) -> u32 {
    1 << (log_type as u8)
}

impl Comparison {
    fn holds(self, n: u64) -> bool {
        match self.op {
            Op::Eq => n == self.value,
            Op::Ge => n >= self.value,
            Op::Le => n <= self.value,
            Op::Ne => n != self.value,
        }
    }
}

impl Sampling {
    fn takes(self, cx: &FormatContext<'_>) -> bool {
        if self.numerator == 0 || self.numerator >= self.denominator {
            return self.numerator != 0;
        }
        // The request id decides, so that all proxies on the way choose the same requests.
        let id = if self.independent { None } else { cx.info.request_id.as_deref().and_then(id_bits) };
        id.unwrap_or_else(|| RandomState::new().build_hasher().finish()) % self.denominator < self.numerator
    }
}

/// The first 8 hex digits of a UUID, by which Envoy samples.
fn id_bits(id: &str) -> Option<u64> {
    u64::from_str_radix(id.get(..8)?, 16).ok()
}
