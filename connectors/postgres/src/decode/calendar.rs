//! Dates and times: PostgreSQL's epoch is 2000-01-01, Arrow's is 1970-01-01.
//!
//! Text is DateStyle ISO. PostgreSQL manual, 8.5 "Date/Time Types". The calendar arithmetic is
//! the proleptic Gregorian one that PostgreSQL uses; a year "n BC" is the year 1 - n.

use std::fmt::Write;

use super::value_error::{Result, ValueError};

/// Microseconds from 1970-01-01 to 2000-01-01.
pub(crate) const EPOCH_OFFSET_MICROS: i64 = 946_684_800_000_000;
const EPOCH_OFFSET_DAYS: i32 = 10_957;
const MICROS_PER_DAY: i64 = 86_400_000_000;
const TOO_LATE: ValueError = ValueError::OutOfRange("the date or time does not fit its Arrow type");
const NOT_A_DATE: ValueError = ValueError::Malformed("not a date or time in ISO style");

/// Days from 1970 of a binary date; the infinities stay the extremes of `i32`.
pub(super) fn days_from_wire(days: i32) -> Result<i32> {
    match days {
        i32::MIN | i32::MAX => Ok(days),
        finite => finite_days(i64::from(finite) + i64::from(EPOCH_OFFSET_DAYS)),
    }
}

/// Microseconds from 1970 of a binary timestamp; the infinities stay the extremes of `i64`.
pub(super) fn micros_from_wire(micros: i64) -> Result<i64> {
    match micros {
        i64::MIN | i64::MAX => Ok(micros),
        finite => finite_micros(i128::from(finite) + i128::from(EPOCH_OFFSET_MICROS)),
    }
}

/// Microseconds since midnight, up to and including 24:00:00.
pub(super) fn time_from_wire(micros: i64) -> Result<i64> {
    if (0..=MICROS_PER_DAY).contains(&micros) {
        Ok(micros)
    } else {
        Err(TOO_LATE)
    }
}

/// A finite value must not be taken for an infinity.
fn finite_days(days: i64) -> Result<i32> {
    i32::try_from(days)
        .ok()
        .filter(|d| *d != i32::MIN && *d != i32::MAX)
        .ok_or(TOO_LATE)
}

fn finite_micros(micros: i128) -> Result<i64> {
    i64::try_from(micros)
        .ok()
        .filter(|m| *m != i64::MIN && *m != i64::MAX)
        .ok_or(TOO_LATE)
}

/// `2024-02-29`, `0044-03-15 BC`, `infinity`.
pub(super) fn parse_date(text: &[u8]) -> Result<i32> {
    match text {
        b"infinity" => return Ok(i32::MAX),
        b"-infinity" => return Ok(i32::MIN),
        _ => {}
    }
    let mut scan = Scan(text);
    let ymd = scan.date()?;
    let bc = scan.era()?;
    finite_days(days_from_civil(ymd, bc)?)
}

/// `12:34:56.789`
pub(super) fn parse_time(text: &[u8]) -> Result<i64> {
    let mut scan = Scan(text);
    let micros = scan.time()?;
    scan.end()?;
    time_from_wire(micros)
}

/// `2024-02-29 12:34:56.789+00`, `0044-03-15 00:00:00 BC`, `-infinity`. An offset is applied.
pub(super) fn parse_timestamp(text: &[u8]) -> Result<i64> {
    match text {
        b"infinity" => return Ok(i64::MAX),
        b"-infinity" => return Ok(i64::MIN),
        _ => {}
    }
    let mut scan = Scan(text);
    let ymd = scan.date()?;
    scan.take(b' ')?;
    let time = scan.time()?;
    let offset = scan.offset()?;
    let bc = scan.era()?;
    let days = days_from_civil(ymd, bc)?;
    finite_micros(i128::from(days) * i128::from(MICROS_PER_DAY) + i128::from(time) - i128::from(offset) * 1_000_000)
}

