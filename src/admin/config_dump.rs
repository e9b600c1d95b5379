//! `/config_dump` (`admin.v3.ConfigDump`) and `/init_dump`.

mod dumps;
mod mask;

use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value, json};

use self::dumps::{DUMPS, Dump, Message};
use self::mask::Mask;
use super::AdminState;
use super::config_store::Kind;
use super::page::Page;
use super::query::Query;

/// Where messages come from.
const URL: &str = "type.googleapis.com/envoy.admin.v3.";

/// `GET /config_dump`.
pub fn page(state: &AdminState, query: &Query) -> Page {
    let names = match query.get("name_regex").filter(|r| !r.is_empty()) {
        None => None,
        // A name must match as a whole.
        Some(text) => match Regex::new(text).and_then(|_| Regex::new(&format!("^(?:{text})$"))) {
            Ok(regex) => Some(regex),
            Err(e) => {
                let last = e.to_string().lines().last().unwrap_or_default().trim().to_owned();
                return refuse(
                    StatusCode::BAD_REQUEST,
                    format!("INVALID_ARGUMENT: Error while parsing name_regex from {text}: {last}"),
                );
            }
        },
    };
    let mask = query.get("mask").filter(|m| !m.is_empty());
    let include_eds = query.has("include_eds");
    let dumps = dumps::all(state, include_eds, names.as_ref());
    let configs = match query.get("resource").filter(|r| !r.is_empty()) {
        Some(resource) => elements(dumps, resource, mask),
        None => whole(dumps, mask),
    };
    match configs {
        Ok(configs) if configs.is_empty() => Page::json(&json!({})),
        Ok(configs) => Page::json(&json!({ "configs": configs })),
        Err((status, reason)) => refuse(status, reason),
    }
}

fn refuse(status: StatusCode, reason: String) -> Page {
    Page { status, content_type: "text/plain", body: reason }
}

type Configs = Result<Vec<Value>, (StatusCode, String)>;

/// All dumps, or what a mask leaves of those that have its fields.
fn whole(dumps: Vec<(&'static Dump, Message)>, mask: Option<&str>) -> Configs {
    let parsed = mask.map(Mask::parse);
    let mut configs = Vec::new();
    for (dump, message) in dumps {
        let mut value = Value::Object(message.into_map());
        if let Some(mask) = &parsed {
            // A mask ends at a list: what is within its elements cannot be chosen.
            let fits = mask.paths().all(|path| {
                let (field, rest) = path.split_once('.').map_or((path, None), |(f, r)| (f, Some(r)));
                dump.single.contains(&field) || dump.lists.iter().any(|l| l.field == field) && rest.is_none()
            });
            if !fits {
                continue;
            }
            mask.trim(&mut value);
        }
        configs.push(typed(dump.name, value));
    }
    match mask {
        Some(mask) if configs.is_empty() => {
            let reason = format!("FieldMask {mask} could not be successfully applied to any configs.");
            Err((StatusCode::BAD_REQUEST, reason))
        }
        _ => Ok(configs),
    }
}

/// The elements of one list, each as a message.
fn elements(dumps: Vec<(&'static Dump, Message)>, resource: &str, mask: Option<&str>) -> Configs {
    for (dump, message) in dumps {
        if dump.single.contains(&resource) {
            let reason = format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field");
            return Err((StatusCode::BAD_REQUEST, reason));
        }
        let Some(list) = dump.lists.iter().find(|l| l.field == resource) else { continue };
        let parsed = mask.map(Mask::parse);
        if let Some(m) = &parsed
            && !m.paths().all(|path| list.fields.contains(&path.split('.').next().unwrap_or_default()))
        {
            let paths: String = m.paths().map(|p| format!("paths: \"{p}\"\n")).collect();
            return Err((StatusCode::BAD_REQUEST, format!("FieldMask {paths} could not be successfully used.")));
        }
        let name = format!("{}.{}", dump.name, list.message);
        let each = message.into_list(resource).into_iter().map(|mut element| {
            if let Some(mask) = &parsed {
                mask.trim(&mut element);
            }
            typed(&name, element)
        });
        return Ok(each.collect());
    }
    // A dump may have been left out (`include_eds`), or be empty.
    let known = DUMPS.iter().any(|d| d.always && d.lists.iter().any(|l| l.field == resource));
    if known { Ok(Vec::new()) } else { Err((StatusCode::NOT_FOUND, format!("{resource} not found in config dump"))) }
}

/// A message with its type in front.
fn typed(name: &str, value: Value) -> Value {
    let mut out = Map::new();
    out.insert("@type".to_owned(), format!("{URL}{name}").into());
    if let Value::Object(map) = value {
        out.extend(map);
    }
    Value::Object(out)
}

/// `GET /init_dump`: what is waited for (`admin.v3.UnreadyTargetsDumps`).
pub fn init_dump(state: &AdminState) -> Page {
    let inner = state.config.lock();
    let waiting =
        |kind| -> Vec<String> { inner.warming.get(&kind).into_iter().flatten().map(|(n, _)| n.clone()).collect() };
    let all: Vec<Value> = waiting(Kind::Listener)
        .into_iter()
        .map(|name| json!({ "name": format!("init manager Listener-local-init-manager {name}") }))
        .collect();
    Page::json(&if all.is_empty() { json!({}) } else { json!({ "unready_targets_dumps": all }) })
}
