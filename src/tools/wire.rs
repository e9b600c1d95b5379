//! `waypost wire`: JSON into wire form and back, a line at a time, so that a script can speak xDS without generated code.

use std::io::{self, BufRead, BufWriter, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{ArgMatches, Command};
use waypost_xds::json;

use super::args::command;
use super::error::Error;

/// What goes over the line: any message under its type.
const ANY: &str = "google.protobuf.Any";

/// The command's arguments.
pub fn cli() -> Command {
    command(
        "wire",
        "Messages between JSON and wire form: a line of JSON with @type is answered with the Any in base64, base64 with JSON, what is neither with !REASON",
    )
}

/// Answers the lines of standard input, each at once.
pub fn run(_: &ArgMatches) -> Result<(), Error> {
    convert(io::stdin().lock(), io::stdout().lock())
}

/// Answers every line of `from` with a line in `to`.
pub fn convert(mut from: impl BufRead, to: impl Write) -> Result<(), Error> {
    let mut to = BufWriter::new(to);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        let answer = answer(&line).unwrap_or_else(|e| format!("!{}", e.replace(['\n', '\r'], " ")));
        writeln!(to, "{answer}")?;
        // The other side may wait for this before it asks for more.
        to.flush()?;
        line.clear();
    }
    Ok(())
}

fn answer(line: &[u8]) -> Result<String, String> {
    let line = line.trim_ascii();
    if line.first() == Some(&b'{') {
        let value = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        let wire = json::decode(&value, ANY, &json::Options::reject_unknown()).map_err(|e| e.to_string())?;
        return Ok(STANDARD.encode(wire));
    }
    let wire = STANDARD.decode(line).map_err(|e| e.to_string())?;
    let value = json::encode(ANY, &wire, false).map_err(|e| e.to_string())?;
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::convert;

    fn lines(text: &str) -> Vec<String> {
        let mut out = Vec::new();
        convert(text.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_turned_into_wire_form_and_back_is_the_same() {
        let json =
            r#"{"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","name":"a","connect_timeout":"1s"}"#;
        let wire = lines(json);
        assert_eq!(lines(&wire[0]), [json]);
    }

    #[test]
    fn a_bad_line_is_answered_and_the_next_one_is_heard() {
        let unknown = r#"{"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","nmae":"a"}"#;
        let good = r#"{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"a"}"#;
        let answers = lines(&["{", "nothing", unknown, good].join("\n"));
        assert!(answers[..3].iter().all(|a| a.starts_with('!')), "{answers:?}");
        assert!(answers[2].contains("nmae"), "{answers:?}");
        assert!(!answers[3].starts_with('!'), "{answers:?}");
    }
}