/// What is left of a text in ISO style.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    /// A number of `min` or more digits.
    fn number(&mut self, min: usize) -> Result<i64> {
        let len = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if len < min || len > 10 {
            return Err(NOT_A_DATE);
        }
        let (digits, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    }

    fn next_is(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn take(&mut self, byte: u8) -> Result<()> {
        if self.next_is(byte) { Ok(()) } else { Err(NOT_A_DATE) }
    }

    fn date(&mut self) -> Result<(i64, i64, i64)> {
        let year = self.number(4)?;
        self.take(b'-')?;
        let month = self.number(2)?;
        self.take(b'-')?;
        let day = self.number(2)?;
        Ok((year, month, day))
    }

    /// Microseconds since midnight.
    fn time(&mut self) -> Result<i64> {
        let hours = self.number(2)?;
        self.take(b':')?;
        let minutes = self.number(2)?;
        self.take(b':')?;
        let seconds = self.number(2)?;
        let mut micros = 0;
        if self.next_is(b'.') {
            let before = self.0.len();
            let fraction = self.number(1)?;
            let digits = u32::try_from(before - self.0.len()).map_err(|_| NOT_A_DATE)?;
            micros = fraction * 10i64.pow(6u32.checked_sub(digits).ok_or(NOT_A_DATE)?);
        }
        if hours > 24 || minutes > 59 || seconds > 60 {
            return Err(NOT_A_DATE);
        }
        Ok(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
    }

    /// Seconds east of UTC; 0 where there is none.
    fn offset(&mut self) -> Result<i64> {
        let sign = match self.0.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Ok(0),
        };
        self.0 = &self.0[1..];
        let mut seconds = self.number(2)? * 3600;
        for unit in [60, 1] {
            if self.next_is(b':') {
                seconds += self.number(2)? * unit;
            }
        }
        Ok(sign * seconds)
    }

    /// Whether the text ends with ` BC`; it must end here.
    fn era(&mut self) -> Result<bool> {
        match self.0 {
            b"" => Ok(false),
            b" BC" => Ok(true),
            _ => Err(NOT_A_DATE),
        }
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(NOT_A_DATE) }
    }
}

/// Days from 1970-01-01. Years are counted from March, so that the leap day is the last, in
/// cycles of 400 years, which have 146,097 days.
fn days_from_civil((year, month, day): (i64, i64, i64), bc: bool) -> Result<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year == 0 {
        return Err(NOT_A_DATE);
    }
    let year = if bc { 1 - year } else { year };
    let march_year = if month > 2 { year } else { year - 1 };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let (cycle, year_of_cycle) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let day_of_cycle = year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
    Ok(cycle * 146_097 + day_of_cycle - 719_468)
}

/// The inverse of [`days_from_civil`]: year (0 is 1 BC), month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (cycle, day_of_cycle) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (cycle * 400 + year_of_cycle + i64::from(month <= 2), month, day)
}

/// PostgreSQL's text of a binary date.
pub(super) fn write_date(out: &mut String, wire_days: i32) {
    match wire_days {
        i32::MAX => out.push_str("infinity"),
        i32::MIN => out.push_str("-infinity"),
        finite => {
            let (year, month, day) = civil_from_days(i64::from(finite) + i64::from(EPOCH_OFFSET_DAYS));
            write_civil(out, year, month, day);
            write_era(out, year);
        }
    }
}

/// PostgreSQL's text of a binary timestamp; `utc` adds the zone.
pub(super) fn write_timestamp(out: &mut String, wire_micros: i64, utc: bool) {
    match wire_micros {
        i64::MAX => out.push_str("infinity"),
        i64::MIN => out.push_str("-infinity"),
        finite => {
            let days = finite.div_euclid(MICROS_PER_DAY) + i64::from(EPOCH_OFFSET_DAYS);
            let (year, month, day) = civil_from_days(days);
            write_civil(out, year, month, day);
            out.push(' ');
            write_time(out, finite.rem_euclid(MICROS_PER_DAY));
            if utc {
                out.push_str("+00");
            }
            write_era(out, year);
        }
    }
}

