//! Timestamps: parsed from ISO 8601, written as Python's `isoformat()`, with the
//! score that sorts an index. No crate: they do not support offsets with
//! microseconds, which Python writes.

use std::fmt;

/// A timestamp in microseconds, from year 1 to 9999, with its offset from UTC if it
/// has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    microsecond: u32,
    /// Microseconds east of UTC, less than a day.
    offset: Option<i64>,
}

const MICROSECONDS: i64 = 1_000_000;
const DAY: i64 = 86_400 * MICROSECONDS;

impl Timestamp {
    /// Parses `YYYY-MM-DDTHH:MM:SS`, an optional fraction of 1 to 9 digits (cut to
    /// microseconds, as Python does) and an optional offset: `Z`, `±HH`, `±HHMM`,
    /// `±HH:MM` or `±HH:MM:SS[.ffffff]`. The `T` may be a space.
    ///
    /// Returns none if the text has another form or the date does not exist.
    pub fn parse(text: &str) -> Option<Self> {
        let mut cursor = Cursor(text.as_bytes());
        let year = u16::try_from(cursor.digits(4)?).ok()?;
        cursor.take_if(b"-")?;
        let month = cursor.two_digits(1, 12)?;
        cursor.take_if(b"-")?;
        let day = cursor.two_digits(1, days_in(year, month))?;
        cursor.take_if(b"T ")?;
        let hour = cursor.two_digits(0, 23)?;
        cursor.take_if(b":")?;
        let minute = cursor.two_digits(0, 59)?;
        cursor.take_if(b":")?;
        let second = cursor.two_digits(0, 59)?;
        let microsecond = cursor.fraction()?;
        let offset = cursor.offset()?;
        (year >= 1 && cursor.0.is_empty()).then_some(Self {
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

    /// Returns the seconds since 1970 in UTC, as the double nearest to the exact value,
    /// like Python's `datetime.timestamp()`. A timestamp without an offset is UTC.
    pub fn score(&self) -> f64 {
        let time = (i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second))
            * MICROSECONDS
            + i64::from(self.microsecond);
        let exact = days_since_1970(self.year, self.month, self.day) * DAY + time - self.offset.unwrap_or(0);
        // The dividend is exact as a double, and the division rounds once.
        if exact.unsigned_abs() < 1 << f64::MANTISSA_DIGITS {
            return exact as f64 / MICROSECONDS as f64;
        }
        // The quotient in units of 2^-25 s has more than 54 bits here. With its lowest
        // bit set if there is a remainder, the conversion rounds once.
        let size = exact.unsigned_abs();
        let fraction = (size % 1_000_000) << 25;
        let units = ((size / 1_000_000) << 25) | (fraction / 1_000_000);
        let score = (units | u64::from(!fraction.is_multiple_of(1_000_000))) as f64 / f64::from(1 << 25);
        if exact < 0 { -score } else { score }
    }
}

/// The text of Python's `isoformat()`: no fraction if it is zero, otherwise six
/// digits.
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

/// The part of the text that was not parsed yet.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take_if(&mut self, wanted: &[u8]) -> Option<u8> {
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

    fn two_digits(&mut self, min: u8, max: u8) -> Option<u8> {
        let number = u8::try_from(self.digits(2)?).ok()?;
        (min..=max).contains(&number).then_some(number)
    }

    /// Parses a fraction in microseconds; 0 if there is none.
    fn fraction(&mut self) -> Option<u32> {
        if self.take_if(b".,").is_none() {
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

    /// Parses an offset in microseconds; none if there is none.
    fn offset(&mut self) -> Option<Option<i64>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let sign = match self.take_if(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(Some(0)),
        };
        let mut seconds = i64::from(self.two_digits(0, 23)?) * 3600;
        let mut microseconds = 0;
        let colon = self.take_if(b":").is_some();
        if colon || !self.0.is_empty() {
            seconds += i64::from(self.two_digits(0, 59)?) * 60;
        }
        if colon && self.take_if(b":").is_some() {
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

/// Returns the days since 1970-01-01 in the Gregorian calendar. The years start in
/// March, so that a leap day is the last day.
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

    /// The expected values are `isoformat()` and `repr(timestamp())` of
    /// `datetime.fromisoformat(text)` in Python 3.11.
    #[test]
    fn texts_and_scores_are_those_of_python() {
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
    fn a_timestamp_without_offset_is_utc_and_is_written_without_offset() {
        assert_eq!(read("2026-01-02T03:04:07"), ("2026-01-02T03:04:07".to_owned(), 1767323047.0));
    }

    #[test]
    fn invalid_timestamps_are_refused() {
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
