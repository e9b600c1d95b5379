//! Tags within stat names (`config.metrics.v3.TagSpecifier`), and Envoy's defaults.

use std::sync::OnceLock;

use regex::Regex;
use waypost_xds::envoy::config::metrics::v3 as proto;

use crate::config::ConfigError;

/// What a name is made of: without its tags, and the tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The name without what was taken out.
    pub name: String,
    /// Tags and their values, in the order of extraction.
    pub tags: Vec<(String, String)>,
}

/// All extractors, compiled once.
#[derive(Debug, Default)]
pub struct TagProducer {
    fixed: Vec<(String, String)>,
    extractors: Vec<Extractor>,
}

#[derive(Debug)]
struct Extractor {
    tag: String,
    /// The first token of the names that can match, where the expression says so.
    first: Option<String>,
    /// Text without which nothing matches; cheaper to look for.
    contains: &'static str,
    regex: Lazy,
    /// What a look-ahead behind the literal start demands (`true`) or forbids.
    ahead: Vec<(Lazy, bool)>,
}

/// Envoy's default tags: name behind `envoy.`, a text that is needed, and an expression whose first group is taken out and whose last is the value.
const DEFAULTS: [(&str, &str, &str); 33] = [
    ("response_code", "_rq_", r"_rq(_(\d{3}))$"),
    ("response_code_class", "_rq_", r"_rq_(\d)xx$"),
    (
        "dynamo_partition_id",
        ".dynamodb.table.",
        r"^http\.[^.]+\.dynamodb\.table\.[^.]+\.capacity\.[^.]+(\.__partition_id=(\w{7}))$",
    ),
    (
        "dynamo_operation",
        ".dynamodb.",
        r"^http\.[^.]+\.dynamodb.(?:operation|table\.[^.]+\.capacity)(\.([^.]+))(?:\.|$)",
    ),
    ("mongo_callsite", ".callsite.", r"^mongo\.[^.]+\.collection\.[^.]+\.callsite\.(([^.]+)\.)query\."),
    ("dynamo_table", ".dynamodb.", r"^http\.[^.]+\.dynamodb.(?:table|error)\.(([^.]+)\.)"),
    ("mongo_collection", ".collection.", r"^mongo\.[^.]+\.collection\.(([^.]+)\.).*?query\.[^.]+$"),
    ("mongo_cmd", ".cmd.", r"^mongo\.[^.]+\.cmd\.(([^.]+)\.)"),
    ("grpc_bridge_method", ".grpc.", r"^cluster\.[^.]+\.grpc\.[^.]+\.(([^.]+)\.)"),
    ("http_user_agent", ".user_agent.", r"^http\.[^.]+\.user_agent\.(([^.]+)\.)"),
    ("rbac_http_prefix", ".rbac.", r"^http\.[^.]+\.rbac\.(([^.]+)\.)"),
    ("virtual_cluster", ".vcluster.", r"^vhost\.[^.]+\.vcluster\.(([^.]+)\.)"),
    ("fault_downstream_cluster", ".fault.", r"^http\.[^.]+\.fault\.(([^.]+)\.)"),
    ("ssl_cipher", ".ssl.cipher", r"^listener\..*?\.ssl\.cipher(\.([^.]+))$"),
    ("cipher_suite", ".ssl.ciphers.", r"^cluster\.[^.]+\.ssl\.ciphers(\.([^.]+))$"),
    ("grpc_bridge_service", ".grpc.", r"^cluster\.[^.]+\.grpc\.(([^.]+)\.)"),
    ("tcp_prefix", "tcp.", r"^tcp\.(([^.]+)\.)"),
    ("udp_prefix", "udp.", r"^udp\.(([^.]+)\.)"),
    ("clientssl_prefix", "auth.", r"^auth\.clientssl\.(([^.]+)\.)"),
    ("ratelimit_prefix", "ratelimit.", r"^ratelimit\.(([^.]+)\.)"),
    ("cluster_name", "cluster.", r"^cluster\.(([^.]+)\.)"),
    ("http_conn_manager_prefix", ".http.", r"^listener\..*?\.http\.(([^.]+)\.)"),
    ("http_conn_manager_prefix", "http.", r"^http\.(([^.]+)\.)"),
    ("listener_address", "listener.", r"^listener\.(([_.\d]*\d|\[[_aAbBcCdDeEfF\d:]*\]_\d+|envoy_internal_[^.]+)\.)"),
    ("virtual_host", "vhost.", r"^vhost\.(([^.]+)\.)"),
    ("mongo_prefix", "mongo.", r"^mongo\.(([^.]+)\.)"),
    ("rds_route_config", ".rds.", r"^http\.[^.]+\.rds\.((.*?)\.)\w+?$"),
    ("scoped_rds_config", ".scoped_rds.", r"^http\.[^.]+\.scoped_rds\.(([^.]+)\.)\w+?$"),
    ("route", ".route.", r"^vhost\.[^.]+\.route\.(([^.]+)\.)"),
    ("thrift_prefix", "thrift.", r"^thrift\.(([^.]+)\.)"),
    ("local_http_ratelimit_prefix", ".http_local_rate_limit.", r"^(([^.]+)\.)http_local_rate_limit\."),
    ("local_network_ratelimit_prefix", "local_rate_limit.", r"^local_rate_limit\.(([^.]+)\.)"),
    (
        "worker_id",
        "worker_",
        r"^(?:listener_manager|server|listener\..*?|thread_local_cluster_manager)\.worker(_(\d+))\.",
    ),
];