fn write_civil(out: &mut String, year: i64, month: i64, day: i64) {
    let shown = if year > 0 { year } else { 1 - year };
    put(out, format_args!("{shown:04}-{month:02}-{day:02}"));
}

fn write_era(out: &mut String, year: i64) {
    if year <= 0 {
        out.push_str(" BC");
    }
}

/// `hh:mm:ss` with as many digits of the fraction as are needed. Hours are not limited.
pub(super) fn write_time(out: &mut String, micros: i64) {
    let micros = micros.unsigned_abs();
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    put(
        out,
        format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    );
    if fraction != 0 {
        put(out, format_args!(".{fraction:06}"));
        out.truncate(out.trim_end_matches('0').len());
    }
}

/// PostgreSQL's text of a binary `timetz`; `west` counts seconds west of UTC.
pub(super) fn write_time_tz(out: &mut String, micros: i64, west: i32) {
    write_time(out, micros);
    out.push(if west <= 0 { '+' } else { '-' });
    let seconds = west.unsigned_abs();
    put(out, format_args!("{:02}", seconds / 3600));
    if !seconds.is_multiple_of(3600) {
        put(out, format_args!(":{:02}", seconds / 60 % 60));
    }
    if !seconds.is_multiple_of(60) {
        put(out, format_args!(":{:02}", seconds % 60));
    }
}

