//! Who of a cluster's hosts may be picked: priorities, localities, health and panic, as shares of the load.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Health, Host};

/// How hosts become shares of the load (`common_lb_config`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostRules {
    /// `healthy_panic_threshold`, in percent: below it health is not looked at.
    pub panic_threshold: f64,
    /// `locality_weighted_lb_config`.
    pub locality_weighted: bool,
}

impl Default for HostRules {
    fn default() -> HostRules {
        // Envoy panics below 50 % unless it is told otherwise.
        HostRules { panic_threshold: 50.0, locality_weighted: false }
    }
}

/// Envoy: a priority carries all the load until more than 2 in 7 of its hosts are gone.
pub const OVERPROVISIONING: u32 = 140;

/// The hosts of a cluster.
#[derive(Debug)]
pub struct HostSet {
    /// Those who share the load. Most clusters have one group, of all healthy hosts.
    pub groups: Box<[Group]>,
    /// All hosts.
    pub all: Box<[Arc<Host>]>,
    /// `overprovisioning_factor`.
    pub overprovisioning: u32,
    /// Whether health is not looked at somewhere, as too few hosts have it.
    pub panic: bool,
}

/// Hosts among which the policy chooses.
#[derive(Debug)]
pub struct Group {
    /// The shares of the load of the groups up to and with this one, in percent.
    pub upto: f64,
    /// The hosts.
    pub hosts: Box<[Arc<Host>]>,
    /// Whether their weights differ.
    pub weighted: bool,
}

impl Default for HostSet {
    fn default() -> HostSet {
        HostSet { groups: Box::default(), all: Box::default(), overprovisioning: OVERPROVISIONING, panic: false }
    }
}

/// One priority, with its hosts by health.
#[derive(Default)]
struct Level<'a> {
    all: Vec<&'a Arc<Host>>,
    healthy: Vec<&'a Arc<Host>>,
    degraded: Vec<&'a Arc<Host>>,
}

impl HostSet {
    /// Sorts out who may be picked, and how often.
    pub fn new(all: Vec<Arc<Host>>, overprovisioning: u32, rules: HostRules) -> HostSet {
        let mut levels: BTreeMap<u32, Level<'_>> = BTreeMap::new();
        for host in &all {
            let level = levels.entry(host.place.priority).or_default();
            level.all.push(host);
            match host.health {
                Health::Healthy => level.healthy.push(host),
                Health::Degraded => level.degraded.push(host),
                Health::Unhealthy => {}
            }
        }
        let levels: Vec<Level<'_>> = levels.into_values().collect();
        let (groups, panic) = groups(&levels, overprovisioning, rules);
        HostSet { groups: groups.into(), all: all.into(), overprovisioning, panic }
    }

    /// The group that a share of the load, from 0 to 1, falls to.
    pub fn group(&self, share: f64) -> Option<(usize, &Group)> {
        let last = self.groups.last()?;
        let at = share * last.upto;
        let found = self.groups.iter().position(|g| at < g.upto).unwrap_or(self.groups.len() - 1);
        self.groups.get(found).map(|g| (found, g))
    }

    /// How many hosts have this health.
    pub fn count(&self, health: Health) -> usize {
        self.all.iter().filter(|h| h.health == health).count()
    }
}

/// How much of all load hosts can carry, in percent: a few may be missing before it is less than all.
fn carries(usable: usize, all: usize, overprovisioning: u32) -> f64 {
    if all == 0 { 0.0 } else { (f64::from(overprovisioning) * usable as f64 / all as f64).min(100.0) }
}

