//! Where the configuration comes from: a bootstrap, a config dump in a file, or the admin port of a running proxy.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};
use waypost_xds::{json, yaml};

use crate::tools::error::Error;

/// How long the admin port may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Resources as JSON, each with the path that errors in it begin with.
#[derive(Debug, Default)]
pub struct Source {
    /// `Cluster`s.
    pub clusters: Vec<(String, Value)>,
    /// `Listener`s.
    pub listeners: Vec<(String, Value)>,
    /// `ClusterLoadAssignment`s of EDS by `cluster_name`.
    pub endpoints: HashMap<String, Value>,
    /// `RouteConfiguration`s of RDS by `name`.
    pub routes: HashMap<String, Value>,
    /// `TypedExtensionConfig`s of ECDS by `name`.
    pub extensions: HashMap<String, Value>,
    /// The bootstrap.
    pub bootstrap: Value,
}

/// A field by its name in the `.proto` file, which JSON may have in lowerCamelCase.
pub fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).or_else(|| value.get(camel(name)))
}

/// Removes a field, as [`field`] finds it.
pub fn take(object: &mut Map<String, Value>, name: &str) -> Option<Value> {
    // The order of the others is kept.
    object.shift_remove(name).or_else(|| object.shift_remove(&camel(name)))
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at_checked(1).unwrap_or((part, ""));
        out.push_str(&first.to_ascii_uppercase());
        out.push_str(rest);
    }
    out
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    field(value, name).and_then(Value::as_array).into_iter().flatten()
}

