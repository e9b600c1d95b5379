//! Durations and moments as text.

use std::io::Write as _;

use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

const SECOND: i128 = 1_000_000_000;

/// What CEL allows: some ten thousand years.
const LONGEST: i128 = 315_576_000_000 * SECOND;

/// `1h30m`, `-1.5s`, `10ms`: Go's form.
pub(super) fn parse_duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0_i128;
    loop {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at_checked(end)?;
        let units = [
            ("ns", 1),
            ("us", 1000),
            ("µs", 1000),
            ("ms", 1_000_000),
            ("s", SECOND),
            ("m", 60 * SECOND),
            ("h", 3600 * SECOND),
        ];
        let (unit, after) = units.into_iter().find_map(|(name, unit)| Some((unit, after.strip_prefix(name)?)))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        // Digits that a nanosecond has no place for say nothing.
        let fraction = fraction.get(..fraction.len().min(12)).unwrap_or_default();
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let number =
            |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i64>().ok().map(i128::from) };
        total = total.checked_add(number(whole)?.checked_mul(unit)?)?;
        total = total.checked_add(number(fraction)?.checked_mul(unit)? / scale)?;
        if total > LONGEST {
            return None;
        }
        if after.is_empty() {
            return Some(if negative { -total } else { total });
        }
        rest = after;
    }
}

fn digits(part: Option<&str>) -> Option<&str> {
    part.filter(|p| p.bytes().all(|b| b.is_ascii_digit()))
}

/// `2020-01-31T10:00:00.5Z`, `…+01:00`: RFC 3339.
pub(super) fn parse_timestamp(text: &str) -> Option<i128> {
    let number = |from: usize, to: usize| digits(text.get(from..to))?.parse::<u8>().ok();
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.into_iter().any(|(at, b)| text.as_bytes().get(at) != Some(&b)) {
        return None;
    }
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
        return None;
    }
    let year: i32 = digits(text.get(..4))?.parse().ok()?;
    let date = Date::from_calendar_date(year, Month::try_from(number(5, 7)?).ok()?, number(8, 10)?).ok()?;
    let mut rest = text.get(19..)?;
    let mut nanos = 0_u32;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit())?;
        let (fraction, after) = fraction.split_at_checked(end).filter(|(f, _)| (1..=9).contains(&f.len()))?;
        nanos = fraction.parse::<u32>().ok()?.checked_mul(10_u32.pow(9 - u32::try_from(fraction.len()).ok()?))?;
        rest = after;
    }
    let offset = match rest {
        "Z" | "z" => UtcOffset::UTC,
        _ => {
            let (sign, minutes) = (rest.as_bytes().first()?, rest.get(1..)?.split_once(':')?);
            let part = |p: &str| digits(Some(p)).filter(|p| p.len() == 2)?.parse::<i8>().ok();
            let (h, m) = (part(minutes.0)?, part(minutes.1)?);
            match sign {
                b'+' => UtcOffset::from_hms(h, m, 0).ok()?,
                b'-' => UtcOffset::from_hms(-h, -m, 0).ok()?,
                _ => return None,
            }
        }
    };
    let time = Time::from_hms_nano(number(11, 13)?, number(14, 16)?, number(17, 19)?, nanos).ok()?;
    Some(date.with_time(time).assume_offset(offset).unix_timestamp_nanos())
}

/// Seconds with a fraction of none, three, six or nine digits, and an `s`: protobuf's JSON.
pub(super) fn write_seconds(nanos: i128, out: &mut Vec<u8>) {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    // Writing to a vector does not fail.
    let _ = write!(out, "{sign}{}", nanos / 1_000_000_000);
    write_thousandths(nanos % 1_000_000_000, out);
    out.push(b's');
}

/// A fraction of a second in groups of three digits.
fn write_thousandths(nanos: u128, out: &mut Vec<u8>) {
    let _ = match nanos {
        0 => Ok(()),
        n if n % 1_000_000 == 0 => write!(out, ".{:03}", n / 1_000_000),
        n if n % 1000 == 0 => write!(out, ".{:06}", n / 1000),
        n => write!(out, ".{n:09}"),
    };
}

/// RFC 3339 for protobuf's JSON (`Z`, fractions in groups of three digits), or as `absl` prints it (`+00:00`, as many digits as needed).
pub(super) fn write_timestamp(nanos: i128, zone: &str, out: &mut Vec<u8>) -> bool {
    let Ok(at) = OffsetDateTime::from_unix_timestamp_nanos(nanos) else { return false };
    let (month, day) = (u8::from(at.month()), at.day());
    let _ = write!(out, "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", at.year(), at.hour(), at.minute(), at.second());
    if zone == "Z" {
        write_thousandths(at.nanosecond().into(), out);
    } else {
        write_fraction(at.nanosecond().into(), 9, out);
    }
    out.extend_from_slice(zone.as_bytes());
    true
}

/// `.` and the digits of a fraction, without zeroes behind them.
fn write_fraction(fraction: u128, digits: usize, out: &mut Vec<u8>) {
    if fraction == 0 {
        return;
    }
    let _ = write!(out, ".{fraction:0digits$}");
    while out.last() == Some(&b'0') {
        out.pop();
    }
}

/// `1h30m0.5s`, `2.678ms`, `0`: as `absl::FormatDuration` does.
pub(super) fn write_duration(nanos: i128, out: &mut Vec<u8>) {
    if nanos < 0 {
        out.push(b'-');
    }
    let nanos = nanos.unsigned_abs();
    let _ = match nanos {
        0 => return out.push(b'0'),
        1..1000 => write!(out, "{nanos}ns"),
        1000..1_000_000 => part(nanos, 1000, 3, "us", out),
        1_000_000..1_000_000_000 => part(nanos, 1_000_000, 6, "ms", out),
        _ => {
            let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            if seconds >= 3600 {
                let _ = write!(out, "{}h", seconds / 3600);
            }
            if seconds / 60 % 60 > 0 {
                let _ = write!(out, "{}m", seconds / 60 % 60);
            }
            if seconds % 60 == 0 && rest == 0 {
                return;
            }
            part(seconds % 60 * 1_000_000_000 + rest, 1_000_000_000, 9, "s", out)
        }
    };
}

fn part(n: u128, unit: u128, digits: usize, name: &str, out: &mut Vec<u8>) -> std::io::Result<()> {
    write!(out, "{}", n / unit)?;
    write_fraction(n % unit, digits, out);
    out.write_all(name.as_bytes())
}
