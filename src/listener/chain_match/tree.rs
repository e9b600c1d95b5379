//! `xds.type.matcher.v3.Matcher` over connections, with names of filter chains as actions.

use std::collections::HashMap;

use waypost_filters::connection::Connection;
use waypost_filters::matcher::{Cidr, CidrTrie, StringMatcher};
use waypost_xds::any;
use waypost_xds::google::protobuf::StringValue;
use waypost_xds::xds::core::v3::TypedExtensionConfig;
use waypost_xds::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate, single_predicate,
};
use waypost_xds::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate as ProtoPredicate};
use waypost_xds::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use waypost_xds::xds::r#type::matcher::v3::matcher::{
    MatcherList, MatcherTree, MatcherType, OnMatch as ProtoOnMatch, on_match,
};
use waypost_xds::xds::r#type::matcher::v3::{IpMatcher, Matcher, ip_matcher::IpRangeMatcher};

use super::Look;
use super::input::Input;
use crate::config::{ConfigError, refuse};

/// A compiled `Matcher`. Where the matcher below a match finds nothing, the search goes on: with the next of a list, the next shorter prefix, or
/// `on_no_match`.
#[derive(Debug)]
pub(super) struct Tree {
    kind: Kind,
    on_no_match: Option<OnMatch>,
}

/// The outcome of a search: a chain, or (within) none of the name that was asked for.
type Found = Option<Option<usize>>;

#[derive(Debug)]
enum OnMatch {
    Chain(Option<usize>),
    Matcher(Box<Tree>),
}

#[derive(Debug)]
enum Kind {
    List(Box<[(Predicate, OnMatch)]>),
    Exact(Input, HashMap<Box<[u8]>, OnMatch>),
    /// An exact map of ports; keys that are no port, or not as Envoy prints one, can never match.
    Port(Input, HashMap<u16, OnMatch>),
    /// From the longest prefix to the shortest.
    Prefix(Input, Box<[(Box<[u8]>, OnMatch)]>),
    Ip(Input, Box<IpTree>),
}

/// `IPMatcher`: each range holds numbers of its matchers, in their order.
#[derive(Debug)]
struct IpTree {
    trie: CidrTrie<Vec<usize>>,
    matchers: Box<[IpRange]>,
}

#[derive(Debug)]
struct IpRange {
    on_match: OnMatch,
    /// Matches only if no other range that comes before it held the address.
    exclusive: bool,
}

#[derive(Debug)]
enum Predicate {
    Value(Input, StringMatcher),
    Or(Box<[Predicate]>),
    And(Box<[Predicate]>),
    Not(Box<Predicate>),
}

type Names<'a> = HashMap<&'a str, usize>;

impl Tree {
    pub fn compile(matcher: &Matcher, names: &Names<'_>, path: &str) -> Result<Tree, ConfigError> {
        let Matcher { on_no_match, matcher_type } = matcher;
        let kind = match matcher_type {
            Some(MatcherType::MatcherList(MatcherList { matchers })) => {
                list(matchers, names, &format!("{path}.matcher_list"))?
            }
            Some(MatcherType::MatcherTree(t)) => map(t, names, &format!("{path}.matcher_tree"))?,
            None => return Err(ConfigError::new(format!("{path}.matcher_type"), "value is required")),
        };
        let on_no_match = on_no_match.as_deref();
        let on_no_match =
            on_no_match.map(|m| OnMatch::compile(Some(m), names, &format!("{path}.on_no_match"))).transpose()?;
        Ok(Tree { kind, on_no_match })
    }

    /// None if nothing matched.
    pub fn find(&self, c: &Connection) -> Found {
        self.kind.find(c).or_else(|| self.on_no_match.as_ref()?.find(c))
    }
}