fn groups(levels: &[Level<'_>], overprovisioning: u32, rules: HostRules) -> (Vec<Group>, bool) {
    let mut out = Out { groups: Vec::new(), overprovisioning };
    let healthy: Vec<f64> = levels.iter().map(|l| carries(l.healthy.len(), l.all.len(), overprovisioning)).collect();
    let degraded: Vec<f64> = levels.iter().map(|l| carries(l.degraded.len(), l.all.len(), overprovisioning)).collect();
    let total = healthy.iter().chain(&degraded).sum::<f64>().min(100.0);
    // Only where all priorities together cannot carry the load may one of them panic.
    let panics =
        |l: &Level<'_>| total < 100.0 && (l.healthy.len() as f64) * 100.0 < rules.panic_threshold * l.all.len() as f64;
    if !levels.is_empty() && levels.iter().all(panics) {
        for level in levels {
            out.plain(&level.all, level.all.len() as f64);
        }
        return (out.groups, true);
    }
    let (mut left, mut panic) = (100.0f64, false);
    for (loads, is_healthy) in [(&healthy, true), (&degraded, false)] {
        for (level, carried) in levels.iter().zip(loads) {
            let load = if total > 0.0 { (carried * 100.0 / total).min(left) } else { 0.0 };
            left -= load;
            if load <= 0.0 {
                continue;
            }
            if panics(level) {
                panic = true;
                out.plain(&level.all, load);
            } else {
                let hosts = if is_healthy { &level.healthy } else { &level.degraded };
                match rules.locality_weighted {
                    true => out.by_locality(level, hosts, load),
                    false => out.plain(hosts, load),
                }
            }
        }
    }
    (out.groups, panic)
}

struct Out {
    groups: Vec<Group>,
    overprovisioning: u32,
}

impl Out {
    fn plain(&mut self, hosts: &[&Arc<Host>], load: f64) {
        if hosts.is_empty() {
            return;
        }
        let upto = self.groups.last().map_or(0.0, |g| g.upto) + load;
        let weighted = hosts.windows(2).any(|w| matches!(w, [a, b] if a.weight != b.weight));
        self.groups.push(Group { upto, hosts: hosts.iter().map(|h| Arc::clone(h)).collect(), weighted });
    }

    /// A locality's share is its weight, less where its hosts cannot carry that. A locality without a weight gets nothing, unless none has one.
    fn by_locality(&mut self, level: &Level<'_>, usable: &[&Arc<Host>], load: f64) {
        let mut places: Vec<(&Host, usize, Vec<&Arc<Host>>)> = Vec::new();
        for host in &level.all {
            match places.iter_mut().find(|(p, ..)| p.place.locality == host.place.locality) {
                Some((_, all, _)) => *all += 1,
                None => places.push((host, 1, Vec::new())),
            }
        }
        for host in usable {
            if let Some((.., list)) = places.iter_mut().find(|(p, ..)| p.place.locality == host.place.locality) {
                list.push(host);
            }
        }
        let weight = |(place, all, usable): &(&Host, usize, Vec<&Arc<Host>>)| {
            f64::from(place.place.weight) * carries(usable.len(), *all, self.overprovisioning)
        };
        let weights: Vec<f64> = places.iter().map(weight).collect();
        let sum: f64 = weights.iter().sum();
        if sum <= 0.0 {
            self.plain(usable, load);
            return;
        }
        for ((.., hosts), weight) in places.iter().zip(weights).filter(|(_, w)| *w > 0.0) {
            self.plain(hosts, load * weight / sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use waypost_filters::address::Address;
    use waypost_filters::metadata::Metadata;
    use waypost_filters::stream::HostInfo;

    use super::super::{Place, Transport};
    use super::*;
    use Health::{Degraded, Healthy, Unhealthy};

    fn set(spec: &[(Health, u32, &str, u32)], rules: HostRules) -> HostSet {
        let all = spec.iter().map(|(health, priority, zone, weight)| {
            let info =
                HostInfo { address: Address::Pipe("x".into()), hostname: "".into(), metadata: Metadata::default() };
            let place =
                Place { locality: ["".into(), (*zone).into(), "".into()], priority: *priority, weight: *weight };
            let host = Host::new(info, Arc::new(Transport::Raw));
            Arc::new(Host { health: *health, place: Arc::new(place), ..host })
        });
        HostSet::new(all.collect(), OVERPROVISIONING, rules)
    }

    /// Hosts and share of each group.
    fn shares(set: &HostSet) -> Vec<(usize, f64)> {
        let mut before = 0.0;
        let one = |g: &Group| {
            let share = ((g.upto - before) * 10.0).round() / 10.0;
            before = g.upto;
            (g.hosts.len(), share)
        };
        set.groups.iter().map(one).collect()
    }

    fn plain(spec: &[(Health, u32)], panic_threshold: f64) -> Vec<(usize, f64)> {
        let spec: Vec<_> = spec.iter().map(|(h, p)| (*h, *p, "", 0)).collect();
        shares(&set(&spec, HostRules { panic_threshold, locality_weighted: false }))
    }

    #[test]
    fn a_priority_carries_what_its_healthy_hosts_can() {
        assert_eq!(plain(&[(Healthy, 0), (Healthy, 0), (Healthy, 1)], 0.0), [(2, 100.0)]);
        assert_eq!(plain(&[(Healthy, 0), (Unhealthy, 0), (Healthy, 1)], 0.0), [(1, 70.0), (1, 30.0)]);
        assert_eq!(plain(&[(Unhealthy, 0), (Healthy, 1)], 0.0), [(1, 100.0)]);
        assert_eq!(plain(&[(Healthy, 0), (Degraded, 0), (Unhealthy, 0)], 0.0), [(1, 50.0), (1, 50.0)]);
        assert_eq!(plain(&[(Unhealthy, 0)], 0.0), []);
        assert_eq!(plain(&[], 50.0), []);
    }

    #[test]
    fn where_too_few_are_healthy_all_are_picked() {
        assert_eq!(plain(&[(Unhealthy, 0), (Unhealthy, 0), (Healthy, 0)], 50.0), [(3, 3.0)]);
        assert!(set(&[(Unhealthy, 0, "", 0), (Unhealthy, 1, "", 0)], HostRules::default()).panic);
    }

    #[test]
    fn localities_share_by_weight_as_far_as_they_are_healthy() {
        let rules = HostRules { panic_threshold: 0.0, locality_weighted: true };
        let even = set(&[(Healthy, 0, "a", 1), (Healthy, 0, "b", 3), (Healthy, 0, "b", 3)], rules);
        assert_eq!(shares(&even), [(1, 25.0), (2, 75.0)]);
        let half = set(&[(Healthy, 0, "a", 7), (Healthy, 0, "b", 10), (Unhealthy, 0, "b", 10)], rules);
        assert_eq!(shares(&half).iter().map(|s| s.1).sum::<f64>(), 100.0);
        assert_eq!(shares(&half).first(), Some(&(1, 50.0)));
        let unset = set(&[(Healthy, 0, "a", 0), (Healthy, 0, "b", 2)], rules);
        assert_eq!(shares(&unset), [(1, 100.0)], "no weight, no load");
        let none = set(&[(Healthy, 0, "a", 0), (Healthy, 0, "b", 0)], rules);
        assert_eq!(shares(&none), [(2, 100.0)], "unless no locality has one");
    }

    #[test]
    fn a_share_of_the_load_falls_to_one_group() {
        let set = set(&[(Healthy, 0, "", 0), (Unhealthy, 0, "", 0), (Healthy, 1, "", 0)], HostRules::default());
        let at = |share| set.group(share).map(|(i, _)| i);
        assert_eq!([at(0.0), at(0.69), at(0.71), at(1.0)], [Some(0), Some(0), Some(1), Some(1)]);
        assert!(HostSet::default().group(0.5).is_none());
    }
}
