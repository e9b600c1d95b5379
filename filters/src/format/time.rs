//! `START_TIME` and other moments: `strftime` compiled once, with Envoy's `%s`, `%f`, `%3f` and absl's `%E` forms.

use std::time::{SystemTime, UNIX_EPOCH};

use super::operator::append;
use super::{FormatContext, FormatError};

type MomentFn = fn(&FormatContext<'_>) -> Option<Moment>;

/// An operator that prints a moment.
#[derive(Clone, Debug)]
pub(super) struct TimeOp {
    pub which: MomentFn,
    pub format: TimeFormat,
}

/// Seconds since the epoch, and nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub seconds: i64,
    pub nanos: u32,
}

/// A compiled `strftime` format; times are UTC.
#[derive(Clone, Debug)]
pub(super) struct TimeFormat {
    items: Box<[Item]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Literal(Box<str>),
    Year,
    /// Year of the ISO week, with two digits or all.
    IsoYear,
    IsoYearShort,
    Century,
    YearShort,
    /// A number of a field, so wide, padded with this.
    Number(Number, usize, Option<u8>),
    Name(Name),
    /// Seconds with a fraction of so many digits; `None`: as many as there are.
    SecondsFraction(Option<usize>),
    /// The fraction alone.
    Fraction(Option<usize>),
    Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Month,
    Day,
    Hour,
    Hour12,
    Minute,
    Second,
    DayOfYear,
    /// 1 to 7 from Monday.
    IsoWeekday,
    /// 0 to 6 from Sunday.
    Weekday,
    WeekFromSunday,
    WeekFromMonday,
    IsoWeek,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Weekday,
    WeekdayShort,
    Month,
    MonthShort,
    AmPm,
    AmPmLower,
}

/// The fields of a moment in UTC.
#[derive(Clone, Copy)]
struct Fields {
    moment: Moment,
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// From 0.
    day_of_year: i64,
    /// From Sunday, 0.
    weekday: i64,
}

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
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

impl Moment {
    pub fn of(time: SystemTime) -> Moment {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        // The resolution of Envoy's clock.
        Moment { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_micros() * 1000 }
    }
}

impl TimeOp {
    pub fn text(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        (self.which)(cx).is_some_and(|moment| {
            self.format.write(moment, out);
            true
        })
    }
}

impl TimeFormat {
    /// Compiles a format; an empty one is ISO 8601 with milliseconds.
    pub fn parse(text: &str, local: bool) -> Result<TimeFormat, FormatError> {
        let text = match (text, local) {
            ("", false) => "%Y-%m-%dT%H:%M:%E3SZ",
            ("", true) => "%Y-%m-%dT%H:%M:%E3S%z",
            (text, _) => text,
        };
        if local && !local_zone_is_utc() {
            return Err(FormatError("local time zones other than UTC are not supported yet".to_owned()));
        }
        let mut items = Vec::new();
        compile(text, &mut items)?;
        Ok(TimeFormat { items: items.into() })
    }

    pub fn write(&self, moment: Moment, out: &mut Vec<u8>) {
        let fields = Fields::of(moment);
        for item in &self.items {
            item.write(&fields, out);
        }
    }
}

/// Whether local time is UTC, as in nearly every container: `TZ`, or else `/etc/localtime`, whose last line is the rule in force.
fn local_zone_is_utc() -> bool {
    if let Ok(zone) = std::env::var("TZ") {
        return matches!(zone.trim_start_matches(':'), "" | "UTC" | "UTC0" | "Etc/UTC" | "GMT" | "Etc/GMT");
    }
    match std::fs::read("/etc/localtime") {
        Ok(zone) => zone.ends_with(b"\nUTC0\n") || zone.ends_with(b"\nGMT0\n"),
        Err(_) => true,
    }
}

fn compile(text: &str, items: &mut Vec<Item>) -> Result<(), FormatError> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        push_literal(items, before);
        // `%-d`, `%_d`, `%0d`; `%Od` is the same as `%d` in the C locale.
        let flag = after.chars().next().filter(|c| matches!(c, '-' | '_' | '0'));
        let body = if flag.is_some() { after.get(1..).unwrap_or_default() } else { after };
        let (used, found) = specifier(body, flag)?;
        match found {
            Found::Items(list) => items.extend(list),
            Found::Text(text) => push_literal(items, text),
            Found::Format(text) => compile(text, items)?,
            // What is no specifier is printed as it stands.
            Found::Nothing => {
                push_literal(items, "%");
                rest = after;
                continue;
            }
        }
        rest = body.get(used..).unwrap_or_default();
    }
    push_literal(items, rest);
    Ok(())
}