impl OnMatch {
    fn compile(config: Option<&ProtoOnMatch>, names: &Names<'_>, path: &str) -> Result<OnMatch, ConfigError> {
        let required = || ConfigError::new(path, "value is required");
        let ProtoOnMatch { keep_matching, on_match } = config.ok_or_else(required)?;
        refuse(keep_matching, path, "keep_matching")?;
        match on_match.as_ref().ok_or_else(required)? {
            on_match::OnMatch::Matcher(m) => {
                Ok(OnMatch::Matcher(Box::new(Tree::compile(m, names, &format!("{path}.matcher"))?)))
            }
            on_match::OnMatch::Action(TypedExtensionConfig { name: _, typed_config }) => {
                let path = format!("{path}.action.typed_config");
                let config = typed_config.as_ref().ok_or_else(|| ConfigError::new(&*path, "value is required"))?;
                let kind = any::type_name(config);
                if kind != "google.protobuf.StringValue" {
                    return Err(ConfigError::new(path, format!("action {kind} is not supported yet")));
                }
                let StringValue { value } = any::unpack(config, &path)?;
                Ok(OnMatch::Chain(names.get(value.as_str()).copied()))
            }
        }
    }

    fn find(&self, c: &Connection) -> Found {
        match self {
            OnMatch::Chain(chain) => Some(*chain),
            OnMatch::Matcher(tree) => tree.find(c),
        }
    }
}

impl Kind {
    fn find(&self, c: &Connection) -> Found {
        match self {
            Kind::List(list) => list.iter().filter(|(p, _)| p.matches(c)).find_map(|(_, m)| m.find(c)),
            Kind::Exact(input, map) => input.read(c, |v| map.get(v?))?.find(c),
            Kind::Port(input, map) => map.get(&input.port(c)?)?.find(c),
            Kind::Prefix(input, list) => input.read(c, |v| {
                let v = v?;
                list.iter().filter(|(p, _)| v.starts_with(p)).find_map(|(_, m)| m.find(c))
            }),
            Kind::Ip(input, tree) => {
                let ip = input.ip(c)?;
                let ranges = tree.trie.matches(ip).flatten().filter_map(|i| tree.matchers.get(*i));
                let allowed = ranges.enumerate().filter(|(i, r)| *i == 0 || !r.exclusive);
                allowed.into_iter().find_map(|(_, r)| r.on_match.find(c))
            }
        }
    }
}

impl Tree {
    /// As [`Tree::find`], noting each look.
    pub fn explain(&self, c: &Connection, looks: &mut Vec<Look>) -> Found {
        self.kind.explain(c, looks).or_else(|| {
            let otherwise = self.on_no_match.as_ref()?;
            looks.push(Look::new("no match", None, format!("on_no_match{}", otherwise.leads())));
            otherwise.explain(c, looks)
        })
    }
}

impl OnMatch {
    fn leads(&self) -> &'static str {
        match self {
            OnMatch::Chain(Some(_)) => ", a filter chain",
            OnMatch::Chain(None) => ", a filter chain that there is none of",
            OnMatch::Matcher(_) => ", a matcher",
        }
    }

    fn explain(&self, c: &Connection, looks: &mut Vec<Look>) -> Found {
        match self {
            OnMatch::Chain(chain) => Some(*chain),
            OnMatch::Matcher(tree) => tree.explain(c, looks),
        }
    }
}

impl Kind {
    fn explain(&self, c: &Connection, looks: &mut Vec<Look>) -> Found {
        let text = |v: &[u8]| String::from_utf8_lossy(v).into_owned();
        match self {
            Kind::List(list) => list.iter().enumerate().filter(|(_, (p, _))| p.matches(c)).find_map(|(i, (p, m))| {
                let (input, value) = match p {
                    Predicate::Value(input, _) => (input.to_string(), input.read(c, |v| v.map(text))),
                    _ => ("predicate".to_owned(), None),
                };
                looks.push(Look::new(input, value, format!("matchers[{i}]{}", m.leads())));
                m.explain(c, looks)
            }),
            Kind::Exact(input, map) => {
                let found = input.read(c, |v| v.and_then(|v| Some((format!("{:?}", text(v)), map.get(v)?))));
                entry(input, c, found, looks)?.explain(c, looks)
            }
            Kind::Port(input, map) => {
                let found = input.port(c).and_then(|p| Some((p.to_string(), map.get(&p)?)));
                entry(input, c, found, looks)?.explain(c, looks)
            }
            Kind::Prefix(input, list) => input.read(c, |v| {
                let v = v.unwrap_or_default();
                list.iter().filter(|(p, _)| !v.is_empty() && v.starts_with(p)).find_map(|(p, m)| {
                    let outcome = format!("prefix {:?}{}", text(p), m.leads());
                    looks.push(Look::new(input.to_string(), Some(text(v)), outcome));
                    m.explain(c, looks)
                })
            }),
            Kind::Ip(input, tree) => {
                let Some(ip) = input.ip(c) else {
                    let _ = entry(input, c, None, looks);
                    return None;
                };
                let range = tree.trie.longest(ip).map(|(range, _)| range.to_string()).unwrap_or_default();
                let ranges = tree.trie.matches(ip).flatten().filter_map(|i| Some((i, tree.matchers.get(*i)?)));
                let allowed: Vec<_> = ranges.enumerate().filter(|(i, (_, r))| *i == 0 || !r.exclusive).collect();
                if allowed.is_empty() {
                    let _ = entry(input, c, None, looks);
                }
                allowed.into_iter().find_map(|(_, (i, r))| {
                    let outcome = format!("range_matchers[{i}] ({range}){}", r.on_match.leads());
                    looks.push(Look::new(input.to_string(), Some(ip.to_string()), outcome));
                    r.on_match.explain(c, looks)
                })
            }
        }
    }
}

