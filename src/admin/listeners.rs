//! `/listeners` as text and JSON (`admin.v3.Listeners`).

use serde_json::{Value, json};
use waypost_filters::address::Address;

use super::page::Page;
use super::query::Query;
use super::{AdminState, clusters};
use crate::listener::Listener;

/// `GET /listeners`.
pub fn page(state: &AdminState, query: &Query) -> Page {
    let set = state.shared.listeners.load();
    if query.get("format") == Some("json") {
        let all: Vec<Value> = set.all.iter().map(|l| status(l)).collect();
        return Page::json(&if all.is_empty() { json!({}) } else { json!({ "listener_statuses": all }) });
    }
    let lines = set.all.iter().flat_map(|l| addresses(l).into_iter().map(move |a| format!("{}::{a}\n", l.name)));
    Page::text(lines.collect::<String>())
}

fn addresses(listener: &Listener) -> Vec<Address> {
    if listener.internal {
        return vec![Address::Internal { listener: listener.name.clone(), endpoint_id: "".into() }];
    }
    listener.addresses.clone()
}

fn status(listener: &Listener) -> Value {
    let mut all = addresses(listener).into_iter().map(|a| clusters::address(&a));
    let mut out = json!({ "name": &*listener.name });
    if let (Value::Object(map), Some(first)) = (&mut out, all.next()) {
        map.insert("local_address".to_owned(), first);
        let more: Vec<Value> = all.collect();
        if !more.is_empty() {
            map.insert("additional_local_addresses".to_owned(), more.into());
        }
    }
    out
}