fn push_literal(items: &mut Vec<Item>, text: &str) {
    match items.last_mut() {
        _ if text.is_empty() => {}
        Some(Item::Literal(last)) => *last = format!("{last}{text}").into(),
        _ => items.push(Item::Literal(text.into())),
    }
}

enum Found {
    Items(Vec<Item>),
    Text(&'static str),
    Format(&'static str),
    Nothing,
}

/// What stands behind `%`, and how many bytes of it.
fn specifier(body: &str, flag: Option<char>) -> Result<(usize, Found), FormatError> {
    let number = |n, width, pad: u8| {
        let pad = match flag {
            Some('-') => None,
            Some('_') => Some(b' '),
            Some(_) => Some(b'0'),
            None => Some(pad),
        };
        Found::Items(vec![Item::Number(n, width, pad)])
    };
    let one = |item| Found::Items(vec![item]);
    let bytes = body.as_bytes();
    let found = match bytes {
        [digit @ b'1'..=b'9', b'f', ..] => {
            return Ok((2, one(Item::Fraction(Some(usize::from(digit - b'0'))))));
        }
        [b'E', b'*', b'S', ..] => return Ok((3, one(Item::SecondsFraction(None)))),
        [b'E', b'*', b'f', ..] => return Ok((3, one(Item::Fraction(None)))),
        [b'E', digit @ b'0'..=b'9', b'S', ..] => {
            return Ok((3, one(Item::SecondsFraction(Some(usize::from(digit - b'0'))))));
        }
        [b'E', digit @ b'1'..=b'9', b'f', ..] => {
            return Ok((3, one(Item::Fraction(Some(usize::from(digit - b'0'))))));
        }
        [b'E', b'4', b'Y', ..] => return Ok((3, one(Item::Year))),
        [b'E', b'z', ..] => return Ok((2, Found::Text("+00:00"))),
        [b'E', b'*', b'z', ..] => return Ok((3, Found::Text("+00:00:00"))),
        [b'E', b'T', ..] => return Ok((2, Found::Text("T"))),
        [b'n', ..] => {
            return Err(FormatError("Invalid header configuration. Format string contains newline.".to_owned()));
        }
        [first, ..] => match first {
            b'%' => Found::Text("%"),
            b't' => Found::Text("\t"),
            b'Y' => one(Item::Year),
            b'G' => one(Item::IsoYear),
            b'g' => one(Item::IsoYearShort),
            b'C' => one(Item::Century),
            b'y' => one(Item::YearShort),
            b'm' => number(Number::Month, 2, b'0'),
            b'd' => number(Number::Day, 2, b'0'),
            b'e' => number(Number::Day, 2, b' '),
            b'H' => number(Number::Hour, 2, b'0'),
            b'k' => number(Number::Hour, 2, b' '),
            b'I' => number(Number::Hour12, 2, b'0'),
            b'l' => number(Number::Hour12, 2, b' '),
            b'M' => number(Number::Minute, 2, b'0'),
            b'S' => number(Number::Second, 2, b'0'),
            b'j' => number(Number::DayOfYear, 3, b'0'),
            b'u' => number(Number::IsoWeekday, 1, b'0'),
            b'w' => number(Number::Weekday, 1, b'0'),
            b'U' => number(Number::WeekFromSunday, 2, b'0'),
            b'W' => number(Number::WeekFromMonday, 2, b'0'),
            b'V' => number(Number::IsoWeek, 2, b'0'),
            b'A' => one(Item::Name(Name::Weekday)),
            b'a' => one(Item::Name(Name::WeekdayShort)),
            b'B' => one(Item::Name(Name::Month)),
            b'b' | b'h' => one(Item::Name(Name::MonthShort)),
            b'p' => one(Item::Name(Name::AmPm)),
            b'P' => one(Item::Name(Name::AmPmLower)),
            b's' => one(Item::Epoch),
            b'f' if flag.is_none() => one(Item::Fraction(Some(9))),
            b'z' => Found::Text("+0000"),
            b'Z' => Found::Text("UTC"),
            b'F' => Found::Format("%Y-%m-%d"),
            b'D' | b'x' => Found::Format("%m/%d/%y"),
            b'T' | b'X' => Found::Format("%H:%M:%S"),
            b'R' => Found::Format("%H:%M"),
            b'r' => Found::Format("%I:%M:%S %p"),
            b'c' => Found::Format("%a %b %e %H:%M:%S %Y"),
            _ => Found::Nothing,
        },
        [] => Found::Nothing,
    };
    Ok((1, found))
}

impl Fields {
    fn of(moment: Moment) -> Fields {
        let days = moment.seconds.div_euclid(86_400);
        let of_day = moment.seconds.rem_euclid(86_400);
        // Days to civil date, counting years from March so that the leap day is the last (Hinnant).
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * from_march + 2) / 153;
        let day = from_march - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let is_leap = is_leap(year);
        let day_of_year = if month > 2 { from_march + 59 + i64::from(is_leap) } else { from_march - 306 };
        Fields {
            moment,
            year,
            month,
            day,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            day_of_year,
            weekday: (days + 4).rem_euclid(7),
        }
    }

    /// Year and week of ISO 8601.
    fn iso_week(&self) -> (i64, i64) {
        let from_monday = (self.weekday + 6) % 7;
        let week = (self.day_of_year - from_monday + 10) / 7;
        if week < 1 {
            (self.year - 1, weeks_of(self.year - 1))
        } else if week > weeks_of(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, week)
        }
    }

