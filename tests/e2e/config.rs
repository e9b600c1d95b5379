//! What the command line and the bootstrap file make of the process before it serves, and the tools in the box.

use std::process::Output;

use crate::rig::{Backend, Config, Dir, TO_A, cluster, hcm, run, socket, tcp_proxy};

fn validate(yaml: &str, args: &[&str]) -> Output {
    let dir = Dir::new();
    let file = dir.write("bootstrap.yaml", yaml);
    run(&[&["-c", file.to_str().unwrap(), "--mode", "validate"], args].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Ends with status 1 and one line, `path: reason`, which starts with `path`.
#[track_caller]
fn refused(yaml: &str, path: &str) {
    let output = validate(yaml, &[]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{yaml}\n{out}{err}");
    assert_eq!((err.lines().count(), out.as_str()), (1, ""), "{err}");
    let start = format!("{path}: ");
    assert!(err.starts_with(&start) && err.len() > start.len() + 3, "expected {start}…, got {err}");
}

/// A listener with one filter, and a cluster `a`.
fn one_listener(filter: &str) -> String {
    Config::new().listener("main", filter).cluster("{name: a, connect_timeout: 1s}".into()).yaml()
}

const FILTER: &str = "static_resources.listeners[0].filter_chains[0].filters[0]";

#[test]
fn a_good_file_is_ok() {
    let output = validate(&one_listener(&hcm(TO_A, "")), &[]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    assert!(text(&output.stdout).trim_end().ends_with("OK"), "{}", text(&output.stdout));
}

#[test]
fn an_unknown_filter_is_refused_by_its_path() {
    let unknown = "{name: x, typed_config: {\"@type\": type.googleapis.com/no.such.Filter}}";
    refused(&one_listener(unknown), &format!("{FILTER}.typed_config.@type"));
}

#[test]
fn an_unknown_field_is_refused_by_its_path() {
    refused(&one_listener(&tcp_proxy("cluster: a, no_such_field: 1")), &format!("{FILTER}.typed_config.no_such_field"));
}

#[test]
fn a_value_of_the_wrong_type_is_refused_by_its_path() {
    let file = Config::new().cluster(cluster("a", socket(([127, 0, 0, 1], 1).into()), "connect_timeout: soon"));
    refused(&file.yaml(), "static_resources.clusters[0].connect_timeout");
}

#[test]
fn an_invalid_value_is_refused_by_its_path() {
    refused(
        &one_listener(&hcm("[{match: {prefix: /}}]", "")),
        &format!("{FILTER}.typed_config.route_config.virtual_hosts[0].routes[0]"),
    );
}

#[test]
fn what_is_not_built_yet_is_refused_by_its_path() {
    let file = Config::new().cluster("{name: a, type: STATIC, transport_socket_matcher: {}}".into());
    refused(&file.yaml(), "static_resources.clusters[0].transport_socket_matcher");
}

#[test]
fn a_file_that_is_no_yaml_is_refused_in_one_line() {
    let output = validate("admin: {address", &[]);
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(1), 1));
}

#[test]
fn a_file_that_is_not_there_is_refused_in_one_line() {
    let output = run(&["-c", "/no/such/file.yaml"]);
    let err = text(&output.stderr);
    assert_eq!((output.status.code(), err.lines().count()), (Some(1), 1));
    assert!(err.contains("/no/such/file.yaml"), "{err}");
}

#[test]
fn a_port_that_is_taken_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket(taken.local_addr().unwrap());
    let chain = format!("{{filters: [{}]}}", hcm(TO_A, ""));
    let dir = Dir::new();
    let file = dir.write(
        "bootstrap.yaml",
        &Config::new().listener_on("main", &address, &chain, "").cluster("{name: a}".into()).yaml(),
    );
    let output = run(&["-c", file.to_str().unwrap(), "-l", "error"]);
    let err = text(&output.stderr);
    assert_eq!((output.status.code(), err.lines().count()), (Some(1), 1), "{err}");
    assert!(err.contains(&taken.local_addr().unwrap().to_string()), "{err}");
}

#[tokio::test]
async fn config_yaml_is_merged_over_the_file() {
    let backend = Backend::says("hello").await;
    // A list grows and a field is replaced, as protobuf merges.
    let more = format!("{{node: {{id: over}}, static_resources: {{clusters: [{}]}}}}", cluster("a", &backend, ""));
    let config = Config::new().listener("main", &hcm(TO_A, "")).more("node: {id: under, cluster: us}");
    let proxy = config.args(&["--config-yaml", &more]).start().await;
    assert_eq!(proxy.get("/").await.text(), "hello");
    let info: serde_json::Value = serde_json::from_str(&proxy.admin("/server_info").await.text()).unwrap();
    assert_eq!((info["node"]["id"].as_str(), info["node"]["cluster"].as_str()), (Some("over"), Some("us")));
}

#[test]
fn unknown_fields_are_allowed_where_the_command_line_says_so() {
    let yaml = one_listener(&tcp_proxy("cluster: a, no_such_field: 1"));
    let output = validate(&yaml, &["--allow-unknown-static-fields"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

/// The whole command line of Istio's agent.
#[tokio::test]
async fn pilot_agents_command_line_is_understood() {
    let backend = Backend::says("hello").await;
    let args = [
        "--drain-time-s",
        "45",
        "--drain-strategy",
        "immediate",
        "--local-address-ip-version",
        "v4",
        "--allow-unknown-static-fields",
    ];
    let config = Config::to(&backend).args(&args).args(&[
        "--component-log-level",
        "misc:error",
        "--skip-deprecated-logs",
        "--concurrency",
        "2",
    ]);
    assert_eq!(config.start().await.get("/").await.text(), "hello");
}

#[test]
fn the_demonstration_checks_itself() {
    let output = run(&["demo", "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
}
