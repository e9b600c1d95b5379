//! `STRICT_DNS` and `LOGICAL_DNS`: hosts by name, looked up again and again on the control thread.
//!
//! Names are looked up with the system's resolver (`getaddrinfo`), as `/etc/hosts`, search domains and `ndots` are to mean what they mean to
//! everybody else in the pod. It tells no time to live, so `respect_dns_ttl` is warned about and `dns_refresh_rate` is the time.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use waypost_filters::address::Address;

use super::assignment::{Assignment, Target};
use super::update::Found;
use super::{Cluster, Discovery};

/// How many look-ups may run at once: each takes a thread while it lasts.
static LOOKUPS: Semaphore = Semaphore::const_new(8);

/// What a DNS cluster does.
#[derive(Debug)]
pub struct Dns {
    /// `LOGICAL_DNS`: one host, which is wherever its name says at the moment.
    pub logical: bool,
    /// `load_assignment`.
    pub assignment: Assignment,
    /// `dns_lookup_family`.
    pub family: Family,
    /// When names are looked up again.
    pub schedule: Schedule,
    /// `wait_for_warm_on_init`.
    pub wait: bool,
}

/// When names are looked up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// `dns_refresh_rate`.
    pub refresh: Duration,
    /// `dns_jitter`: up to this is added.
    pub jitter: Duration,
    /// `dns_failure_refresh_rate`: the first and the longest time after failures.
    pub failure: Option<(Duration, Duration)>,
}

/// `dns_lookup_family`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AUTO` and `V6_PREFERRED`: the addresses of version 6, or those of version 4 where there are none.
    V6Preferred,
    /// `V4_ONLY`.
    V4Only,
    /// `V6_ONLY`.
    V6Only,
    /// `V4_PREFERRED`.
    V4Preferred,
    /// `ALL`.
    All,
}

/// What names were last found to mean.
pub type Resolved = HashMap<Arc<str>, Vec<IpAddr>>;

impl Family {
    /// The addresses that count, in the order in which they came.
    pub fn choose(self, all: &[IpAddr]) -> Vec<IpAddr> {
        let of = |v6: bool| -> Vec<IpAddr> { all.iter().filter(|a| a.is_ipv6() == v6).copied().collect() };
        let or = |first: Vec<IpAddr>, second: fn(&[IpAddr]) -> Vec<IpAddr>| {
            if first.is_empty() { second(all) } else { first }
        };
        match self {
            Family::V4Only => of(false),
            Family::V6Only => of(true),
            Family::All => all.to_vec(),
            Family::V6Preferred => or(of(true), <[IpAddr]>::to_vec),
            Family::V4Preferred => or(of(false), <[IpAddr]>::to_vec),
        }
    }
}

impl Schedule {
    /// How long to wait after so many failures in a row. `random` is from 0 to 1.
    pub fn next(&self, failures: u32, random: f64) -> Duration {
        match self.failure {
            Some((base, max)) if failures > 0 => {
                // Fully jittered and exponential, as Envoy has it; no shorter than a tick, or a name that is not there would be asked for without rest.
                let longest = base.saturating_mul(1u32.checked_shl(failures.min(20)).unwrap_or(u32::MAX) - 1);
                longest.mul_f64(random).min(max).max(Duration::from_millis(1))
            }
            _ => self.refresh + self.jitter.mul_f64(random),
        }
    }
}

impl Dns {
    /// The names to look up, each once.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for endpoint in &self.assignment.endpoints {
            if let Target::Name { name, .. } = &endpoint.target
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
        names
    }

    /// The hosts that the endpoints stand for.
    pub(super) fn found<'a>(&'a self, resolved: &Resolved) -> Vec<Found<'a>> {
        let mut out = Vec::new();
        for endpoint in &self.assignment.endpoints {
            match &endpoint.target {
                Target::At(_) => out.push(Found::of(endpoint)),
                Target::Name { name, port } => {
                    let addresses = resolved.get(name).map(Vec::as_slice).unwrap_or_default();
                    let count = if self.logical { 1 } else { addresses.len() };
                    let at = |ip: &IpAddr| Some(Address::Ip(SocketAddr::new(*ip, *port)));
                    out.extend(addresses.iter().take(count).map(|ip| Found { address: at(ip), endpoint }));
                }
            }
        }
        out
    }
}

impl Cluster {
    /// Whether the cluster is not warm before its names have been looked up.
    pub fn waits_for_names(&self) -> bool {
        matches!(&self.discovery, Discovery::Dns(dns) if dns.wait && !dns.names().is_empty())
    }

    /// Takes what names mean now.
    pub fn set_resolved(&self, resolved: &Resolved) {
        if let Discovery::Dns(dns) = &self.discovery
            && !self.set_hosts(dns.found(resolved).into_iter(), dns.assignment.overprovisioning)
        {
            self.stats.update_no_rebuild.inc();
        }
    }
}

