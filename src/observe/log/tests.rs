use serde_json::json;
use time::{Date, Month, OffsetDateTime, Time};

use super::component::{COMPONENTS, component, of_target};
use super::pattern::{Line, Pattern, c_escape};
use super::{DEFAULT_FORMAT, Level, LogHandle, LogOptions, json_pattern};

fn line(message: &str) -> Line<'_> {
    let date = Date::from_calendar_date(2026, Month::November, 22).unwrap();
    let time = Time::from_hms_nano(16, 57, 4, 562_971_000).unwrap();
    Line {
        time: OffsetDateTime::new_utc(date, time),
        level: Level::Info,
        component: "main",
        file: "source/server/server.cc",
        line: 989,
        thread: 14465,
        message,
    }
}

fn format(pattern: &str, message: &str) -> String {
    let mut out = String::new();
    Pattern::parse(pattern).format(&line(message), &mut out);
    out
}

#[test]
fn patterns_are_spdlogs() {
    for (pattern, expected) in [
        (DEFAULT_FORMAT, "[2026-11-22 16:57:04.562][14465][info][main] [source/server/server.cc:989] runtime: {}"),
        (
            "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t",
            "2026-11-22T16:57:04.562971Z\tinfo\tenvoy main source/server/server.cc:989\truntime: {}\tthread=14465",
        ),
        // As recorded: `%q` is no flag.
        ("%L %e %F %z %s %@ %% %j %q", "I 562 562971000 +00:00 server.cc source/server/server.cc:989 % runtime: {} %q"),
        ("[%8l][%-8l][%=8l][%2!l]", "[    info][info    ][  info  ][in]"),
        (
            "%a %A %b %B %c|%D %I %p %R %r %C",
            "Sun Sunday Nov November Sun Nov 22 16:57:04 2026|11/22/26 04 PM 16:57 04:57:04 PM 26",
        ),
        ("%^%l%$ 100%", "info 100"),
    ] {
        assert_eq!(format(pattern, "runtime: {}"), expected);
    }
    assert_eq!(format("%v|%_|%j", "a\n\"b\""), "a\n\"b\"|a\\n\"b\"|a\\n\\\"b\\\"");
    assert_eq!(c_escape("a\tb\\t\n\u{1}"), "a\\tb\\\\t\\n\\001");
}

#[test]
fn a_json_format_is_a_pattern_with_sorted_keys() {
    let pattern = json_pattern(&json!({"time": "%Y", "level": "%l", "scope": "%n", "msg": "%j"}));
    assert_eq!(format(&pattern, "say \"hi\""), r#"{"level":"info","msg":"say \"hi\"","scope":"main","time":"2026"}"#);
}

#[test]
fn components_are_envoys() {
    assert_eq!(COMPONENTS.len(), 73);
    for (target, expected, own) in [
        ("admin", "admin", true),
        ("waypost::admin::server", "admin", true),
        ("waypost::cluster::pool", "pool", true),
        ("waypost::cluster::compile", "upstream", true),
        ("waypost::server", "main", true),
        ("waypost_filters::http::jwt_authn", "jwt", true),
        ("waypost_filters::network::echo", "filter", true),
        ("h2::codec", "http2", false),
        ("elsewhere", "misc", false),
    ] {
        assert_eq!(of_target(target), (component(expected).unwrap(), own), "{target}");
    }
}

#[test]
fn levels_hold_for_each_component_and_change_at_run_time() {
    let options = LogOptions {
        level: Level::Warning,
        components: vec![(component("http").unwrap(), Level::Debug)],
        format: "%l %n %v".into(),
        ..Default::default()
    };
    let log = LogHandle::new(&options).unwrap();
    log.to_memory();
    tracing::subscriber::with_default(log.subscriber(), || {
        let all = |round: u32| {
            tracing::info!(target: "main", "main {round}");
            tracing::debug!(target: "http", status = 200, "http {round}");
            tracing::debug!(target: "hyper::proto", "authorization: {round}");
            tracing::error!(target: "main", "bad {round}");
        };
        all(1);
        log.set_all(Level::Trace);
        all(2);
        log.set_all(Level::Off);
        all(3);
    });
    // What libraries say below `info` is never shown.
    assert_eq!(
        log.written(),
        "debug http http 1 status=200\nerror main bad 1\ninfo main main 2\ndebug http http 2 status=200\nerror main bad 2\n"
    );
}

#[test]
fn a_log_file_is_opened_again() {
    let path = std::env::temp_dir().join(format!("waypost-log-{}", std::process::id()));
    let moved = path.with_extension("1");
    let options = LogOptions { path: Some(path.clone()), format: "%v".into(), escaped: true, ..Default::default() };
    let log = LogHandle::new(&options).unwrap();
    tracing::subscriber::with_default(log.subscriber(), || {
        tracing::info!("one\ntwo");
        std::fs::rename(&path, &moved).unwrap();
        log.reopen();
        tracing::info!("three");
    });
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\\ntwo\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&moved).unwrap();
}
