//! spdlog's pattern language with Envoy's additions `%_`, `%j` and `%*`.

use std::fmt::Write;

use time::OffsetDateTime;

use super::Level;

/// A pattern, taken apart once.
#[derive(Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Flag(char, Option<Pad>),
}

/// `%8l` is right-aligned, `%-8l` left-aligned, `%=8l` centred; with `!` behind the width the text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pad {
    width: usize,
    side: char,
    cut: bool,
}

/// What a line is made of.
pub struct Line<'a> {
    pub time: OffsetDateTime,
    pub level: Level,
    pub component: &'a str,
    pub file: &'a str,
    pub line: u32,
    pub thread: u32,
    pub message: &'a str,
}

/// spdlog's own limit of a padding.
const MAX_WIDTH: usize = 64;

const FLAGS: &str = "+nlLtvaAbBhcCYDxmdHIMSefFEprRTXzP^$@s#g!%uioOjk_*";

impl Pattern {
    /// Takes a pattern apart. As in spdlog an unknown flag stands for itself.
    pub fn parse(text: &str) -> Pattern {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                plain.push(c);
                continue;
            }
            let side = chars.next_if(|c| matches!(c, '-' | '='));
            let mut width = 0;
            let mut digits = false;
            while let Some(d) = chars.peek().and_then(|c| c.to_digit(10)) {
                chars.next();
                digits = true;
                width = (width * 10 + d as usize).min(MAX_WIDTH);
            }
            let cut = digits && chars.next_if_eq(&'!').is_some();
            let pad = digits.then(|| Pad { width, side: side.unwrap_or(' '), cut });
            let Some(flag) = chars.next() else { break };
            if FLAGS.contains(flag) {
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(Piece::Flag(flag, pad));
            } else {
                plain.push('%');
                plain.push(flag);
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Pattern(pieces)
    }

    /// Writes a line, without the newline.
    pub fn format(&self, line: &Line<'_>, out: &mut String) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Flag(flag, None) => one(*flag, line, out),
                Piece::Flag(flag, Some(pad)) => {
                    let mut value = String::new();
                    one(*flag, line, &mut value);
                    padded(&value, *pad, out);
                }
            }
        }
    }
}

fn padded(value: &str, pad: Pad, out: &mut String) {
    let length = value.chars().count();
    if length >= pad.width {
        out.extend(value.chars().take(if pad.cut { pad.width } else { length }));
        return;
    }
    let missing = pad.width - length;
    let before = match pad.side {
        '-' => 0,
        '=' => missing / 2,
        _ => missing,
    };
    out.extend(std::iter::repeat_n(' ', before));
    out.push_str(value);
    out.extend(std::iter::repeat_n(' ', missing - before));
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

fn short(name: &str) -> &str {
    name.get(..3).unwrap_or(name)
}

fn one(flag: char, line: &Line<'_>, out: &mut String) {
    let t = line.time;
    let (hour, minute, second) = (t.hour(), t.minute(), t.second());
    let (year, month, day) = (t.year(), u8::from(t.month()), t.day());
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let half = if hour < 12 { "AM" } else { "PM" };
    let weekday = t.weekday();
    let month_name = MONTHS.get(usize::from(month) - 1).copied().unwrap_or_default();
    // Writing to a string does not fail.
    let _ = match flag {
        'v' => out.write_str(line.message),
        '_' => out.write_str(&line.message.replace('\n', "\\n")),
        'j' => json(line.message, out),
        'n' => out.write_str(line.component),
        'l' => out.write_str(line.level.name()),
        'L' => out.write_str(&line.level.name().get(..1).unwrap_or_default().to_uppercase()),
        't' => write!(out, "{}", line.thread),
        'P' => write!(out, "{}", std::process::id()),
        'a' => write!(out, "{}", short(&weekday.to_string())),
        'A' => write!(out, "{weekday}"),
        'b' | 'h' => out.write_str(short(month_name)),
        'B' => out.write_str(month_name),
        'c' => write!(
            out,
            "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}",
            short(&weekday.to_string()),
            short(month_name)
        ),
        'C' => write!(out, "{:02}", year.rem_euclid(100)),
        'Y' => write!(out, "{year}"),
        'D' | 'x' => write!(out, "{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
        'm' => write!(out, "{month:02}"),
        'd' => write!(out, "{day:02}"),
        'H' => write!(out, "{hour:02}"),
        'I' => write!(out, "{twelve:02}"),
        'M' => write!(out, "{minute:02}"),
        'S' => write!(out, "{second:02}"),
        'e' => write!(out, "{:03}", t.millisecond()),
        'f' => write!(out, "{:06}", t.microsecond()),
        'F' => write!(out, "{:09}", t.nanosecond()),
        'E' => write!(out, "{}", t.unix_timestamp()),
        'p' => out.write_str(half),
        'r' => write!(out, "{twelve:02}:{minute:02}:{second:02} {half}"),
        'R' => write!(out, "{hour:02}:{minute:02}"),
        'T' | 'X' => write!(out, "{hour:02}:{minute:02}:{second:02}"),
        // The time is UTC, as in any container.
        'z' => out.write_str("+00:00"),
        's' => out.write_str(line.file.rsplit('/').next().unwrap_or_default()),
        'g' => out.write_str(line.file),
        '#' => write!(out, "{}", line.line),
        '@' => write!(out, "{}:{}", line.file, line.line),
        '%' => out.write_str("%"),
        '+' => {
            let whole = Pattern::parse("[%Y-%m-%d %T.%e] [%n] [%l] [%s:%#] %v");
            whole.format(line, out);
            Ok(())
        }
        // Colours, the function, and the time since the line before: not known or not shown.
        _ => Ok(()),
    };
}

/// The message as the inside of a JSON string.
fn json(message: &str, out: &mut String) -> std::fmt::Result {
    let quoted = serde_json::to_string(message).map_err(|_| std::fmt::Error)?;
    out.write_str(quoted.get(1..quoted.len() - 1).unwrap_or_default())
}

/// C's escapes, for `--log-format-escaped`.
pub fn c_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' => out.push_str("\\\""),
            '\'' => out.push_str("\\'"),
            '\\' => out.push_str("\\\\"),
            c if c.is_ascii_control() => drop(write!(out, "\\{:03o}", c as u32)),
            c => out.push(c),
        }
    }
    out
}