/// PostgreSQL's text of a binary `interval` in IntervalStyle `postgres`. The extremes of all
/// three fields are the infinities of PostgreSQL 17.
pub(super) fn write_interval(out: &mut String, months: i32, days: i32, micros: i64) {
    match (months, days, micros) {
        (i32::MAX, i32::MAX, i64::MAX) => return out.push_str("infinity"),
        (i32::MIN, i32::MIN, i64::MIN) => return out.push_str("-infinity"),
        _ => {}
    }
    let start = out.len();
    // A part that follows a negative one shows its sign even where it is positive.
    let mut after_negative = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value != 0 {
            let space = if out.len() > start { " " } else { "" };
            let plus = if after_negative && value > 0 { "+" } else { "" };
            let plural = if value == 1 { "" } else { "s" };
            put(out, format_args!("{space}{plus}{value} {unit}{plural}"));
            after_negative = value < 0;
        }
    }
    if out.len() == start || micros != 0 {
        if out.len() > start {
            out.push(' ');
        }
        match (micros < 0, after_negative) {
            (true, _) => out.push('-'),
            (false, true) => out.push('+'),
            (false, false) => {}
        }
        write_time(out, micros);
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_dates() {
        for (text, wire, arrow) in [
            ("2000-01-01", 0, 10_957),
            ("1970-01-01", -10_957, 0),
            ("2024-02-29", 8_825, 19_782),
            ("0001-01-01", -730_119, -719_162),
            ("0001-12-31 BC", -730_120, -719_163),
            ("4713-01-01 BC", -2_451_507, -2_440_550),
            ("5874897-12-31", 2_145_031_948, 2_145_042_905),
            ("infinity", i32::MAX, i32::MAX),
            ("-infinity", i32::MIN, i32::MIN),
        ] {
            assert_eq!(parse_date(text.as_bytes()), Ok(arrow), "{text}");
            assert_eq!(days_from_wire(wire), Ok(arrow), "{text}");
            let mut shown = String::new();
            write_date(&mut shown, wire);
            assert_eq!(shown, text);
        }
        assert!(days_from_wire(i32::MAX - 1).is_err());
        for text in [
            "",
            "2024",
            "2024-13-01",
            "2024-1-1",
            "24-01-01",
            "2024-01-01 AD",
            "0000-01-01",
        ] {
            assert!(parse_date(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn known_timestamps() {
        for (text, arrow) in [
            ("1970-01-01 00:00:00", 0),
            ("2001-09-09 01:46:40.000001", 1_000_000_000_000_001),
            ("1969-12-31 23:59:59.9", -100_000),
            ("2024-01-01 05:30:00+05:30", 1_704_067_200_000_000),
            ("2023-12-31 16:00:00-08", 1_704_067_200_000_000),
            ("0001-12-31 00:00:00 BC", -719_163 * MICROS_PER_DAY),
            ("0001-12-31 00:00:00+00 BC", -719_163 * MICROS_PER_DAY),
            ("infinity", i64::MAX),
            ("-infinity", i64::MIN),
        ] {
            assert_eq!(parse_timestamp(text.as_bytes()), Ok(arrow), "{text}");
        }
        // The last year of PostgreSQL's range does not fit microseconds from 1970.
        assert!(parse_timestamp(b"294276-12-31 23:59:59.999999").is_err());
        assert!(micros_from_wire(9_223_371_331_199_999_999).is_err());
        assert!(micros_from_wire(i64::MAX - EPOCH_OFFSET_MICROS).is_err());
        assert_eq!(micros_from_wire(0), Ok(EPOCH_OFFSET_MICROS));
        assert_eq!(micros_from_wire(i64::MIN + 1), Ok(i64::MIN + 1 + EPOCH_OFFSET_MICROS));
    }

    #[test]
    fn known_times() {
        for (text, micros) in [
            ("00:00:00", 0),
            ("12:34:56.789", 45_296_789_000),
            ("24:00:00", MICROS_PER_DAY),
            ("23:59:60", MICROS_PER_DAY),
        ] {
            assert_eq!(parse_time(text.as_bytes()), Ok(micros), "{text}");
        }
        for text in [
            "1:00:00",
            "12:00",
            "25:00:00",
            "24:00:01",
            "12:00:00.1234567",
            "12:00:00.",
            "12:00:00 ",
        ] {
            assert!(parse_time(text.as_bytes()).is_err(), "{text}");
        }
        assert!(time_from_wire(-1).is_err());
    }

    #[test]
    fn intervals_and_zones_are_written_as_postgresql_does() {
        let interval = |months, days, micros| {
            let mut out = String::new();
            write_interval(&mut out, months, days, micros);
            out
        };
        assert_eq!(interval(0, 0, 0), "00:00:00");
        assert_eq!(interval(14, 3, 14_706_700_000), "1 year 2 mons 3 days 04:05:06.7");
        assert_eq!(interval(-14, 3, -1_000_000), "-1 years -2 mons +3 days -00:00:01");
        assert_eq!(interval(1, -1, 1_000_000), "1 mon -1 days +00:00:01");
        assert_eq!(interval(-1, 1, 1), "-1 mons +1 day 00:00:00.000001");
        assert_eq!(interval(0, 0, i64::MIN), "-2562047788:00:54.775808");
        assert_eq!(interval(i32::MAX, i32::MAX, i64::MAX), "infinity");
        let zone = |west| {
            let mut out = String::new();
            write_time_tz(&mut out, 1, west);
            out
        };
        assert_eq!(zone(0), "00:00:00.000001+00");
        assert_eq!(zone(-19_800), "00:00:00.000001+05:30");
        assert_eq!(zone(28_801), "00:00:00.000001-08:00:01");
    }

    proptest! {
        #[test]
        fn text_and_binary_agree_on_every_timestamp(wire in -211_813_488_000_000_000i64..9_222_000_000_000_000_000) {
            let mut text = String::new();
            write_timestamp(&mut text, wire, true);
            prop_assert_eq!(parse_timestamp(text.as_bytes()), micros_from_wire(wire));
        }

        #[test]
        fn text_and_binary_agree_on_every_date(wire in -2_451_507i32..2_145_031_949) {
            let mut text = String::new();
            write_date(&mut text, wire);
            prop_assert_eq!(parse_date(text.as_bytes()), days_from_wire(wire));
        }

        #[test]
        fn no_text_panics(text in proptest::collection::vec(proptest::sample::select(b"0123456789-+:. BCinfty".to_vec()), 0..40)) {
            let _ = (parse_date(&text), parse_time(&text), parse_timestamp(&text));
        }
    }
}
