//! The endpoints: what Envoy's `/help` says of them, and who answers.

use http::{Method, StatusCode};

use super::page::{Page, escape};
use super::query::Query;
use super::{AdminState, clusters, config_dump, control, listeners, logging, prometheus, server_info, stats};

/// An endpoint.
pub struct Endpoint {
    /// Its path.
    pub path: &'static str,
    /// Whether it takes `POST` only, as it changes something.
    pub mutates: bool,
    help: &'static str,
    params: &'static [(&'static str, &'static str)],
    answer: fn(&Request<'_>) -> Page,
}

/// What an endpoint is given.
pub struct Request<'a> {
    /// What it looks at.
    pub state: &'a std::sync::Arc<AdminState>,
    /// The parameters, those of a form among them.
    pub query: &'a Query,
}

type Params = &'static [(&'static str, &'static str)];

const fn get(path: &'static str, help: &'static str, params: Params, answer: fn(&Request<'_>) -> Page) -> Endpoint {
    Endpoint { path, mutates: false, help, params, answer }
}

const fn post(path: &'static str, help: &'static str, params: Params, answer: fn(&Request<'_>) -> Page) -> Endpoint {
    Endpoint { path, mutates: true, help, params, answer }
}

const USED_ONLY: (&str, &str) = ("usedonly", "Only include stats that have been written by system since restart");
const FILTER: (&str, &str) = ("filter", "Regular expression (Google re2) for filtering stats");
const INVERT: (&str, &str) = ("invert_filter", "Invert the filter regex");

/// All endpoints, sorted; the words are Envoy's, as tools look for them.
pub const ENDPOINTS: &[Endpoint] = &[
    get("/", "Admin home page", &[], |_| home()),
    post(
        "/allocprofiler",
        "enable/disable the allocation profiler (if supported)",
        &[("enable", "enable/disable the allocation profiler; One of (y, n)")],
        |r| profiler(r, StatusCode::NOT_IMPLEMENTED, "The current build does not support allocation profiler"),
    ),
    get("/certs", "print certs on machine", &[], |r| server_info::certs(r.state)),
    get(
        "/clusters",
        "upstream cluster status",
        &[("filter", "Regular expression (Google re2) for filtering clusters by name")],
        |r| clusters::page(r.state, r.query),
    ),
    get(
        "/config_dump",
        "dump current Envoy configs",
        &[
            ("resource", "The resource to dump"),
            (
                "mask",
                "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired repeated field so that only a subset of fields are returned. The mask is parsed as a Protobuf::FieldMask",
            ),
            (
                "name_regex",
                "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both resource and mask query parameters.",
            ),
            (
                "include_eds",
                "Dump currently loaded configuration including EDS. See the response definition for more information",
            ),
        ],
        |r| config_dump::page(r.state, r.query),
    ),
    get("/contention", "dump current Envoy mutex contention stats (if enabled)", &[], |_| {
        Page::text("Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.")
    }),
    post(
        "/cpuprofiler",
        "enable/disable the CPU profiler",
        &[("enable", "enables the CPU profiler; One of (y, n)")],
        |r| profiler(r, StatusCode::INTERNAL_SERVER_ERROR, "failure to start the profiler"),
    ),
    post(
        "/drain_listeners",
        "drain listeners",
        &[
            (
                "graceful",
                "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and duration is configurable via server options or CLI",
            ),
            (
                "skip_exit",
                "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no effect when this is set, since the drain period only delays stopping the listeners",
            ),
            (
                "inboundonly",
                "Drains all inbound listeners. traffic_direction field in envoy_v3_api_msg_config.listener.v3.Listener is used to determine whether a listener is inbound or outbound.",
            ),
        ],
        |r| control::drain_listeners(r.state, r.query),
    ),
    post("/healthcheck/fail", "cause the server to fail health checks", &[], |r| control::fail(r.state)),
    post("/healthcheck/ok", "cause the server to pass health checks", &[], |r| control::pass(r.state)),
    get("/heap_dump", "dump current Envoy heap (if supported)", &[], |_| no_heap_profiler()),
    post(
        "/heapprofiler",
        "enable/disable the heap profiler",
        &[("enable", "enable/disable the heap profiler; One of (y, n)")],
        |r| profiler(r, StatusCode::NOT_IMPLEMENTED, "The current build does not support heap profiler"),
    ),
    get("/help", "print out list of admin commands", &[], |_| Page::text(format!("admin commands are:\n{}", list()))),
    // There is no hot restart; this is what Envoy says then.
    get("/hot_restart_version", "print the hot restart compatibility version", &[], |_| Page::text("disabled")),
    get(
        "/init_dump",
        "dump current Envoy init manager information (experimental)",
        &[(
            "mask",
            "The desired component to dump unready targets. The mask is parsed as a Protobuf::FieldMask. For example, get the unready targets of all listeners with /init_dump?mask=listener`",
        )],
        |r| config_dump::init_dump(r.state),
    ),
    get("/listeners", "print listener info", &[("format", "File format to use; One of (text, json)")], |r| {
        listeners::page(r.state, r.query)
    }),
    post(
        "/logging",
        "query/change logging levels",
        &[
            (
                "paths",
                "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>. If fine grain logging is enabled, use __FILE__ or a glob experision as the logger name. For example, source/common*:warning",
            ),
            (
                "group",
                "Change given logger group to desired level, set to <logger_group_name>:<desired_level>. logger_group_name must be a logger name.",
            ),
            (
                "level",
                "desired logging level, this will change all loggers's level; One of (, trace, debug, info, warning, error, critical, off)",
            ),
        ],
        |r| logging::page(&r.state.log, r.query),
    ),
    get("/memory", "print current allocation/heap usage", &[], |_| server_info::memory()),
    get("/memory/tcmalloc", "print TCMalloc stats", &[], |_| Page::text("")),
    get("/peak_heap_dump", "dump peak Envoy heap (if supported)", &[], |_| no_heap_profiler()),
    post("/quitquitquit", "exit the server", &[], |r| control::quit(r.state)),
    get("/ready", "print server state, return 200 if LIVE, otherwise return 503", &[], |r| server_info::ready(r.state)),
    post("/reopen_logs", "reopen access logs", &[], |r| control::reopen(r.state)),
    post("/reset_counters", "reset all counters to zero", &[], |r| stats::reset(r.state)),
    get("/runtime", "print runtime values", &[], |r| server_info::runtime(r.state)),
    post(
        "/runtime_modify",
        "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty string as the value. Note that deletion only applies to overrides added via this endpoint; values loaded from disk can be modified via override but not deleted. E.g. ?key1=value1&key2=value2...",
        &[],
        |r| server_info::runtime_modify(r.query),
    ),
    get("/server_info", "print server version/status information", &[], |r| server_info::page(r.state)),
    get(
        "/stats",
        "print server stats",
        &[
            USED_ONLY,
            FILTER,
            INVERT,
            ("format", "Format to use; One of (html, active-html, text, json)"),
            ("type", "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)"),
            ("histogram_buckets", "Histogram bucket display mode; One of (cumulative, disjoint, detailed, summary)"),
        ],
        |r| stats::page(r.state, r.query),
    ),
    get(
        "/stats/prometheus",
        "print server stats in prometheus format",
        &[
            USED_ONLY,
            ("text_readouts", "Render text_readouts as new gaugues with value 0 (increases Prometheus data size)"),
            FILTER,
            INVERT,
            ("histogram_buckets", "Histogram bucket display mode; One of (cumulative, summary)"),
        ],
        |r| prometheus::page(r.state, r.query),
    ),
    get("/stats/recentlookups", "Show recent stat-name lookups", &[], |_| {
        Page::text("Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n")
    }),
    // Names are looked up at configuration time only, so there is nothing to track.
    post("/stats/recentlookups/clear", "clear list of stat-name lookups and counter", &[], |_| Page::ok()),
    post("/stats/recentlookups/disable", "disable recording of reset stat-name lookup names", &[], |_| Page::ok()),
    post("/stats/recentlookups/enable", "enable recording of reset stat-name lookup names", &[], |_| Page::ok()),
];

/// Answers a request.
pub fn answer(method: &Method, request: &Request<'_>) -> Page {
    let Some(endpoint) = ENDPOINTS.iter().find(|e| e.path == request.query.path) else {
        let body = format!("invalid path. admin commands are:\n{}", list());
        return Page::status(StatusCode::NOT_FOUND, body);
    };
    if endpoint.mutates && *method != Method::POST {
        let path = endpoint.path;
        tracing::error!(target: "admin", "admin path \"{path}\" mutates state, method={method} rather than POST");
        let body = format!("Method {method} not allowed, POST required.");
        return Page::status(StatusCode::METHOD_NOT_ALLOWED, body);
    }
    (endpoint.answer)(request)
}

/// The list of `/help` and of an unknown path.
fn list() -> String {
    let mut out = String::new();
    for e in ENDPOINTS {
        let post = if e.mutates { " (POST)" } else { "" };
        out.push_str(&format!("  {}{post}: {}\n", e.path, e.help));
        for (name, help) in e.params {
            out.push_str(&format!("      {name}: {help}\n"));
        }
    }
    out
}

/// `/` for people: links, and buttons for what changes something.
fn home() -> Page {
    let mut rows = String::new();
    for e in ENDPOINTS.iter().filter(|e| e.path != "/") {
        let path = escape(e.path.trim_start_matches('/'));
        let cell = if e.mutates {
            format!("<form action='{path}' method='post'><button>{path}</button></form>")
        } else {
            format!("<a href='{path}'>{path}</a>")
        };
        rows.push_str(&format!(
            "<tr>\n  <td class='home-data'>{cell}</td>\n  <td class='home-data'>{}</td>\n</tr>\n",
            escape(e.help)
        ));
    }
    Page::html(format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n  <title>Envoy Admin</title>\n</head>\n<body>\n<table class='home-table'>\n<thead>\n<tr>\n  \
         <th class='home-data'>Command</th>\n  <th class='home-data'>Description</th>\n</tr>\n</thead>\n<tbody>\n{rows}</tbody>\n</table>\n</body>\n</html>\n"
    ))
}

fn no_heap_profiler() -> Page {
    Page::status(StatusCode::NOT_IMPLEMENTED, "Heap dump is not enabled")
}

fn profiler(request: &Request<'_>, status: StatusCode, refused: &'static str) -> Page {
    match request.query.params() {
        [(name, value)] if name == "enable" && value == "y" => Page::status(status, refused),
        [(name, value)] if name == "enable" && value == "n" => Page::ok(),
        _ => Page::bad_request("?enable=<y|n>\n"),
    }
}
