//! `config.core.v3.CidrRange`, and maps from ranges to values in which the longest prefix wins.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use waypost_xds::envoy::config::core::v3::CidrRange;
use waypost_xds::google::protobuf::UInt32Value;
use waypost_xds::xds::core::v3::CidrRange as XdsCidrRange;

use super::MatcherError;

/// An IP prefix. Bits behind the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    len: u8,
}

impl Cidr {
    /// All of IPv4.
    pub const ALL_V4: Cidr = Cidr { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 };
    /// All of IPv6.
    pub const ALL_V6: Cidr = Cidr { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), len: 0 };

    /// A prefix of an address; a length beyond the address's is the whole address, as Envoy has it.
    pub fn new(address: IpAddr, len: u32) -> Cidr {
        match address {
            IpAddr::V4(a) => {
                let len = len.min(32);
                Cidr { address: IpAddr::V4(Ipv4Addr::from_bits(mask_v4(a, len))), len: len as u8 }
            }
            IpAddr::V6(a) => {
                let len = len.min(128);
                Cidr { address: IpAddr::V6(Ipv6Addr::from_bits(mask_v6(a, len))), len: len as u8 }
            }
        }
    }

    /// Compiles a `config.core.v3.CidrRange`.
    pub fn compile(range: &CidrRange, path: &str) -> Result<Cidr, MatcherError> {
        let CidrRange { address_prefix, prefix_len } = range;
        Cidr::parse(address_prefix, *prefix_len, path)
    }

    /// Compiles a `xds.core.v3.CidrRange`.
    pub fn compile_xds(range: &XdsCidrRange, path: &str) -> Result<Cidr, MatcherError> {
        let XdsCidrRange { address_prefix, prefix_len } = range;
        Cidr::parse(address_prefix, *prefix_len, path)
    }

    fn parse(address: &str, len: Option<UInt32Value>, path: &str) -> Result<Cidr, MatcherError> {
        let ip: IpAddr = address.parse().map_err(|_| {
            MatcherError::new(format!("{path}.address_prefix"), format!("malformed IP address: {address}"))
        })?;
        let len = len.map_or(0, |l| l.value);
        if len > 128 {
            return Err(MatcherError::new(format!("{path}.prefix_len"), "value must be less than or equal to 128"));
        }
        Ok(Cidr::new(ip, len))
    }

    /// Whether an address lies within.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(a), IpAddr::V4(ip)) => a.to_bits() == mask_v4(ip, self.len.into()),
            (IpAddr::V6(a), IpAddr::V6(ip)) => a.to_bits() == mask_v6(ip, self.len.into()),
            _ => false,
        }
    }

    /// How many bits count.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

fn mask_v4(ip: Ipv4Addr, len: u32) -> u32 {
    ip.to_bits() & u32::MAX.checked_shl(32 - len).unwrap_or(0)
}

fn mask_v6(ip: Ipv6Addr, len: u32) -> u128 {
    ip.to_bits() & u128::MAX.checked_shl(128 - len).unwrap_or(0)
}

/// A map from prefixes to values. A look-up costs one hash per prefix length in use, which is one or two in practice.
#[derive(Clone, Debug)]
pub struct CidrTrie<T> {
    v4: Vec<Level<u32, T>>,
    v6: Vec<Level<u128, T>>,
}

/// All prefixes of one length; levels are sorted from the longest prefix to the shortest.
#[derive(Clone, Debug)]
struct Level<K, T> {
    len: u32,
    values: HashMap<K, T>,
}

impl<T> Default for CidrTrie<T> {
    fn default() -> Self {
        CidrTrie { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T: Default> CidrTrie<T> {
    /// The value of a prefix, made if there is none.
    pub fn entry(&mut self, cidr: Cidr) -> &mut T {
        match cidr.address {
            IpAddr::V4(a) => entry(&mut self.v4, u32::from(cidr.len), a.to_bits()),
            IpAddr::V6(a) => entry(&mut self.v6, u32::from(cidr.len), a.to_bits()),
        }
    }
}

impl<T> CidrTrie<T> {
    /// The value of the longest prefix that holds an address.
    pub fn get(&self, ip: IpAddr) -> Option<&T> {
        self.matches(ip).next()
    }

    /// As [`CidrTrie::get`], with the prefix, to explain a decision.
    pub fn longest(&self, ip: IpAddr) -> Option<(Cidr, &T)> {
        match ip.to_canonical() {
            IpAddr::V4(v4) => self
                .v4
                .iter()
                .find_map(|l| Some((Cidr::new(ip.to_canonical(), l.len), l.values.get(&mask_v4(v4, l.len))?))),
            IpAddr::V6(v6) => self
                .v6
                .iter()
                .find_map(|l| Some((Cidr::new(ip.to_canonical(), l.len), l.values.get(&mask_v6(v6, l.len))?))),
        }
    }

    /// The values of all prefixes that hold an address, from the longest prefix to the shortest.
    pub fn matches(&self, ip: IpAddr) -> impl Iterator<Item = &T> {
        let (v4, v6) = match ip.to_canonical() {
            IpAddr::V4(ip) => (Some(ip), None),
            IpAddr::V6(ip) => (None, Some(ip)),
        };
        let v4 = v4.into_iter().flat_map(|ip| self.v4.iter().filter_map(move |l| l.values.get(&mask_v4(ip, l.len))));
        let v6 = v6.into_iter().flat_map(|ip| self.v6.iter().filter_map(move |l| l.values.get(&mask_v6(ip, l.len))));
        v4.chain(v6)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

fn entry<K: Eq + Hash, T: Default>(levels: &mut Vec<Level<K, T>>, len: u32, key: K) -> &mut T {
    let at = levels.partition_point(|l| l.len > len);
    if levels.get(at).is_none_or(|l| l.len != len) {
        levels.insert(at, Level { len, values: HashMap::new() });
    }
    #[allow(clippy::indexing_slicing, reason = "the level at this index was found or inserted just now")]
    levels[at].values.entry(key).or_default()
}

/// A set of prefixes.
#[derive(Clone, Debug, Default)]
pub struct CidrSet {
    trie: CidrTrie<()>,
}

impl CidrSet {
    /// Compiles a list of `config.core.v3.CidrRange`.
    pub fn compile(ranges: &[CidrRange], path: &str) -> Result<CidrSet, MatcherError> {
        ranges.iter().enumerate().map(|(i, r)| Cidr::compile(r, &format!("{path}[{i}]"))).collect()
    }

    /// Compiles a list of `xds.core.v3.CidrRange`.
    pub fn compile_xds(ranges: &[XdsCidrRange], path: &str) -> Result<CidrSet, MatcherError> {
        ranges.iter().enumerate().map(|(i, r)| Cidr::compile_xds(r, &format!("{path}[{i}]"))).collect()
    }

    /// Whether any prefix holds an address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.trie.get(ip).is_some()
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.trie.is_empty()
    }
}

impl FromIterator<Cidr> for CidrSet {
    fn from_iter<I: IntoIterator<Item = Cidr>>(ranges: I) -> CidrSet {
        let mut set = CidrSet::default();
        for cidr in ranges {
            set.trie.entry(cidr);
        }
        set
    }
}
