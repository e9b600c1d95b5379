//! `Duration`, `Timestamp` and `FieldMask` as strings.

/// The bounds of `google.protobuf.Duration`: about 10,000 years.
const MAX_SECONDS: i64 = 315_576_000_000;

/// Reads `1.5s` into seconds and nanoseconds.
pub fn parse_duration(text: &str) -> Result<(i64, i32), &'static str> {
    let digits = text.strip_suffix('s').ok_or("a duration ends in `s`, as in `1.5s`")?;
    let (digits, negative) = digits.strip_prefix('-').map_or((digits, false), |digits| (digits, true));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    if !is_digits(whole) || fraction.is_some_and(|fraction| !is_digits(fraction) || fraction.len() > 9) {
        return Err("a duration is a number with up to nine decimals and `s`, as in `1.5s`");
    }
    let seconds =
        whole.parse::<i64>().ok().filter(|seconds| *seconds <= MAX_SECONDS).ok_or("the duration is out of range")?;
    let nanos = parse_nanos(fraction.unwrap_or_default());
    Ok(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// Writes seconds and nanoseconds as `1.500s`: none, three, six or nine decimals, as protobuf does.
pub fn format_duration(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}s", seconds.unsigned_abs(), format_nanos(nanos.unsigned_abs()))
}

/// Reads RFC 3339 into seconds since 1970 and nanoseconds.
pub fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let number = |range: std::ops::Range<usize>| {
        text.get(range).filter(|digits| is_digits(digits)).and_then(|digits| digits.parse::<i64>().ok())
    };
    let is = |at: usize, c: u8| text.as_bytes().get(at) == Some(&c);
    if !(is(4, b'-') && is(7, b'-') && (is(10, b'T') || is(10, b't')) && is(13, b':') && is(16, b':')) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let in_range = year >= 1
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    if fraction.len() > 9 || (fraction.is_empty() && rest.starts_with('.')) {
        return None;
    }
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (zone.get(1..3)?, zone.get(4..6)?);
            if !is_digits(hours) || !is_digits(minutes) {
                return None;
            }
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let seconds = days_from_1970(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset;
    Some((seconds, parse_nanos(fraction)))
}

/// Writes a timestamp in UTC; `None` outside of the years 1 to 9999.
pub fn format_timestamp(seconds: i64, nanos: i32) -> Option<String> {
    if !(-62_135_596_800..=253_402_300_799).contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return None;
    }
    let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    let (year, month, day) = date_from_1970(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{}Z",
        format_nanos(nanos.unsigned_abs())
    ))
}

/// Reads `fooBar,baz` into `foo_bar` and `baz`.
pub fn parse_field_mask(text: &str) -> Option<Vec<String>> {
    let path = |path: &str| {
        let mut out = String::new();
        for c in path.chars() {
            match c {
                'A'..='Z' => out.extend(['_', c.to_ascii_lowercase()]),
                _ => out.push(c),
            }
        }
        (!path.is_empty()).then_some(out)
    };
    if text.is_empty() { Some(vec![]) } else { text.split(',').map(path).collect() }
}

/// Writes the path `foo_bar` as `fooBar`.
pub fn format_field_mask_path(path: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in path.chars() {
        match c {
            '_' => upper = true,
            _ if std::mem::take(&mut upper) => out.push(c.to_ascii_uppercase()),
            _ => out.push(c),
        }
    }
    out
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// At most nine digits behind a decimal point.
fn parse_nanos(fraction: &str) -> i32 {
    let mut digits = fraction.bytes();
    (0..9).fold(0, |nanos, _| nanos * 10 + digits.next().map_or(0, |digit| i32::from(digit.saturating_sub(b'0'))))
}

fn format_nanos(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        _ if nanos.is_multiple_of(1_000_000) => format!(".{:03}", nanos / 1_000_000),
        _ if nanos.is_multiple_of(1000) => format!(".{:06}", nanos / 1000),
        _ => format!(".{nanos:09}"),
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts in years that begin in March, so that the leap day is the last.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

fn date_from_1970(days: i64) -> (i64, i64, i64) {
    // 400 years have 146,097 days, and the calendar repeats after them.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_strict() {
        assert_eq!(parse_duration("5s"), Ok((5, 0)));
        assert_eq!(parse_duration("-0.5s"), Ok((0, -500_000_000)));
        assert_eq!(parse_duration("1.000000001s"), Ok((1, 1)));
        assert_eq!(parse_duration("315576000000s"), Ok((MAX_SECONDS, 0)));
        for bad in [
            "5",
            "5ms",
            ".5s",
            "5.s",
            "1e1s",
            "+5s",
            "315576000001s",
            "",
            "s",
            "-s",
            "1.0000000001s",
            "99999999999999999999s",
            "5 s",
            "--5s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_as_many_decimals_as_protobuf_writes() {
        for (seconds, nanos, text) in
            [(0, 0, "0s"), (1, 500_000_000, "1.500s"), (0, -1, "-0.000000001s"), (-3, 0, "-3s"), (0, 1000, "0.000001s")]
        {
            assert_eq!(format_duration(seconds, nanos), text);
            assert_eq!(parse_duration(text), Ok((seconds, nanos)));
        }
    }

    #[test]
    fn timestamps_go_both_ways() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (-62_135_596_800, 0, "0001-01-01T00:00:00Z"),
            (253_402_300_799, 999_999_999, "9999-12-31T23:59:59.999999999Z"),
            (1_787_000_000, 120_000_000, "2026-08-17T20:53:20.120Z"),
        ] {
            assert_eq!(format_timestamp(seconds, nanos).as_deref(), Some(text));
            assert_eq!(parse_timestamp(text), Some((seconds, nanos)));
        }
        assert_eq!(parse_timestamp("1970-01-01T02:00:00+02:00"), Some((0, 0)));
        for bad in [
            "",
            "1970-01-01",
            "1970-02-29T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+1:00",
            "é970-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
        assert_eq!(format_timestamp(i64::MAX, 0), None);
    }

    #[test]
    fn field_masks_change_case() {
        assert_eq!(parse_field_mask("fooBar.baz,b"), Some(vec!["foo_bar.baz".to_owned(), "b".to_owned()]));
        assert_eq!(parse_field_mask(""), Some(vec![]));
        assert_eq!(parse_field_mask("a,,b"), None);
        assert_eq!(format_field_mask_path("foo_bar.baz"), "fooBar.baz");
    }
}
