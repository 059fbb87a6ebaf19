//! The timestamp of a checkpoint: ISO 8601 text in, the text of Python's
//! `isoformat()` out.
//!
//! The component and the Rust library share this crate, so that a timestamp
//! made by an application is stored exactly as it prints. No date library is
//! used: Python allows offsets with seconds and microseconds, and the text must
//! match Python's byte for byte.

#![deny(missing_docs)]

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment with microseconds in the years 1 to 9999, and the offset from UTC it
/// was given with.
///
/// Timestamps are ordered by their moment, then by their offset. A timestamp
/// without an offset is UTC.
///
/// ```
/// use checkpointer_timestamp::Timestamp;
///
/// let timestamp: Timestamp = "2026-01-02T03:04:05.5Z".parse()?;
/// assert_eq!(timestamp.to_string(), "2026-01-02T03:04:05.500000+00:00");
/// # Ok::<(), checkpointer_timestamp::ParseTimestampError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Microseconds since 1970-01-01T00:00:00 UTC.
    unix_micros: i64,
    /// Microseconds east of UTC, less than a day in either direction.
    offset: Option<i64>,
}

/// A text that is not a timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseTimestampError {
    text: String,
}

impl fmt::Display for ParseTimestampError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} is not an ISO 8601 timestamp of the years 1 to 9999", self.text)
    }
}

impl std::error::Error for ParseTimestampError {}

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400 * MICROS;

/// 0001-01-01T00:00:00 UTC.
const MIN_MICROS: i64 = -62_135_596_800 * MICROS;

/// 9999-12-31T23:59:59.999999 UTC.
const MAX_MICROS: i64 = 253_402_300_800 * MICROS - 1;

impl Timestamp {
    /// The current time of the system's clock, in UTC.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The moment this many microseconds after 1970-01-01T00:00:00 UTC, in UTC.
    /// Moments outside of the years 1 to 9999 become the first or last moment of
    /// these years.
    pub fn from_unix_micros(micros: i64) -> Self {
        Self { unix_micros: micros.clamp(MIN_MICROS, MAX_MICROS), offset: Some(0) }
    }

    /// Microseconds since 1970-01-01T00:00:00 UTC; negative before that.
    pub fn unix_micros(&self) -> i64 {
        self.unix_micros
    }

    /// Parses `YYYY-MM-DDTHH:MM:SS`, followed by an optional fraction of 1 to 9
    /// digits (truncated to microseconds, as in Python) and an optional offset:
    /// `Z`, `±HH`, `±HHMM`, `±HH:MM` or `±HH:MM:SS[.ffffff]`. A space may replace
    /// the `T`.
    ///
    /// Returns none for any other text, and for a date or time that does not
    /// exist.
    pub fn parse(text: &str) -> Option<Self> {
        let mut cursor = Cursor(text.as_bytes());
        let year = i64::from(cursor.digits(4)?);
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
        let fraction = cursor.fraction()?;
        let offset = cursor.offset()?;
        let time = (hour * 3600 + minute * 60 + second) * MICROS + fraction;
        let unix_micros = days_since_1970(year, month, day) * DAY + time - offset.unwrap_or(0);
        (year >= 1 && cursor.0.is_empty()).then_some(Self { unix_micros, offset })
    }

    /// The score of the timestamp in an index: seconds since 1970 as the nearest
    /// double, which is what Python's `datetime.timestamp()` returns.
    pub fn score(&self) -> f64 {
        let size = self.unix_micros.unsigned_abs();
        let score = if size < 1 << f64::MANTISSA_DIGITS {
            // The dividend is exact as a double, and the division rounds once.
            size as f64 / MICROS as f64
        } else {
            // The quotient in units of 2^-25 s has more than 54 bits here. With its lowest
            // bit set if there is a remainder, the conversion rounds once.
            let fraction = (size % 1_000_000) << 25;
            let units = ((size / 1_000_000) << 25) | (fraction / 1_000_000);
            (units | u64::from(!fraction.is_multiple_of(1_000_000))) as f64 / f64::from(1 << 25)
        };
        if self.unix_micros < 0 { -score } else { score }
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or_else(|| ParseTimestampError { text: text.to_owned() })
    }
}

/// In UTC; nanoseconds are truncated to microseconds.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_unix_micros(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        })
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        let distance = Duration::from_micros(timestamp.unix_micros.unsigned_abs());
        if timestamp.unix_micros < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
    }
}

/// The text of Python's `isoformat()`: no fraction if it is zero, otherwise six
/// digits.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.unix_micros + self.offset.unwrap_or(0);
        let (year, month, day) = date(local.div_euclid(DAY));
        let time = local.rem_euclid(DAY);
        let seconds = time / MICROS;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(formatter, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        write_fraction(formatter, time % MICROS)?;
        let Some(offset) = self.offset else {
            return Ok(());
        };
        let sign = if offset < 0 { '-' } else { '+' };
        let (seconds, fraction) = (offset.abs() / MICROS, offset.abs() % MICROS);
        write!(formatter, "{sign}{:02}:{:02}", seconds / 3600, seconds / 60 % 60)?;
        if seconds % 60 != 0 || fraction != 0 {
            write!(formatter, ":{:02}", seconds % 60)?;
        }
        write_fraction(formatter, fraction)
    }
}

