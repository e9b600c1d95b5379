//! What a resource is called when nothing around it says so.

use crate::{
    google::protobuf::Any,
    istio::workload::Workload,
    json::type_name,
    wire::{Malformed, Raw, Reader},
};
use prost::Name;

/// All of Envoy's resources have their name in field 1, `ClusterLoadAssignment.cluster_name` among them.
const NAME: u32 = 1;
/// `istio.workload.Workload.uid`: what istiod calls it by. Its field 1 is the pod's name, which many may share.
const WORKLOAD_UID: u32 = 20;

/// Reads the name from the body.
pub fn of(body: &Any) -> Result<String, String> {
    let kind = type_name(&body.type_url);
    let number = if kind == Workload::full_name() { WORKLOAD_UID } else { NAME };
    find(&body.value, number).map_err(|Malformed| format!("this is not a {kind}: its name cannot be read"))
}

fn find(wire: &[u8], number: u32) -> Result<String, Malformed> {
    let mut name = "";
    let mut reader = Reader(wire);
    while let Some((found, raw)) = reader.next()? {
        if let (true, Raw::Len(bytes)) = (found == number, raw) {
            name = std::str::from_utf8(bytes).map_err(|_| Malformed)?;
        }
    }
    Ok(name.to_owned())
}