/// Looks up the names of a DNS cluster until the cluster is gone or the task is aborted; `first` is told after the first round, whatever came
/// of it. None for a cluster without names. Must run on a tokio runtime.
pub fn resolve(cluster: &Arc<Cluster>, first: oneshot::Sender<()>) -> Option<JoinHandle<()>> {
    resolve_with(cluster, first, lookup)
}

/// The same with another resolver, for tests.
fn resolve_with<F>(
    cluster: &Arc<Cluster>,
    first: oneshot::Sender<()>,
    lookup: fn(Arc<str>) -> F,
) -> Option<JoinHandle<()>>
where
    F: Future<Output = std::io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let Discovery::Dns(dns) = &cluster.discovery else { return None };
    let (names, schedule, family) = (dns.names(), dns.schedule, dns.family);
    (!names.is_empty()).then(|| tokio::spawn(run(Arc::downgrade(cluster), names, schedule, family, first, lookup)))
}

async fn lookup(name: Arc<str>) -> std::io::Result<Vec<IpAddr>> {
    // The semaphore is never closed.
    let _place = LOOKUPS.acquire().await;
    Ok(tokio::net::lookup_host((&*name, 0)).await?.map(|a| a.ip()).collect())
}

async fn run<F>(
    cluster: Weak<Cluster>,
    names: Vec<Arc<str>>,
    schedule: Schedule,
    family: Family,
    first: oneshot::Sender<()>,
    lookup: fn(Arc<str>) -> F,
) where
    F: Future<Output = std::io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let mut first = Some(first);
    let mut resolved = Resolved::new();
    let mut failures = 0u32;
    let seed = std::hash::RandomState::new();
    for round in 0u64.. {
        let mut lookups = JoinSet::new();
        for name in &names {
            let name = name.clone();
            lookups.spawn(async move { (name.clone(), lookup(name).await) });
        }
        let answers = lookups.join_all().await;
        let Some(cluster) = cluster.upgrade() else { return };
        let mut failed = false;
        for (name, answer) in answers {
            cluster.stats.update_attempt.inc();
            match answer.map(|all| family.choose(&all)) {
                Ok(addresses) => {
                    cluster.stats.update_success.inc();
                    if addresses.is_empty() {
                        cluster.stats.update_empty.inc();
                    }
                    resolved.insert(name, addresses);
                }
                Err(e) => {
                    // What it meant before stands.
                    failed = true;
                    cluster.stats.update_failure.inc();
                    tracing::debug!(target: "upstream", "{}: {name}: {e}", cluster.names.name);
                }
            }
        }
        cluster.set_resolved(&resolved);
        drop(cluster);
        if let Some(first) = first.take() {
            // Nobody may be waiting.
            let _ = first.send(());
        }
        failures = if failed { failures.saturating_add(1) } else { 0 };
        let random = std::hash::BuildHasher::hash_one(&seed, round) as f64 / u64::MAX as f64;
        tokio::time::sleep(schedule.next(failures, random)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn a_family_chooses_addresses() {
        let both = ips(&["1.1.1.1", "::1", "2.2.2.2"]);
        for (family, chosen) in [
            (Family::V4Only, vec!["1.1.1.1", "2.2.2.2"]),
            (Family::V6Only, vec!["::1"]),
            (Family::V6Preferred, vec!["::1"]),
            (Family::V4Preferred, vec!["1.1.1.1", "2.2.2.2"]),
            (Family::All, vec!["1.1.1.1", "::1", "2.2.2.2"]),
        ] {
            assert_eq!(family.choose(&both), ips(&chosen), "{family:?}");
        }
        assert_eq!(Family::V6Preferred.choose(&ips(&["1.1.1.1"])), ips(&["1.1.1.1"]));
        assert_eq!(Family::V6Only.choose(&ips(&["1.1.1.1"])), ips(&[]));
    }

    #[test]
    fn a_round_follows_after_the_refresh_rate_or_sooner_or_later_after_failures() {
        let second = Duration::from_secs(1);
        let plain = Schedule { refresh: 5 * second, jitter: second, failure: None };
        assert_eq!(plain.next(0, 0.5), Duration::from_millis(5500));
        assert_eq!(plain.next(3, 0.0), 5 * second);
        let failing = Schedule { failure: Some((second, 10 * second)), ..plain };
        assert_eq!(failing.next(0, 0.0), 5 * second);
        assert_eq!([1, 2, 3, 9, u32::MAX].map(|n| failing.next(n, 1.0)), [1, 3, 7, 10, 10].map(|n| n * second));
        assert_eq!(failing.next(1, 0.0), Duration::from_millis(1));
    }
}
