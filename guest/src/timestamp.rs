//! Timestamps: ISO 8601 text in, Python's `isoformat()` out, and the score that
//! orders an index.

use std::fmt;

/// A moment to the microsecond in the years 1 to 9999, with the offset from UTC
/// that it was given with, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    microsecond: u32,
    /// Microseconds east of UTC, less than a day either way.
    offset: Option<i64>,
}

const MICROSECONDS: i64 = 1_000_000;
const DAY: i64 = 86_400 * MICROSECONDS;

impl Timestamp {
    /// Reads `YYYY-MM-DDTHH:MM:SS`, then optionally a fraction of 1 to 9 digits
    /// (cut to microseconds, as Python does) and an offset: `Z`, `±HH`,
    /// `±HHMM`, `±HH:MM` or `±HH:MM:SS[.ffffff]`. A space may stand for `T`.
    ///
    /// None if the text is anything else or names no real moment.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = Rest(text.as_bytes());
        let year = u16::try_from(rest.digits(4)?).ok()?;
        rest.one_of(b"-")?;
        let month = rest.two_digits(1, 12)?;
        rest.one_of(b"-")?;
        let day = rest.two_digits(1, days_in(year, month))?;
        rest.one_of(b"T ")?;
        let hour = rest.two_digits(0, 23)?;
        rest.one_of(b":")?;
        let minute = rest.two_digits(0, 59)?;
        rest.one_of(b":")?;
        let second = rest.two_digits(0, 59)?;
        let microsecond = rest.fraction()?;
        let offset = rest.offset()?;
        (year >= 1 && rest.0.is_empty()).then_some(Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
            microsecond,
            offset,
        })
    }

    /// Seconds since 1970 in UTC as the double nearest to the exact value,
    /// which is what Python's `datetime.timestamp()` gives. A timestamp without
    /// an offset counts as UTC.
    pub fn score(&self) -> f64 {
        let time = (i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second))
            * MICROSECONDS
            + i64::from(self.microsecond);
        let exact = days_since_1970(self.year, self.month, self.day) * DAY + time - self.offset.unwrap_or(0);
        // Both are exact as doubles then, and the division rounds once.
        if exact.unsigned_abs() < 1 << f64::MANTISSA_DIGITS {
            return exact as f64 / MICROSECONDS as f64;
        }
        let sign = if exact < 0 { "-" } else { "" };
        let size = exact.unsigned_abs();
        // Beyond that it would round twice; reading decimals rounds once.
        let decimal = format!("{sign}{}.{:06}", size / 1_000_000, size % 1_000_000);
        decimal.parse().unwrap_or_default()
    }
}

/// The text that Python's `isoformat()` writes: no fraction if it is zero, six
/// digits otherwise.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            self.year, self.month, self.day, self.hour, self.minute, self.second
        )?;
        write_fraction(formatter, i64::from(self.microsecond))?;
        let Some(offset) = self.offset else {
            return Ok(());
        };
        let sign = if offset < 0 { '-' } else { '+' };
        let (seconds, microseconds) = (offset.abs() / MICROSECONDS, offset.abs() % MICROSECONDS);
        write!(formatter, "{sign}{:02}:{:02}", seconds / 3600, seconds / 60 % 60)?;
        if seconds % 60 != 0 || microseconds != 0 {
            write!(formatter, ":{:02}", seconds % 60)?;
        }
        write_fraction(formatter, microseconds)
    }
}

fn write_fraction(formatter: &mut fmt::Formatter<'_>, microseconds: i64) -> fmt::Result {
    if microseconds == 0 {
        return Ok(());
    }
    write!(formatter, ".{microseconds:06}")
}

