//! Load balancing: pure functions of a host set, a worker's own state and a random number.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use super::{Group, Host, HostSet, Policy};

/// What one worker remembers of one cluster between picks.
#[derive(Debug, Default)]
pub struct BalanceState {
    groups: SmallVec<[Turn; 1]>,
}

/// Whose turn it is in a group.
#[derive(Debug, Default)]
struct Turn {
    next: Option<usize>,
    /// The host set that the schedule is for. Held weakly, its address is no other's.
    scheduled: Weak<HostSet>,
    schedule: BinaryHeap<Due>,
}

/// A host and when its turn comes: earliest deadline first, a turn taking `1 / weight`.
#[derive(Debug)]
struct Due {
    at: f64,
    /// Hosts with the same deadline keep their order.
    order: u64,
    index: usize,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        // The heap gives the largest: the earliest deadline has to be that.
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

/// Picks a host. `random` is fresh for each call; `avoid` are hosts that were tried already (`previous_hosts`), which a few more
/// picks try to get around.
pub fn pick(
    policy: Policy,
    set: &Arc<HostSet>,
    state: &mut BalanceState,
    random: u64,
    avoid: &[u64],
) -> Option<Arc<Host>> {
    let mut chosen = pick_once(policy, set, state, random)?;
    // `host_selection_retry_max_attempts` is at most a handful; istiod sends 5.
    for attempt in 0..5u32 {
        if !avoid.contains(&chosen.id) {
            break;
        }
        chosen = pick_once(policy, set, state, random.rotate_left(11 * (attempt + 1)))?;
    }
    Some(chosen)
}

/// 2^53: the numbers that a double holds without a gap.
const SHARES: f64 = 9_007_199_254_740_992.0;

fn pick_once(policy: Policy, set: &Arc<HostSet>, state: &mut BalanceState, random: u64) -> Option<Arc<Host>> {
    let (at, group) = match &*set.groups {
        [] => return None,
        [only] => (0, only),
        // Stirred, as the policy uses the same number.
        _ => set.group((random.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32) >> 11) as f64 / SHARES)?,
    };
    let hosts = &group.hosts;
    let n = hosts.len();
    if n <= 1 {
        return hosts.first().cloned();
    }
    match policy {
        Policy::RoundRobin if group.weighted => weighted(set, group, state.turn(at)?),
        Policy::RoundRobin => {
            // Each worker starts elsewhere, so that together they do not all begin with the first host.
            let turn = state.turn(at)?;
            let next = turn.next.get_or_insert((random % n as u64) as usize);
            let host = hosts.get(*next % n).cloned();
            *next = next.wrapping_add(1);
            host
        }
        Policy::Random | Policy::ClusterProvided => hosts.get((random % n as u64) as usize).cloned(),
        Policy::LeastRequest { choices } => {
            let mut best: Option<&Arc<Host>> = None;
            let mut bits = random;
            for _ in 0..choices.max(1) {
                bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let candidate = hosts.get(((bits >> 33) % n as u64) as usize)?;
                if best.is_none_or(|b| load(candidate) < load(b)) {
                    best = Some(candidate);
                }
            }
            best.cloned()
        }
    }
}

/// Requests in flight, counting the one to come, for each unit of weight.
fn load(host: &Host) -> f64 {
    f64::from(host.state.active.load(Relaxed).saturating_add(1)) / f64::from(host.weight.max(1))
}

impl BalanceState {
    fn turn(&mut self, group: usize) -> Option<&mut Turn> {
        if self.groups.len() <= group {
            self.groups.resize_with(group + 1, Turn::default);
        }
        self.groups.get_mut(group)
    }
}

fn weighted(set: &Arc<HostSet>, group: &Group, state: &mut Turn) -> Option<Arc<Host>> {
    if state.scheduled.as_ptr() != Arc::as_ptr(set) {
        state.scheduled = Arc::downgrade(set);
        state.schedule = group
            .hosts
            .iter()
            .enumerate()
            .map(|(index, h)| Due { at: 1.0 / f64::from(h.weight.max(1)), order: index as u64, index })
            .collect();
    }
    let due = state.schedule.pop()?;
    let host = group.hosts.get(due.index)?;
    let order = due.order + group.hosts.len() as u64;
    state.schedule.push(Due { at: due.at + 1.0 / f64::from(host.weight.max(1)), order, index: due.index });
    Some(host.clone())
}

#[cfg(test)]
mod tests {
    use super::super::{HostRules, OVERPROVISIONING, Transport};
    use super::*;
    use waypost_filters::address::Address;
    use waypost_filters::metadata::Metadata;
    use waypost_filters::stream::HostInfo;

    fn hosts(weights: &[u32]) -> Arc<HostSet> {
        let all = weights
            .iter()
            .map(|w| {
                let info =
                    HostInfo { address: Address::Pipe("x".into()), hostname: "".into(), metadata: Metadata::default() };
                let mut h = Host::new(info, Arc::new(Transport::Raw));
                h.weight = *w;
                Arc::new(h)
            })
            .collect();
        Arc::new(HostSet::new(all, OVERPROVISIONING, HostRules::default()))
    }

    fn run(policy: Policy, set: &Arc<HostSet>, n: usize) -> Vec<usize> {
        let mut state = BalanceState::default();
        (0..n)
            .map(|i| {
                let random = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let h = pick(policy, set, &mut state, random, &[]).unwrap();
                set.all.iter().position(|x| x.id == h.id).unwrap()
            })
            .collect()
    }

    #[test]
    fn round_robin_cycles_and_weights_interleave() {
        assert_eq!(run(Policy::RoundRobin, &hosts(&[1, 1, 1]), 6), [0, 1, 2, 0, 1, 2]);
        let picks = run(Policy::RoundRobin, &hosts(&[3, 1]), 40);
        assert_eq!(picks.iter().filter(|p| **p == 0).count(), 30);
        assert!(picks.chunks(4).all(|c| c.iter().filter(|p| **p == 1).count() == 1), "{picks:?}");
    }

    #[test]
    fn least_request_prefers_the_idle_host() {
        let set = hosts(&[1, 1]);
        set.all[0].state.active.store(100, Relaxed);
        let picks = run(Policy::LeastRequest { choices: 2 }, &set, 400);
        let busy = picks.iter().filter(|p| **p == 0).count();
        assert!(busy > 50 && busy < 150, "one pick in four compares the busy host with itself: {busy}");
    }

    #[test]
    fn tried_hosts_are_avoided_while_there_are_others() {
        let set = hosts(&[1, 1]);
        let tried = [set.all[0].id];
        let mut state = BalanceState::default();
        for i in 0..20 {
            assert_eq!(pick(Policy::RoundRobin, &set, &mut state, i, &tried).unwrap().id, set.all[1].id);
        }
    }

    #[test]
    fn a_schedule_never_serves_another_host_set() {
        let mut state = BalanceState::default();
        for weights in [&[5, 1, 1, 1][..], &[1, 2], &[3, 1, 1], &[1, 7]] {
            // Each set is freed before the next is made, which often gets its address.
            let set = hosts(weights);
            for i in 0..20 {
                assert!(pick(Policy::RoundRobin, &set, &mut state, i, &[]).is_some());
            }
            assert_eq!(state.groups[0].scheduled.as_ptr(), Arc::as_ptr(&set));
            let address = Arc::as_ptr(&set);
            drop(set);
            assert_ne!(Arc::as_ptr(&hosts(weights)), address, "the address of a set that is scheduled stays its own");
        }
    }
}