/// Notes a look at a map.
fn entry<'a>(
    input: &Input,
    c: &Connection,
    found: Option<(String, &'a OnMatch)>,
    looks: &mut Vec<Look>,
) -> Option<&'a OnMatch> {
    let value = input.read(c, |v| v.map(|v| String::from_utf8_lossy(v).into_owned()));
    let outcome = match &found {
        Some((entry, on_match)) => format!("entry {entry}{}", on_match.leads()),
        None => "no entry".to_owned(),
    };
    looks.push(Look::new(input.to_string(), value, outcome));
    found.map(|(_, on_match)| on_match)
}

impl Predicate {
    fn compile(config: Option<&ProtoPredicate>, path: &str) -> Result<Predicate, ConfigError> {
        let Some(MatchType::SinglePredicate(SinglePredicate { input, matcher })) =
            config.and_then(|p| p.match_type.as_ref())
        else {
            return Predicate::compile_group(config, path);
        };
        let path = format!("{path}.single_predicate");
        let input = Input::compile(input.as_ref(), &format!("{path}.input"))?;
        match matcher {
            Some(single_predicate::Matcher::ValueMatch(m)) => {
                Ok(Predicate::Value(input, StringMatcher::compile_xds(m.clone(), &format!("{path}.value_match"))?))
            }
            Some(single_predicate::Matcher::CustomMatch(_)) => {
                Err(ConfigError::unsupported(format!("{path}.custom_match")))
            }
            None => Err(ConfigError::new(format!("{path}.matcher"), "value is required")),
        }
    }

    fn compile_group(config: Option<&ProtoPredicate>, path: &str) -> Result<Predicate, ConfigError> {
        match config.and_then(|p| p.match_type.as_ref()) {
            Some(MatchType::OrMatcher(l)) => Ok(Predicate::Or(predicates(l, &format!("{path}.or_matcher"))?)),
            Some(MatchType::AndMatcher(l)) => Ok(Predicate::And(predicates(l, &format!("{path}.and_matcher"))?)),
            Some(MatchType::NotMatcher(p)) => {
                Ok(Predicate::Not(Box::new(Predicate::compile(Some(p), &format!("{path}.not_matcher"))?)))
            }
            Some(MatchType::SinglePredicate(_)) | None => {
                Err(ConfigError::new(format!("{path}.match_type"), "value is required"))
            }
        }
    }

    fn matches(&self, c: &Connection) -> bool {
        match self {
            Predicate::Value(input, m) => input.read(c, |v| v.is_some_and(|v| m.matches(v))),
            Predicate::Or(any) => any.iter().any(|p| p.matches(c)),
            Predicate::And(all) => all.iter().all(|p| p.matches(c)),
            Predicate::Not(p) => !p.matches(c),
        }
    }
}

fn predicates(list: &PredicateList, path: &str) -> Result<Box<[Predicate]>, ConfigError> {
    let PredicateList { predicate } = list;
    if predicate.len() < 2 {
        return Err(ConfigError::new(format!("{path}.predicate"), "value must contain at least 2 item(s)"));
    }
    let one = |(i, p)| Predicate::compile(Some(p), &format!("{path}.predicate[{i}]"));
    predicate.iter().enumerate().map(one).collect()
}