impl TagProducer {
    /// Compiles `stats_tags`, with the defaults unless `use_all_default_tags` is false, and the tags of `--stats-tag`. With `overrides`
    /// (`allow_default_tag_overrides`) a custom tag replaces the default of its name, else the default wins.
    pub fn compile(
        specifiers: Vec<proto::TagSpecifier>,
        defaults: bool,
        overrides: bool,
        cli: &[(String, String)],
    ) -> Result<TagProducer, ConfigError> {
        let mut producer = TagProducer { fixed: cli.to_vec(), extractors: Vec::new() };
        if defaults {
            let custom = |tag: &str| {
                let own = |s: &&proto::TagSpecifier| s.tag_name.strip_prefix("envoy.") == Some(tag);
                specifiers.iter().filter(own).any(|s| s.tag_value.is_some())
            };
            for (tag, contains, regex) in DEFAULTS.into_iter().filter(|(tag, ..)| !overrides || !custom(tag)) {
                producer.extractors.push(Extractor::new(&format!("envoy.{tag}"), contains, regex, "stats_config")?);
            }
        }
        for (i, specifier) in specifiers.into_iter().enumerate() {
            let path = format!("stats_config.stats_tags[{i}]");
            let proto::TagSpecifier { tag_name, tag_value } = specifier;
            match tag_value {
                Some(proto::tag_specifier::TagValue::FixedValue(value)) => producer.fixed.push((tag_name, value)),
                Some(proto::tag_specifier::TagValue::Regex(regex)) if !regex.is_empty() => {
                    producer.extractors.push(Extractor::new(&tag_name, "", &regex, &path)?);
                }
                // Without an expression it names defaults, which may be off as a whole.
                _ => producer.named(&tag_name, defaults, &path)?,
            }
        }
        // As in Envoy those without a first token come before those with one.
        producer.extractors.sort_by_key(|e| e.first.is_some());
        Ok(producer)
    }

    fn named(&mut self, tag: &str, have: bool, path: &str) -> Result<(), ConfigError> {
        let mut found = false;
        for (_, contains, regex) in DEFAULTS.iter().filter(|(n, ..)| tag.strip_prefix("envoy.") == Some(*n)) {
            found = true;
            if !have {
                self.extractors.push(Extractor::new(tag, contains, regex, path)?);
            }
        }
        if found {
            return Ok(());
        }
        let reason = format!("No regex specified for tag specifier and no default regex for name: '{tag}'");
        Err(ConfigError::new(path, reason))
    }