/// What of the text is still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn one_of(&mut self, wanted: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        wanted.contains(first).then(|| {
            self.0 = rest;
            *first
        })
    }

    fn digits(&mut self, count: usize) -> Option<u32> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0'))
        })
    }

    fn two_digits(&mut self, least: u8, most: u8) -> Option<u8> {
        let number = u8::try_from(self.digits(2)?).ok()?;
        (least..=most).contains(&number).then_some(number)
    }

    /// Microseconds of a fraction, 0 if there is none.
    fn fraction(&mut self) -> Option<u32> {
        if self.one_of(b".,").is_none() {
            return Some(0);
        }
        let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=9).contains(&length) {
            return None;
        }
        let number = self.digits(length)?;
        Some(match length {
            0..=6 => number * 10_u32.pow(6 - length as u32),
            _ => number / 10_u32.pow(length as u32 - 6),
        })
    }

    /// Microseconds of an offset, none if there is none.
    fn offset(&mut self) -> Option<Option<i64>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(Some(0)),
        };
        let mut seconds = i64::from(self.two_digits(0, 23)?) * 3600;
        let mut microseconds = 0;
        let colon = self.one_of(b":").is_some();
        if colon || !self.0.is_empty() {
            seconds += i64::from(self.two_digits(0, 59)?) * 60;
        }
        if colon && self.one_of(b":").is_some() {
            seconds += i64::from(self.two_digits(0, 59)?);
            microseconds = i64::from(self.fraction()?);
        }
        Some(Some(sign * (seconds * MICROSECONDS + microseconds)))
    }
}

fn days_in(year: u16, month: u8) -> u8 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin
/// in March, so that a leap day comes last.
fn days_since_1970(year: u16, month: u8, day: u8) -> i64 {
    let (month, day) = (i64::from(month), i64::from(day));
    let year = i64::from(year) - i64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    days - DAYS_BEFORE_1970
}

/// Days from 0000-03-01 to 1970-01-01.
const DAYS_BEFORE_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, f64) {
        let timestamp = Timestamp::parse(text).expect(text);
        (timestamp.to_string(), timestamp.score())
    }

    /// Expected values are what Python 3.11 prints for
    /// `datetime.fromisoformat(text)`: `.isoformat()` and `repr(.timestamp())`.
    #[test]
    fn writes_and_scores_what_python_does() {
        for (text, canonical, score) in [
            ("2026-01-02T03:04:05.123456+00:00", "2026-01-02T03:04:05.123456+00:00", 1767323045.123456),
            ("2026-01-02T10:04:05.123456+07:00", "2026-01-02T10:04:05.123456+07:00", 1767323045.123456),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00", 1767323045.0),
            ("2026-01-02T03:04:05.5+0530", "2026-01-02T03:04:05.500000+05:30", 1767303245.5),
            ("2026-01-02 03:04:05.123456789-03", "2026-01-02T03:04:05.123456-03:00", 1767333845.123456),
            ("2026-01-02T03:04:05.000000-03:30:15", "2026-01-02T03:04:05-03:30:15", 1767335660.0),
            ("2026-01-02T03:04:05+00:00:01.000001", "2026-01-02T03:04:05+00:00:01.000001", 1767323043.999999),
            ("2000-02-29T00:00:00+00:00", "2000-02-29T00:00:00+00:00", 951782400.0),
            ("1969-12-31T23:59:59.999999+00:00", "1969-12-31T23:59:59.999999+00:00", -1e-06),
            ("0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00+00:00", -62135596800.0),
            ("9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59.999999+00:00", 253402300800.0),
        ] {
            assert_eq!(read(text), (canonical.to_owned(), score), "{text}");
        }
    }

    #[test]
    fn counts_a_timestamp_without_offset_as_utc_and_writes_it_without() {
        assert_eq!(read("2026-01-02T03:04:07"), ("2026-01-02T03:04:07".to_owned(), 1767323047.0));
    }

    #[test]
    fn refuses_what_names_no_moment() {
        for text in [
            "",
            "now",
            "2026-01-02",
            "2026-13-01T00:00:00",
            "2026-02-29T00:00:00",
            "0000-01-01T00:00:00",
            "2026-01-02T24:00:00",
            "2026-01-02T03:04:60",
            "2026-01-02T03:04:05.",
            "2026-01-02T03:04:05+24:00",
            "2026-01-02T03:04:05+00:00 ",
            "2026-01-02T03:04:05.1234567890",
            "+026-01-02T03:04:05",
            "2026-01-02T03:04:05é",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
