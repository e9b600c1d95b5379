//! Istio's workload discovery (`istio.workload.Workload`): who has which address, for telemetry.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use waypost_xds::client::Update;
use waypost_xds::istio::workload::Workload;

use super::{Manager, Type};

/// What telemetry shows of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadInfo {
    /// `name`: the pod.
    pub name: Arc<str>,
    /// `namespace`; `default` where it is empty, as Istio's proxy does.
    pub namespace: Arc<str>,
    /// `workload_name`: the deployment or the like.
    pub workload_name: Arc<str>,
    /// `canonical_name`
    pub canonical_name: Arc<str>,
    /// `canonical_revision`
    pub canonical_revision: Arc<str>,
    /// `cluster_id`
    pub cluster_id: Arc<str>,
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`
    pub identity: Arc<str>,
    /// `workload_type`, its number.
    pub workload_type: i32,
    /// `locality.region` and `locality.zone`
    pub locality: (Arc<str>, Arc<str>),
}

/// A mesh has a hundred thousand pods, and one of them changes: only the part that it is in is made anew.
const PARTS: usize = 256;

type Part = HashMap<IpAddr, Arc<WorkloadInfo>>;

/// What becomes of an address: a workload has it, or none.
type Change = (IpAddr, Option<Arc<WorkloadInfo>>);

/// All workloads by address; networks are not told apart, as in Istio's proxy.
#[derive(Debug)]
pub struct Workloads {
    parts: Box<[ArcSwap<Part>]>,
    /// The addresses of a workload, by `uid`. The control thread's.
    addresses: Mutex<HashMap<String, Vec<IpAddr>>>,
}

impl Default for Workloads {
    fn default() -> Workloads {
        Workloads { parts: (0..PARTS).map(|_| ArcSwap::default()).collect(), addresses: Mutex::default() }
    }
}

impl Workloads {
    /// The workload that has an address.
    pub fn find(&self, address: IpAddr) -> Option<Arc<WorkloadInfo>> {
        self.parts.get(part(address))?.load().get(&address).cloned()
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.load().len()).sum()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes workloads in and out; with `complete` those that are not given are gone.
    pub fn apply<'a>(
        &self,
        added: impl Iterator<Item = (&'a str, &'a Workload)>,
        removed: impl Iterator<Item = &'a str>,
        complete: bool,
    ) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        // What becomes of each address that is touched.
        let mut changes: HashMap<IpAddr, Option<Arc<WorkloadInfo>>> = HashMap::new();
        if complete {
            changes.extend(addresses.drain().flat_map(|(_, all)| all).map(|a| (a, None)));
        }
        for uid in removed {
            changes.extend(addresses.remove(uid).unwrap_or_default().into_iter().map(|a| (a, None)));
        }
        for (uid, workload) in added {
            let info = Arc::new(WorkloadInfo::of(workload));
            let now: Vec<IpAddr> = workload.addresses.iter().filter_map(|bytes| address(bytes)).collect();
            let before = addresses.insert(uid.to_owned(), now.clone()).unwrap_or_default();
            changes.extend(before.into_iter().map(|a| (a, None)));
            changes.extend(now.into_iter().map(|a| (a, Some(info.clone()))));
        }
        let mut by_part: HashMap<usize, Vec<Change>> = HashMap::new();
        for (address, info) in changes {
            by_part.entry(part(address)).or_default().push((address, info));
        }
        for (at, changes) in by_part {
            let Some(part) = self.parts.get(at) else { continue };
            let mut map = (**part.load()).clone();
            for (address, info) in changes {
                match info {
                    Some(info) => map.insert(address, info),
                    None => map.remove(&address),
                };
            }
            part.store(Arc::new(map));
        }
    }
}

/// The part that an address is in: its last byte differs most.
fn part(address: IpAddr) -> usize {
    let last = match address {
        IpAddr::V4(a) => a.octets()[3],
        IpAddr::V6(a) => a.octets()[15],
    };
    usize::from(last) % PARTS
}

impl WorkloadInfo {
    fn of(w: &Workload) -> WorkloadInfo {
        let or = |text: &str, default: &'static str| -> Arc<str> {
            if text.is_empty() { Arc::from(default) } else { Arc::from(text) }
        };
        let namespace = or(&w.namespace, "default");
        let trust_domain = or(&w.trust_domain, "cluster.local");
        let account = or(&w.service_account, "default");
        let locality = w.locality.as_ref();
        WorkloadInfo {
            name: w.name.as_str().into(),
            workload_name: w.workload_name.as_str().into(),
            canonical_name: w.canonical_name.as_str().into(),
            canonical_revision: w.canonical_revision.as_str().into(),
            cluster_id: w.cluster_id.as_str().into(),
            identity: format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}").into(),
            namespace,
            workload_type: w.workload_type,
            locality: (
                locality.map_or("", |l| l.region.as_str()).into(),
                locality.map_or("", |l| l.zone.as_str()).into(),
            ),
        }
    }
}

/// Four bytes or sixteen.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

impl Manager {
    pub(super) fn apply_workloads(&mut self, update: &Update) -> Result<(), String> {
        let decoded = self.decode::<Workload>(Type::Workload, update)?;
        let added = decoded.iter().map(|d| (d.name, &d.message));
        self.workloads.apply(added, update.removed.iter().map(String::as_str), update.complete);
        self.stats.workloads.set(self.workloads.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_found_by_its_addresses_until_it_moves_or_goes() {
        let workload = |name: &str, addresses: &[&[u8]]| Workload {
            name: name.into(),
            addresses: addresses.iter().map(|a| a.to_vec().into()).collect(),
            service_account: "shop".into(),
            ..Workload::default()
        };
        let (all, none) = (Workloads::default(), std::iter::empty::<&str>);
        let (a, b) = (workload("a", &[&[10, 0, 0, 1], &[0; 16], b"bad"]), workload("b", &[&[10, 0, 0, 2]]));
        all.apply([("ua", &a), ("ub", &b)].into_iter(), none(), false);
        let found = all.find("10.0.0.1".parse().unwrap()).unwrap();
        assert_eq!((&*found.name, &*found.identity), ("a", "spiffe://cluster.local/ns/default/sa/shop"));
        assert_eq!(all.len(), 3);
        let moved = workload("a", &[&[10, 0, 0, 9]]);
        all.apply([("ua", &moved)].into_iter(), ["ub"].into_iter(), false);
        assert_eq!(all.len(), 1);
        assert!(all.find("10.0.0.1".parse().unwrap()).is_none() && all.find("10.0.0.9".parse().unwrap()).is_some());
        all.apply([("ub", &b)].into_iter(), none(), true);
        assert!(all.find("10.0.0.9".parse().unwrap()).is_none() && all.len() == 1);
    }
}