    fn number(&self, number: Number) -> i64 {
        match number {
            Number::Month => self.month,
            Number::Day => self.day,
            Number::Hour => self.hour,
            Number::Hour12 => (self.hour + 11) % 12 + 1,
            Number::Minute => self.minute,
            Number::Second => self.second,
            Number::DayOfYear => self.day_of_year + 1,
            Number::IsoWeekday => (self.weekday + 6) % 7 + 1,
            Number::Weekday => self.weekday,
            Number::WeekFromSunday => (self.day_of_year + 7 - self.weekday) / 7,
            Number::WeekFromMonday => (self.day_of_year + 7 - (self.weekday + 6) % 7) / 7,
            Number::IsoWeek => self.iso_week().1,
        }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// ISO weeks of a year: 53 where it begins on a Thursday, or on a Wednesday of a leap year.
fn weeks_of(year: i64) -> i64 {
    let before = year - 1;
    let first_weekday =
        (1 + before + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400)).rem_euclid(7);
    if first_weekday == 4 || (first_weekday == 3 && is_leap(year)) { 53 } else { 52 }
}

impl Item {
    fn write(&self, at: &Fields, out: &mut Vec<u8>) {
        match self {
            Item::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Item::Year => digits(at.year, 1, None, out),
            Item::IsoYear => digits(at.iso_week().0, 1, None, out),
            Item::IsoYearShort => digits(at.iso_week().0.rem_euclid(100), 2, Some(b'0'), out),
            Item::Century => digits(at.year.div_euclid(100), 2, Some(b'0'), out),
            Item::YearShort => digits(at.year.rem_euclid(100), 2, Some(b'0'), out),
            Item::Number(number, width, pad) => digits(at.number(*number), *width, *pad, out),
            Item::Name(name) => out.extend_from_slice(name.of(at).as_bytes()),
            Item::SecondsFraction(width) => {
                digits(at.second, 2, Some(b'0'), out);
                let start = out.len();
                out.push(b'.');
                fraction(at.moment.nanos, *width, out);
                if out.len() == start + 1 {
                    out.truncate(start);
                }
            }
            Item::Fraction(width) => fraction(at.moment.nanos, *width, out),
            Item::Epoch => digits(at.moment.seconds, 1, None, out),
        }
    }
}

impl Name {
    fn of(self, at: &Fields) -> &'static str {
        let weekday = || usize::try_from(at.weekday).ok().and_then(|d| WEEKDAYS.get(d)).copied().unwrap_or_default();
        let month = || usize::try_from(at.month - 1).ok().and_then(|m| MONTHS.get(m)).copied().unwrap_or_default();
        match self {
            Name::Weekday => weekday(),
            Name::WeekdayShort => weekday().get(..3).unwrap_or_default(),
            Name::Month => month(),
            Name::MonthShort => month().get(..3).unwrap_or_default(),
            Name::AmPm => {
                if at.hour < 12 {
                    "AM"
                } else {
                    "PM"
                }
            }
            Name::AmPmLower => {
                if at.hour < 12 {
                    "am"
                } else {
                    "pm"
                }
            }
        }
    }
}

fn digits(n: i64, width: usize, pad: Option<u8>, out: &mut Vec<u8>) {
    // Nearly every field has two digits.
    if let (2, Some(b'0'), Ok(n @ 0..100)) = (width, pad, u8::try_from(n)) {
        out.extend_from_slice(&[b'0' + n / 10, b'0' + n % 10]);
        return;
    }
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(n);
    if let Some(pad) = pad {
        out.extend(std::iter::repeat_n(pad, width.saturating_sub(text.len())));
    }
    append(out, text.as_bytes());
}

/// The first digits of the nanoseconds; without a width, all but trailing zeros.
fn fraction(nanos: u32, width: Option<usize>, out: &mut Vec<u8>) {
    let start = out.len();
    digits(i64::from(nanos), 9, Some(b'0'), out);
    match width {
        Some(width) => out.truncate(start.saturating_add(width)),
        None => {
            while out.len() > start && out.last() == Some(&b'0') {
                out.pop();
            }
        }
    }
}
