use super::*;
use serde_json::json;

fn value(text: &str) -> Value {
    parse(&format!("a: {text}")).unwrap()["a"].clone()
}

/// Each of these was tried on Envoy 1.40 with `--mode validate`.
#[test]
fn plain_scalars_are_what_yaml_cpp_takes_them_for() {
    for text in ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"] {
        assert_eq!(value(text), json!(true), "{text}");
    }
    for text in ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"] {
        assert_eq!(value(text), json!(false), "{text}");
    }
    for text in ["", "~", "null", "Null", "NULL"] {
        assert_eq!(value(text), Value::Null, "{text}");
    }
    for (text, expected) in [
        ("5", 5),
        ("-5", -5),
        ("+5", 5),
        ("0", 0),
        ("0x1F", 31),
        ("-0x1f", -31),
        ("010", 8),
        ("2147483647", i32::MAX),
        ("-2147483648", i32::MIN),
    ] {
        assert_eq!(value(text), json!(expected), "{text}");
    }
    for text in [
        "tRue",
        "yeS",
        "nUll",
        "5.5",
        "1e3",
        ".inf",
        ".nan",
        "08",
        "0o17",
        "1_000",
        "5s",
        "2001-01-01",
        "99999999999999999999",
        "0x",
        "a b",
    ] {
        assert_eq!(value(text), json!(text), "{text}");
    }
    assert_eq!(value("2147483648"), json!("2147483648"));
    assert_eq!(value("0xFFFFFFFF"), json!("4294967295"));
}

#[test]
fn quotes_and_blocks_make_strings() {
    for (text, expected) in [
        ("\"on\"", "on"),
        ("'5'", "5"),
        ("\"\"", ""),
        ("|\n on\n", "on\n"),
        (">-\n 5\n", "5"),
        ("! 5", "5"),
        ("! on", "on"),
    ] {
        assert_eq!(value(text), json!(expected), "{text}");
    }
    assert_eq!(value("!!str 5"), json!(5));
    assert_eq!(value("!!str on"), json!(true));
}

#[test]
fn keys_are_their_text() {
    let document = parse("{on: 1, 5: 2, ~: 3, 1.5: 4, 'x': 5, a: 6, a: 7}").unwrap();
    assert_eq!(document, json!({"on": 1, "5": 2, "null": 3, "1.5": 4, "x": 5, "a": 7}));
    assert!(parse("{? [a] : b}").unwrap_err().reason.contains("a key is a plain value"));
}

#[test]
fn anchors_stand_for_values_and_ignored_keys_hold_them() {
    let document =
        parse("!ignore templates:\n- &c {name: a, port: 5}\nclusters: [*c, {<<: *c}]\nid: &k x\n*k : 1\n").unwrap();
    assert_eq!(
        document,
        json!({"clusters": [{"name": "a", "port": 5}, {"<<": {"name": "a", "port": 5}}], "id": "x", "x": 1})
    );
}

#[test]
fn the_first_document_counts() {
    assert_eq!(parse("---\na: 1\n---\na: 2\n").unwrap(), json!({"a": 1}));
    assert_eq!(parse("# nothing\n[1, 2]").unwrap(), json!([1, 2]));
    for text in ["", "foo", "# nothing", "---\n"] {
        assert_eq!(parse(text).unwrap_err().to_string(), "the document is neither an object nor a list", "{text}");
    }
}

#[test]
fn errors_name_the_line() {
    for (text, expected) in
        [("a: 1\nb: [", "line "), ("a: 1\nb: *c", "line 2"), ("a: 1\n b: 2", "line 2"), ("a: &a [*a]", "line 1")]
    {
        let error = parse(text).unwrap_err();
        assert!(error.reason.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn nothing_nests_or_grows_without_end() {
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&"{a: ".repeat(100_000)).is_err());
    assert!(parse(&format!("a: {}{}", "[".repeat(220), "]".repeat(220))).unwrap_err().reason.contains("200 deep"));
    let block: String = (0..2000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert!(parse(&block).is_err());

    // Each line holds the line before nine times.
    let mut laughs = "a0: &a0 [x, x, x]\n".to_owned();
    for level in 1..20 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(parse(&laughs).unwrap_err().reason.contains("aliases"));

    // Each line is a hundred deeper than the line before.
    let mut towers = "a0: &a0 x\n".to_owned();
    for level in 1..10 {
        towers.push_str(&format!("a{level}: &a{level} {}*a{}{}\n", "[".repeat(100), level - 1, "]".repeat(100)));
    }
    assert!(parse(&towers).unwrap_err().reason.contains("deep"));
}
