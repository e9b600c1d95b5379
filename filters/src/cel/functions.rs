//! Functions on text and on moments.

use ::regex::bytes::{Regex, RegexBuilder};
use time::OffsetDateTime;

use super::value::Value;
use crate::matcher::re2_to_rust;

/// What a compiled pattern may take. Envoy allows far less (100 instructions of RE2); one that is computed from a request must stay cheap.
const PATTERN_SIZE: usize = 256 << 10;

/// How deep a pattern may be nested.
const PATTERN_DEPTH: u32 = 50;

/// Functions that ask whether a text has a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

/// Parts of a moment (in UTC) and of a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Getter {
    FullYear,
    Month,
    DayOfYear,
    DayOfMonth,
    Date,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

impl TextTest {
    pub fn holds(self, text: &[u8], part: &[u8]) -> bool {
        match self {
            TextTest::StartsWith => text.starts_with(part),
            TextTest::EndsWith => text.ends_with(part),
            TextTest::Contains => memchr::memmem::find(text, part).is_some(),
        }
    }
}

/// Compiles a pattern of RE2 that may match anywhere.
pub(super) fn pattern(text: &[u8]) -> Result<Regex, String> {
    let text = std::str::from_utf8(text).map_err(|_| "invalid UTF-8".to_owned())?;
    let built = RegexBuilder::new(&ascii_classes(&re2_to_rust(text)))
        .size_limit(PATTERN_SIZE)
        .dfa_size_limit(PATTERN_SIZE)
        .nest_limit(PATTERN_DEPTH)
        .build();
    built
        .map_err(|e| e.to_string().lines().last().unwrap_or("invalid pattern").trim_start_matches("error: ").to_owned())
}

/// The Perl classes of RE2 are ASCII also where text is Unicode.
fn ascii_classes(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[0-9A-Za-z_]"),
            Some('W') => out.push_str("[^0-9A-Za-z_]"),
            Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
            Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
            Some(b @ ('b' | 'B')) => out.extend(["(?-u:\\", if b == 'b' { "b" } else { "B" }, ")"]),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

impl Getter {
    pub fn parse(name: &str) -> Option<Getter> {
        Some(match name {
            "getFullYear" => Getter::FullYear,
            "getMonth" => Getter::Month,
            "getDayOfYear" => Getter::DayOfYear,
            "getDayOfMonth" => Getter::DayOfMonth,
            "getDate" => Getter::Date,
            "getDayOfWeek" => Getter::DayOfWeek,
            "getHours" => Getter::Hours,
            "getMinutes" => Getter::Minutes,
            "getSeconds" => Getter::Seconds,
            "getMilliseconds" => Getter::Milliseconds,
            _ => return None,
        })
    }

    /// The part; none of what is neither a moment nor (for the lesser ones) a duration.
    pub fn get(self, of: &Value<'_>) -> Option<i64> {
        const SECOND: i128 = 1_000_000_000;
        if let Value::Duration(nanos) = of {
            // All of it in that unit, except milliseconds, which are those of the second.
            return i64::try_from(match self {
                Getter::Hours => nanos / (3600 * SECOND),
                Getter::Minutes => nanos / (60 * SECOND),
                Getter::Seconds => nanos / SECOND,
                Getter::Milliseconds => nanos % SECOND / 1_000_000,
                _ => return None,
            })
            .ok();
        }
        let Value::Timestamp(nanos) = of else { return None };
        let at = OffsetDateTime::from_unix_timestamp_nanos(*nanos).ok()?;
        Some(match self {
            Getter::FullYear => at.year().into(),
            Getter::Month => i64::from(u8::from(at.month())) - 1,
            Getter::DayOfYear => i64::from(at.ordinal()) - 1,
            Getter::DayOfMonth => i64::from(at.day()) - 1,
            Getter::Date => at.day().into(),
            Getter::DayOfWeek => at.weekday().number_days_from_sunday().into(),
            Getter::Hours => at.hour().into(),
            Getter::Minutes => at.minute().into(),
            Getter::Seconds => at.second().into(),
            Getter::Milliseconds => at.millisecond().into(),
        })
    }
}
