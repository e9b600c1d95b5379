//! The access log, as it is found in its file.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::rig::{Backend, Config, Dir, TO_A, cluster, hcm, log_to, until};

const FORMAT: &str = "log_format: {json_format: {method: \"%REQ(:METHOD)%\", path: \"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%\", \
    protocol: \"%PROTOCOL%\", code: \"%RESPONSE_CODE%\", flags: \"%RESPONSE_FLAGS%\", details: \"%RESPONSE_CODE_DETAILS%\", \
    received: \"%BYTES_RECEIVED%\", sent: \"%BYTES_SENT%\", duration: \"%DURATION%\", cluster: \"%UPSTREAM_CLUSTER%\", \
    host: \"%UPSTREAM_HOST%\", route: \"%ROUTE_NAME%\", start: \"%START_TIME%\", missing: \"%REQ(x-none)%\", \
    nested: {text: \"a %REQ(x-a)% b\", list: [\"%RESP(x-b)%\"]}}}";

async fn lines(path: &Path, n: usize) -> Vec<String> {
    let read = || std::fs::read_to_string(path).unwrap_or_default();
    until(&format!("{n} lines in {}", path.display()), || async { read().lines().count() >= n }).await;
    read().lines().map(str::to_owned).collect()
}

fn log(dir: &Dir) -> PathBuf {
    dir.join("access.log")
}

#[tokio::test]
async fn json_has_the_fields_in_their_types() {
    let backend = Backend::http(|_| "HTTP/1.1 200 OK\r\nx-b: bee\r\ncontent-length: 5\r\n\r\nhello".to_owned()).await;
    let dir = Dir::new();
    let routes = "[{name: mine, match: {prefix: /a}, route: {cluster: a}}]";
    let config = Config::new().listener("main", &hcm(routes, &log_to(&log(&dir), FORMAT)));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    client.send("POST /a?q=1 HTTP/1.1\r\nhost: test\r\nx-a: \"quoted\"\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!(client.message().await.status(), 200);
    assert_eq!(client.get("/none").await.status(), 404);

    let mut seen: Vec<Value> = lines(&log(&dir), 2).await.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    for line in &mut seen {
        let fields = line.as_object_mut().unwrap();
        assert!(fields.remove("duration").unwrap().is_u64());
        let start = fields.remove("start").unwrap();
        assert!(start.as_str().is_some_and(|s| s.len() == 24 && s.ends_with('Z')), "{start}");
    }
    assert_eq!(
        seen,
        [
            json!({"method": "POST", "path": "/a?q=1", "protocol": "HTTP/1.1", "code": 200, "flags": "-", "details": "via_upstream",
                   "received": 3, "sent": 5, "cluster": "a", "host": backend.addr.unwrap().to_string(), "route": "mine", "missing": null,
                   "nested": {"text": "a \"quoted\" b", "list": ["bee"]}}),
            json!({"method": "GET", "path": "/none", "protocol": "HTTP/1.1", "code": 404, "flags": "NR", "details": "route_not_found",
                   "received": 0, "sent": 0, "cluster": null, "host": null, "route": null, "missing": null,
                   "nested": {"text": "a - b", "list": [null]}}),
        ]
    );
}

#[tokio::test]
async fn sigusr1_opens_the_file_again() {
    let dir = Dir::new();
    let format = "log_format: {text_format_source: {inline_string: \"%REQ(:PATH)%\\n\"}}";
    let backend = Backend::says("hello").await;
    let config = Config::new().listener("main", &hcm(TO_A, &log_to(&log(&dir), format)));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    client.get("/before").await;
    assert_eq!(lines(&log(&dir), 1).await, ["/before"]);
    let rotated = dir.join("access.log.1");
    std::fs::rename(log(&dir), &rotated).unwrap();
    client.get("/between").await;
    assert_eq!(lines(&rotated, 2).await, ["/before", "/between"]);

    proxy.signal("USR1");
    until("the file is there", || async { proxy.get("/after").await.status() == 200 && log(&dir).exists() }).await;

    client.get("/after").await;
    assert!(lines(&log(&dir), 1).await.iter().all(|l| l == "/after"));
    assert!(lines(&rotated, 2).await.iter().skip(2).all(|l| l == "/after"));
}

#[tokio::test]
async fn what_is_logged_is_there_at_the_end() {
    let dir = Dir::new();
    let format = "log_format: {text_format_source: {inline_string: \"%REQ(:PATH)%\\n\"}}";
    let backend = Backend::says("hello").await;
    let config = Config::new().listener("main", &hcm(TO_A, &log_to(&log(&dir), format)));
    let config = config.cluster(cluster("a", &backend, "")).args(&["--drain-time-s", "5"]);
    let mut proxy = config.start().await;
    for _ in 0..100 {
        assert_eq!(proxy.get("/x").await.status(), 200);
    }
    proxy.signal("TERM");
    proxy.ended_well().await;
    assert_eq!(std::fs::read_to_string(log(&dir)).unwrap(), "/x\n".repeat(100));
}