    /// Takes the tags out of a name.
    pub fn extract(&self, name: &str) -> Extracted {
        let first = name.split('.').next().unwrap_or_default();
        let mut tags = self.fixed.clone();
        let mut removed: Vec<(usize, usize)> = Vec::new();
        for e in &self.extractors {
            if e.first.as_deref().is_some_and(|f| f != first) || !name.contains(e.contains) {
                continue;
            }
            let Some(captures) = e.regex.get().and_then(|r| r.captures(name)) else { continue };
            if !e.ahead.iter().all(|(r, wanted)| r.get().is_some_and(|r| r.is_match(name)) == *wanted) {
                continue;
            }
            let Some(out) = captures.get(1) else { continue };
            let value = captures.get(2).unwrap_or(out);
            if tags.iter().any(|(t, _)| *t == e.tag) {
                continue;
            }
            tags.push((e.tag.clone(), value.as_str().to_owned()));
            removed.push((out.start(), out.end()));
        }
        removed.sort_unstable();
        let mut rest = String::with_capacity(name.len());
        let mut at = 0;
        for (start, end) in removed {
            rest.push_str(name.get(at..start.max(at)).unwrap_or_default());
            at = at.max(end);
        }
        rest.push_str(name.get(at..).unwrap_or_default());
        Extracted { name: rest, tags }
    }
}

/// An expression that is compiled when the first name that may match comes by: a process whose metrics nobody asks for spares the memory.
#[derive(Debug)]
struct Lazy {
    text: String,
    regex: OnceLock<Option<Regex>>,
}

impl Lazy {
    fn new(text: String) -> Lazy {
        Lazy { text, regex: OnceLock::new() }
    }

    fn get(&self) -> Option<&Regex> {
        // Those of the configuration were compiled once when it was loaded; the defaults are in a test.
        self.regex.get_or_init(|| Regex::new(&self.text).ok()).as_ref()
    }
}

impl Extractor {
    fn new(tag: &str, contains: &'static str, regex: &str, path: &str) -> Result<Extractor, ConfigError> {
        let ours = DEFAULTS.iter().any(|(_, _, known)| *known == regex);
        let compile = |r: &str| {
            if !ours {
                Regex::new(r).map_err(|e| ConfigError::new(format!("{path}.regex"), e.to_string()))?;
            }
            Ok::<_, ConfigError>(Lazy::new(r.to_owned()))
        };
        let (plain, ahead) = without_look_ahead(regex).ok_or_else(|| {
            ConfigError::new(format!("{path}.regex"), "a look-ahead that is not behind a literal start")
        })?;
        let ahead = ahead.iter().map(|(r, wanted)| Ok((compile(r)?, *wanted))).collect::<Result<_, ConfigError>>()?;
        Ok(Extractor { tag: tag.to_owned(), first: first_token(regex), contains, regex: compile(&plain)?, ahead })
    }
}

/// The literal first token of an expression like `^listener\.…` or `^listener(?=\.)…`.
fn first_token(regex: &str) -> Option<String> {
    let rest = regex.strip_prefix('^')?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (token, rest) = rest.split_at_checked(end)?;
    let dot = rest.starts_with("\\.") || rest.starts_with("(?=\\.)") || rest == "$";
    // Behind a dot something must come, else the dot may belong to a repetition.
    (end > 0 && dot).then(|| token.to_owned())
}

type Conditions = Vec<(String, bool)>;

/// Envoy's custom tags are ECMAScript expressions, ours have no look-around. A look-ahead directly behind a literal start
/// (`^listener(?=\.)…`) says of a fixed place what follows, so it is a condition of its own: the literal and what is looked for.
fn without_look_ahead(regex: &str) -> Option<(String, Conditions)> {
    let mut conditions = Vec::new();
    let mut regex = regex.to_owned();
    loop {
        let found = ["(?=", "(?!"].iter().filter_map(|mark| regex.find(mark)).min();
        if regex.contains("(?<=") || regex.contains("(?<!") {
            return None;
        }
        let Some(at) = found else { return Some((regex, conditions)) };
        let (start, rest) = regex.split_at_checked(at)?;
        let literal = start.strip_prefix('^')?;
        if !literal.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        let end = closing(rest)?;
        let (group, tail) = rest.split_at_checked(end + 1)?;
        let inner = group.get(3..end)?;
        conditions.push((format!("^{literal}(?:{inner})"), group.starts_with("(?=")));
        regex = format!("{start}{tail}");
    }
}

/// Where the group that a text starts with ends.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut escaped) = (0usize, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_expression_compiles() {
        for (tag, contains, regex) in DEFAULTS {
            let e = Extractor::new(tag, contains, regex, "").unwrap();
            assert!(e.regex.get().is_some() && e.ahead.iter().all(|(r, _)| r.get().is_some()), "{tag}");
        }
    }
}