fn write_fraction(formatter: &mut fmt::Formatter<'_>, micros: i64) -> fmt::Result {
    if micros == 0 {
        return Ok(());
    }
    write!(formatter, ".{micros:06}")
}

/// The part of a text that is not parsed yet.
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

    fn two_digits(&mut self, min: i64, max: i64) -> Option<i64> {
        let number = i64::from(self.digits(2)?);
        (min..=max).contains(&number).then_some(number)
    }

    /// The microseconds of a fraction; 0 if there is no fraction.
    fn fraction(&mut self) -> Option<i64> {
        if self.take_if(b".,").is_none() {
            return Some(0);
        }
        let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=9).contains(&length) {
            return None;
        }
        let number = i64::from(self.digits(length)?);
        Some(match length {
            0..=6 => number * 10_i64.pow(6 - length as u32),
            _ => number / 10_i64.pow(length as u32 - 6),
        })
    }

    /// The microseconds of an offset; `Some(None)` if there is no offset.
    fn offset(&mut self) -> Option<Option<i64>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let sign = match self.take_if(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(Some(0)),
        };
        let mut seconds = self.two_digits(0, 23)? * 3600;
        let mut micros = 0;
        let colon = self.take_if(b":").is_some();
        if colon || !self.0.is_empty() {
            seconds += self.two_digits(0, 59)? * 60;
        }
        if colon && self.take_if(b":").is_some() {
            seconds += self.two_digits(0, 59)?;
            micros = self.fraction()?;
        }
        Some(Some(sign * (seconds * MICROS + micros)))
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

/// Days from 0000-03-01 to 1970-01-01 in the Gregorian calendar.
const DAYS_BEFORE_1970: i64 = 719_468;

/// The days of 400 years, after which the Gregorian calendar repeats.
const DAYS_IN_ERA: i64 = 146_097;

/// Counted in years that begin in March, so that a leap day is the last day of
/// its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - DAYS_BEFORE_1970
}

/// The inverse of [`days_since_1970`]: year, month and day.
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
fn date(days_since_1970: i64) -> (i64, i64, i64) {
    let days = days_since_1970 + DAYS_BEFORE_1970;
    let (era, day_of_era) = (days.div_euclid(DAYS_IN_ERA), days.rem_euclid(DAYS_IN_ERA));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / (DAYS_IN_ERA - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(feature = "serde")]
impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, f64) {
        let timestamp = Timestamp::parse(text).expect(text);
        (timestamp.to_string(), timestamp.score())
    }

    /// The expected values are printed by Python 3.11 for
    /// `datetime.fromisoformat(text)`: `.isoformat()` and `repr(.timestamp())`.
    #[test]
    fn text_and_score_equal_those_of_python() {
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
    fn timestamp_without_offset_is_utc_and_prints_without_offset() {
        assert_eq!(read("2026-01-02T03:04:07"), ("2026-01-02T03:04:07".to_owned(), 1767323047.0));
    }

    #[test]
    fn text_that_is_not_a_timestamp_is_refused() {
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

    #[test]
    fn dates_of_the_years_1_to_9999_print_as_they_were_parsed() {
        for days in (MIN_MICROS / DAY..=MAX_MICROS / DAY).step_by(11) {
            let timestamp = Timestamp::from_unix_micros(days * DAY);
            assert_eq!(Timestamp::parse(&timestamp.to_string()), Some(timestamp));
        }
    }

    #[test]
    fn system_time_converts_in_both_directions_and_is_clamped_to_the_years() {
        for micros in [-1, 0, 1_767_323_045_123_456] {
            let timestamp = Timestamp::from_unix_micros(micros);
            assert_eq!(Timestamp::from(SystemTime::from(timestamp)), timestamp);
        }
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(Timestamp::from(far).to_string(), "9999-12-31T23:59:59.999999+00:00");
    }

    #[test]
    fn timestamps_are_ordered_by_their_moment() {
        let of = |text: &str| text.parse::<Timestamp>().expect(text);
        assert!(of("2026-01-02T03:00:00+02:00") < of("2026-01-02T02:00:00+00:00"));
        assert_eq!(
            "soon".parse::<Timestamp>().map_err(|error| error.to_string()),
            Err("\"soon\" is not an ISO 8601 timestamp of the years 1 to 9999".to_owned())
        );
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_uses_the_text() {
        let json = "\"2026-01-02T03:04:05+00:00\"";
        let timestamp: Timestamp = serde_json::from_str(json).expect("a timestamp");
        assert_eq!(serde_json::to_string(&timestamp).expect("JSON"), json);
    }
}