fn list(matchers: &[FieldMatcher], names: &Names<'_>, path: &str) -> Result<Kind, ConfigError> {
    if matchers.is_empty() {
        return Err(ConfigError::new(format!("{path}.matchers"), "value must contain at least 1 item(s)"));
    }
    let one = |(i, FieldMatcher { predicate, on_match }): (usize, &FieldMatcher)| {
        let path = format!("{path}.matchers[{i}]");
        let predicate = Predicate::compile(predicate.as_ref(), &format!("{path}.predicate"))?;
        Ok((predicate, OnMatch::compile(on_match.as_ref(), names, &format!("{path}.on_match"))?))
    };
    matchers.iter().enumerate().map(one).collect::<Result<_, _>>().map(Kind::List)
}

fn map(tree: &MatcherTree, names: &Names<'_>, path: &str) -> Result<Kind, ConfigError> {
    let MatcherTree { input, tree_type } = tree;
    let input = Input::compile(input.as_ref(), &format!("{path}.input"))?;
    let entries = |MatchMap { map }: &MatchMap, field: &str| {
        if map.is_empty() {
            return Err(ConfigError::new(format!("{path}.{field}.map"), "value must contain at least 1 pair(s)"));
        }
        let one = |(key, m): (&String, &ProtoOnMatch)| {
            Ok((key.clone(), OnMatch::compile(Some(m), names, &format!("{path}.{field}.map[{key}]"))?))
        };
        map.iter().map(one).collect::<Result<Vec<(String, OnMatch)>, ConfigError>>()
    };
    match tree_type {
        Some(TreeType::ExactMatchMap(m)) if input.is_port() => {
            let port = |(key, m): (String, OnMatch)| {
                let port = key.parse::<u16>().ok().filter(|p| p.to_string() == key)?;
                Some((port, m))
            };
            Ok(Kind::Port(input, entries(m, "exact_match_map")?.into_iter().filter_map(port).collect()))
        }
        Some(TreeType::ExactMatchMap(m)) => {
            let entries = entries(m, "exact_match_map")?;
            Ok(Kind::Exact(input, entries.into_iter().map(|(k, m)| (k.into_bytes().into(), m)).collect()))
        }
        Some(TreeType::PrefixMatchMap(m)) => {
            let mut entries = entries(m, "prefix_match_map")?;
            entries.sort_by_key(|(k, _)| std::cmp::Reverse(k.len()));
            Ok(Kind::Prefix(input, entries.into_iter().map(|(k, m)| (k.into_bytes().into(), m)).collect()))
        }
        Some(TreeType::CustomMatch(custom)) => ip(input, custom, names, &format!("{path}.custom_match")),
        None => Err(ConfigError::new(format!("{path}.tree_type"), "value is required")),
    }
}

fn ip(input: Input, custom: &TypedExtensionConfig, names: &Names<'_>, path: &str) -> Result<Kind, ConfigError> {
    let TypedExtensionConfig { name: _, typed_config } = custom;
    let path = format!("{path}.typed_config");
    let config = typed_config.as_ref().ok_or_else(|| ConfigError::new(&*path, "value is required"))?;
    let kind = any::type_name(config);
    if kind != "xds.type.matcher.v3.IPMatcher" {
        return Err(ConfigError::new(path, format!("matcher {kind} is not supported yet")));
    }
    let IpMatcher { range_matchers } = any::unpack(config, &path)?;
    let mut trie: CidrTrie<Vec<usize>> = CidrTrie::default();
    let mut matchers = Vec::with_capacity(range_matchers.len());
    for (i, IpRangeMatcher { ranges, on_match, exclusive }) in range_matchers.iter().enumerate() {
        let path = format!("{path}.range_matchers[{i}]");
        if ranges.is_empty() {
            return Err(ConfigError::new(format!("{path}.ranges"), "value must contain at least 1 item(s)"));
        }
        for (r, range) in ranges.iter().enumerate() {
            trie.entry(Cidr::compile_xds(range, &format!("{path}.ranges[{r}]"))?).push(i);
        }
        let on_match = OnMatch::compile(on_match.as_ref(), names, &format!("{path}.on_match"))?;
        matchers.push(IpRange { on_match, exclusive: *exclusive });
    }
    Ok(Kind::Ip(input, Box::new(IpTree { trie, matchers: matchers.into() })))
}
