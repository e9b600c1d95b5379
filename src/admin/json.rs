//! JSON as protobuf's printer writes it: one space a level, `<` and `>` escaped.

use serde_json::Value;

/// A value over several lines, with a newline at the end.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out.push('\n');
    out
}

/// A string in quotes, escaped so that it is harmless in HTML too.
pub fn quoted(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    if quoted.contains(['<', '>']) { quoted.replace('<', "\\u003c").replace('>', "\\u003e") } else { quoted }
}

fn write(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if map.is_empty() => out.push_str("{}"),
        Value::Array(list) if list.is_empty() => out.push_str("[]"),
        Value::Object(map) => {
            for (i, (name, value)) in map.iter().enumerate() {
                out.push_str(if i == 0 { "{\n" } else { ",\n" });
                indent(depth + 1, out);
                out.push_str(&quoted(name));
                out.push_str(": ");
                write(value, depth + 1, out);
            }
            close('}', depth, out);
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                out.push_str(if i == 0 { "[\n" } else { ",\n" });
                indent(depth + 1, out);
                write(value, depth + 1, out);
            }
            close(']', depth, out);
        }
        Value::String(s) => out.push_str(&quoted(s)),
        // serde_json writes a whole double as `1.0`, protobuf as `1`.
        Value::Number(n) if n.is_f64() => out.push_str(&super::stats::double(n.as_f64().unwrap_or_default())),
        other => out.push_str(&other.to_string()),
    }
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', depth));
}

fn close(bracket: char, depth: usize, out: &mut String) {
    out.push('\n');
    indent(depth, out);
    out.push(bracket);
}
