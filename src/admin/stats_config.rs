//! `stats_config` of the bootstrap (`config.metrics.v3.StatsConfig`): which stats there are, their tags and buckets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use waypost_filters::matcher::StringMatcher;
use waypost_xds::envoy::config::metrics::v3 as proto;
use waypost_xds::envoy::config::metrics::v3::stats_matcher::StatsMatcher;
use waypost_xds::envoy::r#type::matcher::v3::ListStringMatcher;

use super::tags::{Extracted, TagProducer};
use crate::config::ConfigError;

/// Stands between the parts of a stat name that carries its own tags: `name⟨US⟩tag⟨US⟩value…`, as `istio.stats` has them. Envoy prints such
/// names with dots, and so do we; no configuration can put the character into a name by accident.
pub const TAG_SEPARATOR: char = '\u{1f}';

/// Names that lead without `envoy_` to Prometheus (`CustomStatNamespaces`).
const CUSTOM_NAMESPACES: [&str; 2] = ["istiocustom", "wasmcustom"];

/// Envoy's buckets unless `histogram_bucket_settings` says otherwise.
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// What the bootstrap says about stats, compiled.
#[derive(Debug, Default)]
pub struct StatsConfig {
    tags: TagProducer,
    matcher: Matcher,
    buckets: Vec<(StringMatcher, Vec<f64>)>,
    /// Names are looked at once; scrapes come every few seconds.
    known: Mutex<HashMap<Arc<str>, Option<Arc<Stat>>>>,
}

#[derive(Debug, Default)]
enum Matcher {
    #[default]
    All,
    None,
    Except(Vec<StringMatcher>),
    Only(Vec<StringMatcher>),
}

/// How many names' forms are remembered between requests: those of a few hundred clusters.
const KNOWN_MAX: usize = 20_000;

/// A stat's name in all its forms.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    /// As text endpoints print it.
    pub name: String,
    /// Without tags, with dots.
    pub base: String,
    /// The Prometheus name.
    pub metric: String,
    /// The Prometheus labels, without braces.
    pub labels: String,
}

/// A name that carries its own tags.
pub fn tagged_name(name: &str, tags: &[(&str, &str)]) -> String {
    let mut out = name.to_owned();
    for (tag, value) in tags {
        for part in [tag, value] {
            out.push(TAG_SEPARATOR);
            out.extend(part.chars().filter(|c| *c != TAG_SEPARATOR));
        }
    }
    out
}

impl StatsConfig {
    /// Compiles the message; `cli` are the tags of `--stats-tag`.
    pub fn compile(config: Option<proto::StatsConfig>, cli: &[(String, String)]) -> Result<StatsConfig, ConfigError> {
        let proto::StatsConfig {
            stats_tags,
            use_all_default_tags,
            stats_matcher,
            histogram_bucket_settings,
            allow_default_tag_overrides,
        } = config.unwrap_or_default();
        let overrides = allow_default_tag_overrides.is_some_and(|b| b.value);
        let defaults = use_all_default_tags.is_none_or(|b| b.value);
        let matcher = match stats_matcher.and_then(|m| m.stats_matcher) {
            None | Some(StatsMatcher::RejectAll(false)) => Matcher::All,
            Some(StatsMatcher::RejectAll(true)) => Matcher::None,
            Some(StatsMatcher::ExclusionList(list)) => Matcher::Except(patterns(list, "exclusion_list")?),
            Some(StatsMatcher::InclusionList(list)) => Matcher::Only(patterns(list, "inclusion_list")?),
        };
        let mut buckets = Vec::new();
        for (i, setting) in histogram_bucket_settings.into_iter().enumerate() {
            let path = format!("stats_config.histogram_bucket_settings[{i}]");
            let proto::HistogramBucketSettings { r#match, buckets: mut bounds, bins: _ } = setting;
            let matcher = r#match.ok_or_else(|| ConfigError::new(format!("{path}.match"), "value is required"))?;
            if bounds.iter().any(|b| !b.is_finite() || *b <= 0.0) {
                return Err(ConfigError::new(format!("{path}.buckets"), "values must be greater than 0"));
            }
            bounds.sort_by(f64::total_cmp);
            buckets.push((compile(matcher, &format!("{path}.match"))?, bounds));
        }
        let tags = TagProducer::compile(stats_tags, defaults, overrides, cli)?;
        Ok(StatsConfig { tags, matcher, buckets, known: Mutex::default() })
    }

    /// A stat's forms, unless the matcher leaves it out.
    pub fn stat(&self, name: &str) -> Option<Arc<Stat>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stat) = known.get(name) {
            return stat.clone();
        }
        let stat = self.allows(&plain(name)).then(|| Arc::new(self.forms(name)));
        // Names come and go with clusters, and thousands of clusters have hundreds of thousands of names.
        if known.len() < KNOWN_MAX {
            known.insert(name.into(), stat.clone());
        }
        stat
    }

    /// The upper bounds of a histogram's buckets.
    pub fn bounds(&self, name: &str) -> &[f64] {
        self.buckets.iter().find(|(m, _)| m.matches(name.as_bytes())).map_or(&BUCKETS, |(_, b)| b)
    }

    fn allows(&self, name: &str) -> bool {
        let any = |list: &[StringMatcher]| list.iter().any(|m| m.matches(name.as_bytes()));
        match &self.matcher {
            Matcher::All => true,
            Matcher::None => false,
            Matcher::Except(list) => !any(list),
            Matcher::Only(list) => any(list),
        }
    }

    fn forms(&self, name: &str) -> Stat {
        let mut parts = name.split(TAG_SEPARATOR);
        let base = parts.next().unwrap_or_default();
        let mut own = Vec::new();
        while let (Some(tag), Some(value)) = (parts.next(), parts.next()) {
            own.push((tag.to_owned(), value.to_owned()));
        }
        let Extracted { name: base, mut tags } = self.tags.extract(base);
        tags.extend(own);
        let labels: Vec<String> =
            tags.iter().map(|(t, v)| format!("{}=\"{}\"", sanitized(t), label_value(v))).collect();
        Stat { name: plain(name), metric: metric(&base), labels: labels.join(","), base }
    }
}

fn plain(name: &str) -> String {
    name.replace(TAG_SEPARATOR, ".")
}

fn metric(base: &str) -> String {
    let custom = CUSTOM_NAMESPACES.iter().find_map(|n| base.strip_prefix(n)?.strip_prefix('.'));
    match custom {
        Some(rest) => sanitized(rest),
        None => format!("envoy_{}", sanitized(base)),
    }
}

fn sanitized(name: &str) -> String {
    let mut out: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

fn label_value(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

fn patterns(list: ListStringMatcher, field: &str) -> Result<Vec<StringMatcher>, ConfigError> {
    let ListStringMatcher { patterns } = list;
    let path = |i| format!("stats_config.stats_matcher.{field}.patterns[{i}]");
    patterns.into_iter().enumerate().map(|(i, p)| compile(p, &path(i))).collect()
}

fn compile(
    matcher: waypost_xds::envoy::r#type::matcher::v3::StringMatcher,
    path: &str,
) -> Result<StringMatcher, ConfigError> {
    StringMatcher::compile(matcher, path).map_err(|e| ConfigError::new(e.path, e.reason))
}
