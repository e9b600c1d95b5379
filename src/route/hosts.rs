//! Which virtual host: exact name, longest suffix, longest prefix, or `*`.

use std::collections::HashMap;

use smallvec::SmallVec;

/// Names of virtual hosts, in lower case. A name's port is part of it.
#[derive(Debug, Default)]
pub(super) struct HostIndex {
    exact: HashMap<Box<[u8]>, usize>,
    /// `*.example.com` and `*-b.example.com`, without the star.
    suffixes: Wildcards,
    /// `example.*`, without the star.
    prefixes: Wildcards,
    any: Option<usize>,
}

/// Wildcards by length, the longest first.
type Wildcards = Vec<(usize, HashMap<Box<[u8]>, usize>)>;

/// Why a domain is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Duplicate {
    Any,
    Domain,
}

/// Names up to this length are lower-cased on the stack; a DNS name has at most 253 bytes.
const STACK: usize = 264;

impl HostIndex {
    pub fn insert(&mut self, domain: &str, host: usize) -> Result<(), Duplicate> {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            return if self.any.replace(host).is_none() { Ok(()) } else { Err(Duplicate::Any) };
        }
        let old = if let Some(suffix) = domain.strip_prefix('*') {
            level(&mut self.suffixes, suffix.len()).insert(suffix.as_bytes().into(), host)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            level(&mut self.prefixes, prefix.len()).insert(prefix.as_bytes().into(), host)
        } else {
            self.exact.insert(domain.into_bytes().into(), host)
        };
        if old.is_none() { Ok(()) } else { Err(Duplicate::Domain) }
    }

    /// The virtual host of an authority. Without an authority there is one only if `*` is all that is configured.
    pub fn find(&self, host: Option<&[u8]>, ignore_port: bool) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let host = host?;
        let host = if ignore_port { without_port(host) } else { host };
        let mut lower: SmallVec<[u8; STACK]> = SmallVec::from_slice(host);
        lower.make_ascii_lowercase();
        let host: &[u8] = &lower;
        let longest = |wildcards: &Wildcards, part: fn(&[u8], usize) -> Option<&[u8]>| {
            // The star stands for at least one byte.
            let shorter = wildcards.iter().filter(|(len, _)| *len < host.len());
            shorter.into_iter().find_map(|(len, map)| map.get(part(host, *len)?).copied())
        };
        self.exact
            .get(host)
            .copied()
            .or_else(|| longest(&self.suffixes, |h, len| h.get(h.len() - len..)))
            .or_else(|| longest(&self.prefixes, |h, len| h.get(..len)))
            .or(self.any)
    }
}

impl HostIndex {
    /// The domain by which [`HostIndex::find`] found a virtual host.
    pub fn domain(&self, host: Option<&[u8]>, ignore_port: bool) -> Option<String> {
        let found = self.find(host, ignore_port)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let host = host.map(|h| if ignore_port { without_port(h) } else { h }).unwrap_or_default().to_ascii_lowercase();
        if self.exact.get(&*host) == Some(&found) {
            return Some(text(&host));
        }
        let held = |len: usize| len < host.len();
        let suffix = self.suffixes.iter().filter(|(len, _)| held(*len)).find_map(|(len, map)| {
            let part = host.get(host.len() - len..)?;
            map.contains_key(part).then(|| format!("*{}", text(part)))
        });
        let prefix = || {
            self.prefixes.iter().filter(|(len, _)| held(*len)).find_map(|(len, map)| {
                let part = host.get(..*len)?;
                map.contains_key(part).then(|| format!("{}*", text(part)))
            })
        };
        Some(suffix.or_else(prefix).unwrap_or_else(|| "*".to_owned()))
    }
}

fn level(wildcards: &mut Wildcards, len: usize) -> &mut HashMap<Box<[u8]>, usize> {
    let at = wildcards.partition_point(|(l, _)| *l > len);
    if wildcards.get(at).is_none_or(|(l, _)| *l != len) {
        wildcards.insert(at, (len, HashMap::new()));
    }
    #[allow(clippy::indexing_slicing, reason = "the level at this index was found or inserted just now")]
    &mut wildcards[at].1
}

/// The host without `:port`; an IPv6 address keeps its brackets. (`HeaderUtility::getPortStart`)
fn without_port(host: &[u8]) -> &[u8] {
    let Some(at) = memchr::memrchr(b':', host) else { return host };
    let v6_end = memchr::memrchr(b']', host);
    let port = host.get(at + 1..).unwrap_or_default();
    if v6_end.is_some_and(|end| end > at) || port.is_empty() || !port.iter().all(u8::is_ascii_digit) {
        return host;
    }
    host.get(..at).unwrap_or(host)
}
