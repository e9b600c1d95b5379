//! Resources as they are compiled for an explanation: secrets are not needed, nothing is logged.

use serde_json::{Map, Value, json};

use super::source::{field, take};

/// A file of secrets that there is none of: a TLS context that waits for it compiles and is never ready.
const NO_FILE: &str = "/dev/null/waypost-explain";

/// Takes what no way depends on out of a resource.
pub fn resource(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(resource),
        Value::Object(object) => {
            prepare(object);
            object.iter_mut().for_each(|(_, v)| resource(v));
        }
        _ => {}
    }
}

/// Dumps say 0 of a locality without a weight, which no assignment may say.
pub fn weights(assignment: &mut Value) {
    for locality in assignment.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        let unset = field(locality, "load_balancing_weight").is_some_and(|w| w == 0);
        if let Value::Object(locality) = locality
            && unset
        {
            take(locality, "load_balancing_weight");
        }
    }
}

fn prepare(object: &mut Map<String, Value>) {
    // Opening a log would make a file, and no log decides which way a request takes.
    if ["access_log", "accessLog"].iter().any(|n| object.get(*n).is_some_and(Value::is_array)) {
        take(object, "access_log");
    }
    if let Some(Value::Object(mut context)) = take(object, "common_tls_context") {
        without_secrets(&mut context);
        object.insert("common_tls_context".to_owned(), context.into());
    }
    unknown_type(object);
}

/// A message of a type that is not known is kept as a `TypedStruct`: whoever compiles it says what is not supported, and where.
fn unknown_type(object: &mut Map<String, Value>) {
    let Some(url) = object.get("@type").and_then(Value::as_str) else { return };
    let name = url.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || waypost_xds::json::is_known(name) {
        return;
    }
    let url = url.to_owned();
    object.shift_remove("@type");
    let value = Value::Object(std::mem::take(object));
    object.insert("@type".to_owned(), "type.googleapis.com/xds.type.v3.TypedStruct".into());
    object.insert("type_url".to_owned(), url.into());
    object.insert("value".to_owned(), value);
}

/// All secrets become ones that are never there. In dumps they are hidden, and their files are seldom on the machine that asks.
fn without_secrets(context: &mut Map<String, Value>) {
    let array = |v: Option<Value>| match v {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut certificates: Vec<Value> =
        array(take(context, "tls_certificates")).iter().map(|c| missing(&label(c, "certificate_chain"))).collect();
    let named = array(take(context, "tls_certificate_sds_secret_configs"));
    certificates.extend(named.iter().map(|s| missing(&name_of(s))));
    if !certificates.is_empty() {
        context.insert("tls_certificate_sds_secret_configs".to_owned(), certificates.into());
    }
    let combined = take(context, "combined_validation_context");
    let default = combined.as_ref().and_then(|c| field(c, "default_validation_context")).cloned();
    let secret = combined.as_ref().and_then(|c| field(c, "validation_context_sds_secret_config")).map(name_of);
    let secret = secret.or_else(|| take(context, "validation_context_sds_secret_config").as_ref().map(name_of));
    let Some(mut validation) =
        default.or_else(|| take(context, "validation_context")).or(secret.as_ref().map(|_| json!({})))
    else {
        return;
    };
    let secret = secret.unwrap_or_else(|| label(&validation, "trusted_ca"));
    if let Value::Object(v) = &mut validation {
        ["trusted_ca", "crl", "watched_directory"].iter().for_each(|f| drop(take(v, f)));
    }
    let combined = json!({
        "default_validation_context": validation,
        "validation_context_sds_secret_config": missing(&secret),
    });
    context.insert("combined_validation_context".to_owned(), combined);
}

fn missing(name: &str) -> Value {
    json!({ "name": name, "sds_config": { "path_config_source": { "path": NO_FILE } } })
}

fn name_of(secret: &Value) -> String {
    secret.get("name").and_then(Value::as_str).unwrap_or("unnamed").to_owned()
}

/// What to call a secret that has no name.
fn label(holder: &Value, source: &str) -> String {
    match field(holder, source) {
        Some(source) => source.get("filename").and_then(Value::as_str).unwrap_or("inline").to_owned(),
        None => "inline".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_logged() {
        let mut v = json!({"rds": {"route_config_name": "r"}, "accessLog": [{}]});
        resource(&mut v);
        assert_eq!(v, json!({"rds": {"route_config_name": "r"}}));
    }

    #[test]
    fn secrets_are_named_and_not_read() {
        let mut v = json!({"common_tls_context": {
            "tls_certificates": [{"certificate_chain": {"filename": "/c.pem"}, "private_key": {"inline_string": "[redacted]"}}],
            "validation_context": {"trusted_ca": {"inline_string": "x"}, "match_typed_subject_alt_names": []}}});
        resource(&mut v);
        assert_eq!(
            v,
            json!({"common_tls_context": {
                "tls_certificate_sds_secret_configs": [missing("/c.pem")],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": []},
                    "validation_context_sds_secret_config": missing("inline")}}})
        );
    }

    #[test]
    fn an_unknown_type_keeps_its_name() {
        let mut v = json!({"typed_config": {"@type": "type.googleapis.com/a.B", "c": 1}});
        resource(&mut v);
        assert_eq!(v["typed_config"]["type_url"], "type.googleapis.com/a.B");
        assert_eq!(v["typed_config"]["value"], json!({"c": 1}));
    }
}