fn name_of(value: &Value, name: &str) -> String {
    field(value, name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Reads a file.
pub fn file(path: &Path) -> Result<Source, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    parse(&text).map_err(|e| Error::Failed(format!("{}: {e}", path.display())))
}

/// Reads a bootstrap or a config dump, in JSON or YAML.
pub fn parse(text: &str) -> Result<Source, waypost_xds::Error> {
    let value = if text.trim_start().starts_with('{') { json::parse(text)? } else { yaml::parse(text)? };
    Ok(if value.get("configs").is_some_and(Value::is_array) { dump(&value) } else { bootstrap(value) })
}

fn bootstrap(value: Value) -> Source {
    let mut out = Source::default();
    if let Some(resources) = field(&value, "static_resources") {
        let numbered = |name: &str| -> Vec<(String, Value)> {
            let one = |(i, v): (usize, &Value)| (format!("static_resources.{name}[{i}]"), v.clone());
            list(resources, name).enumerate().map(one).collect()
        };
        out.clusters = numbered("clusters");
        out.listeners = numbered("listeners");
    }
    out.bootstrap = value;
    out
}

/// Takes a config dump apart. Warming and draining resources take no requests and are left out.
fn dump(value: &Value) -> Source {
    let mut out = Source::default();
    for config in list(value, "configs") {
        for name in ["static_clusters", "dynamic_active_clusters"] {
            for cluster in list(config, name).filter_map(|c| field(c, "cluster")) {
                out.clusters.push((format!("{name}[{}]", name_of(cluster, "name")), cluster.clone()));
            }
        }
        for listener in list(config, "static_listeners").filter_map(|l| field(l, "listener")) {
            out.listeners.push((format!("static_listeners[{}]", name_of(listener, "name")), listener.clone()));
        }
        for listener in list(config, "dynamic_listeners")
            .filter_map(|l| field(l, "active_state"))
            .filter_map(|s| field(s, "listener"))
        {
            out.listeners.push((format!("dynamic_listeners[{}]", name_of(listener, "name")), listener.clone()));
        }
        // Static ones stand where they are used.
        for route in list(config, "dynamic_route_configs").filter_map(|r| field(r, "route_config")) {
            out.routes.insert(name_of(route, "name"), route.clone());
        }
        for extension in list(config, "ecds_filters").filter_map(|e| field(e, "ecds_filter")) {
            out.extensions.insert(name_of(extension, "name"), extension.clone());
        }
        // Among the static ones are those of static clusters of EDS.
        for name in ["static_endpoint_configs", "dynamic_endpoint_configs"] {
            for endpoints in list(config, name).filter_map(|e| field(e, "endpoint_config")) {
                out.endpoints.insert(name_of(endpoints, "cluster_name"), endpoints.clone());
            }
        }
        if let Some(bootstrap) = config.get("bootstrap") {
            out.bootstrap = bootstrap.clone();
        }
    }
    out
}

/// Asks the admin port of a running proxy.
pub fn admin(address: SocketAddr) -> Result<Source, Error> {
    let peer = |source| Error::Peer { address, source };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(peer)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(peer)?;
    // HTTP/1.1, since Envoy does not take 1.0; the answer to `close` ends with the connection and may be chunked.
    let request = format!("GET /config_dump?include_eds HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(peer)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(peer)?;
    let body = body(&answer).map_err(|e| Error::Failed(format!("{address}: {e}")))?;
    parse(&String::from_utf8_lossy(&body)).map_err(|e| Error::Failed(format!("{address}: {e}")))
}

/// The body of a whole response.
fn body(answer: &[u8]) -> Result<Vec<u8>, String> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n").ok_or("the answer is no HTTP")?;
    let (head, body) = answer.split_at_checked(end + 4).ok_or("the answer is no HTTP")?;
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("/config_dump answers {status}"));
    }
    if !head.lines().any(|l| l.starts_with("transfer-encoding:") && l.contains("chunked")) {
        return Ok(body.to_vec());
    }
    let (mut rest, mut whole) = (body, Vec::new());
    loop {
        let cut = || "the answer was cut short".to_owned();
        let line = memchr::memmem::find(rest, b"\r\n").ok_or_else(cut)?;
        let size = rest.get(..line).and_then(|l| std::str::from_utf8(l).ok()).unwrap_or_default();
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| "the answer is badly chunked".to_owned())?;
        if size == 0 {
            return Ok(whole);
        }
        let data = line + 2;
        let end = data.checked_add(size).ok_or_else(cut)?;
        whole.extend_from_slice(rest.get(data..end).ok_or_else(cut)?);
        rest = rest.get(end + 2..).ok_or_else(cut)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_come_in_chunks() {
        let head = "HTTP/1.1 200 OK\r\n";
        assert_eq!(body(format!("{head}\r\n{{}}").as_bytes()).unwrap(), b"{}");
        let chunks = format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n1;x=y\r\n}}\r\n0\r\n\r\n");
        assert_eq!(body(chunks.as_bytes()).unwrap(), b"{}");
        assert!(body(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().contains("404"));
        assert!(body(format!("{head}transfer-encoding: chunked\r\n\r\nff\r\n{{").as_bytes()).is_err());
    }

    #[test]
    fn a_dump_gives_what_is_active() {
        let source = parse(
            r#"{"configs": [
                {"bootstrap": {"node": {"id": "n"}}},
                {"dynamic_active_clusters": [{"cluster": {"name": "a"}}], "dynamic_warming_clusters": [{"cluster": {"name": "b"}}]},
                {"dynamic_listeners": [{"name": "l", "active_state": {"listener": {"name": "l"}}},
                                       {"name": "m", "warming_state": {"listener": {"name": "m"}}}]},
                {"dynamicRouteConfigs": [{"routeConfig": {"name": "r"}}]},
                {"dynamic_endpoint_configs": [{"endpoint_config": {"cluster_name": "a"}}]}
            ]}"#,
        )
        .unwrap();
        assert_eq!(source.clusters.iter().map(|(p, _)| p.as_str()).collect::<Vec<_>>(), ["dynamic_active_clusters[a]"]);
        assert_eq!(source.listeners.iter().map(|(p, _)| p.as_str()).collect::<Vec<_>>(), ["dynamic_listeners[l]"]);
        assert!(source.routes.contains_key("r") && source.endpoints.contains_key("a"));
    }
}
