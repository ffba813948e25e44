//! Exact conversions from the text of a JSON number or string.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Timelike};

/// Why a value does not fit its column; never holds the value itself.
pub type Misfit = &'static str;

const NOT_INTEGER: Misfit = "found a number that is not an integer";
const OUT_OF_RANGE: Misfit = "found a number out of range";

/// An integer from the text of a JSON number. `1.0` and `1e3` are integers too.
pub fn integer(number: &str) -> Result<i128, Misfit> {
    match number.parse() {
        Ok(value) => Ok(value),
        Err(_) => scaled(number, 0).map_err(|misfit| if misfit == TOO_FINE { NOT_INTEGER } else { misfit }),
    }
}

/// The nearest `f64` of the text of a JSON number.
///
/// # Errors
/// If it is infinite, or an integer that an `f64` cannot hold exactly.
pub fn float64(number: &str) -> Result<f64, Misfit> {
    let value: f64 = number.parse().map_err(|_| OUT_OF_RANGE)?;
    if !value.is_finite() {
        return Err(OUT_OF_RANGE);
    }
    if is_integer_literal(number) && !holds_exactly(number, value) {
        return Err("found an integer that a float cannot hold exactly");
    }
    Ok(value)
}

/// As [`float64`], for `f32`.
pub fn float32(number: &str) -> Result<f32, Misfit> {
    let value: f32 = number.parse().map_err(|_| OUT_OF_RANGE)?;
    if !value.is_finite() {
        return Err(OUT_OF_RANGE);
    }
    if is_integer_literal(number) && !holds_exactly(number, f64::from(value)) {
        return Err("found an integer that a float cannot hold exactly");
    }
    Ok(value)
}

fn is_integer_literal(number: &str) -> bool {
    !number.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'))
}

fn holds_exactly(integer: &str, value: f64) -> bool {
    match integer.parse::<i128>() {
        // `i128::MAX as f64` rounds up to 2^127, which the cast back would saturate.
        Ok(exact) => value.abs() < i128::MAX as f64 && value as i128 == exact,
        // Wider than an i128: an f64 prints all its digits exactly.
        Err(_) => format!("{value:.0}") == integer,
    }
}

const TOO_FINE: Misfit = "found a number with more fraction digits than the scale allows";

/// A decimal with `scale` fraction digits from the text of a number, times `10^scale`.
///
/// # Errors
/// If digits would be lost, or it has more than `precision` digits.
pub fn decimal(number: &str, precision: u8, scale: u8) -> Result<i128, Misfit> {
    let value = scaled(number, i64::from(scale))?;
    if value.unsigned_abs() >= 10u128.pow(u32::from(precision)) {
        return Err("found a number with more digits than the precision allows");
    }
    Ok(value)
}

/// `number * 10^scale`, where that is an integer. Follows the grammar of a JSON number, and
/// refuses all else, because the text may come from inside a string.
fn scaled(number: &str, scale: i64) -> Result<i128, Misfit> {
    const MALFORMED: Misfit = "found text that is not a number";
    let (mantissa, exponent) = match number.find(['e', 'E']) {
        Some(at) => (
            &number[..at],
            number[at + 1..].parse::<i64>().map_err(|_| OUT_OF_RANGE)?,
        ),
        None => (number, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || (fraction.is_empty() && digits.contains('.')) {
        return Err(MALFORMED);
    }
    let mut value: i128 = 0;
    // A run of zeros is multiplied in only when a digit follows, so that 1.000…0 is never too long.
    let (mut zeros, mut pending) = (0u32, 0i64);
    for byte in whole.bytes().chain(fraction.bytes()) {
        if !byte.is_ascii_digit() {
            return Err(MALFORMED);
        }
        if byte == b'0' {
            zeros += 1;
            pending += 1;
            continue;
        }
        value = shifted(value, zeros.saturating_add(1))?
            .checked_add(i128::from(byte - b'0'))
            .ok_or(OUT_OF_RANGE)?;
        (zeros, pending) = (0, 0);
    }
    if value == 0 {
        return Ok(0);
    }
    let fraction_digits = i64::try_from(fraction.len()).map_err(|_| OUT_OF_RANGE)?;
    let shift = exponent
        .checked_add(scale)
        .and_then(|sum| sum.checked_sub(fraction_digits))
        .and_then(|sum| sum.checked_add(pending))
        .ok_or(OUT_OF_RANGE)?;
    if shift < 0 {
        return Err(TOO_FINE);
    }
    let value = shifted(value, u32::try_from(shift).map_err(|_| OUT_OF_RANGE)?)?;
    Ok(if negative { -value } else { value })
}

fn shifted(value: i128, digits: u32) -> Result<i128, Misfit> {
    if value == 0 {
        return Ok(0);
    }
    10i128
        .checked_pow(digits)
        .and_then(|factor| value.checked_mul(factor))
        .ok_or(OUT_OF_RANGE)
}

/// Days since the Unix epoch of `2026-01-31`.
pub fn date(text: &str) -> Result<i32, Misfit> {
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| "found text that is not a date")?;
    Ok(day.signed_duration_since(NaiveDate::default()).num_days() as i32)
}

const TOO_FINE_TIME: Misfit = "found a time finer than a microsecond";

/// Microseconds since the Unix epoch of an RFC 3339 time, `T` or a blank before the time.
pub fn timestamp(text: &str) -> Result<i64, Misfit> {
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|_| "found text that is not a time of RFC 3339 with its UTC offset")?;
    // A leap second is written as 1,000,000,000 nanoseconds or more.
    if time.nanosecond() % 1_000 != 0 {
        return Err(TOO_FINE_TIME);
    }
    Ok(time.timestamp_micros())
}

/// Microseconds since the Unix epoch of a time without an offset, as if it were UTC.
pub fn local_timestamp(text: &str) -> Result<i64, Misfit> {
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
        .map_err(|_| "found text that is not a time without an offset")?;
    if time.nanosecond() % 1_000 != 0 {
        return Err(TOO_FINE_TIME);
    }
    Ok(time.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_or_refused() {
        assert_eq!(integer("-9223372036854775808"), Ok(i128::from(i64::MIN)));
        assert_eq!(integer("1.50e1"), Ok(15));
        assert_eq!(integer("-0"), Ok(0));
        assert_eq!(integer("1.5"), Err(NOT_INTEGER));
        assert_eq!(integer("1e400"), Err(OUT_OF_RANGE));
        assert_eq!(integer("0e99999999999999999999"), Err(OUT_OF_RANGE));
    }

    #[test]
    fn floats_never_round_an_integer() {
        assert_eq!(float64("9007199254740992"), Ok(9_007_199_254_740_992.0));
        assert!(float64("9007199254740993").is_err());
        assert!(float64("170141183460469231731687303715884105727").is_err());
        assert_eq!(float64("1e22"), Ok(1e22));
        assert_eq!(
            float64("100000000000000000000000000000000000000000"),
            Err("found an integer that a float cannot hold exactly")
        );
        assert_eq!(float64("340282366920938463463374607431768211456"), Ok(2f64.powi(128)));
        assert_eq!(float64("1e999"), Err(OUT_OF_RANGE));
        assert_eq!(float32("0.1"), Ok(0.1));
        assert!(float32("16777217").is_err());
    }

    #[test]
    fn decimals_lose_no_digit() {
        assert_eq!(decimal("12.3", 18, 2), Ok(1230));
        assert_eq!(decimal("-12.340000", 18, 2), Ok(-1234));
        assert_eq!(decimal("1.2e-1", 18, 2), Ok(12));
        assert_eq!(decimal("100e-2", 3, 0), Ok(1));
        assert_eq!(decimal("12.345", 18, 2), Err(TOO_FINE));
        assert!(decimal("1000", 3, 0).is_err());
        assert_eq!(
            decimal("0.00000000000000000000000000000000000000000000000000", 3, 1),
            Ok(0)
        );
        assert!(decimal("99999999999999999999999999999999999999", 38, 0).is_ok());
        for text in ["", "-", ".", "1.", "x", "1x", "NaN"] {
            assert!(decimal(text, 18, 2).is_err(), "{text}");
        }
    }

    #[test]
    fn times_keep_their_instant() {
        assert_eq!(timestamp("1970-01-01T01:00:00.000001+01:00"), Ok(1));
        assert!(timestamp("1970-01-01T00:00:00").is_err());
        assert_eq!(timestamp("1970-01-01T00:00:00.0000001Z"), Err(TOO_FINE_TIME));
        assert_eq!(local_timestamp("1970-01-01 00:00:01"), Ok(1_000_000));
        assert_eq!(date("1970-01-02"), Ok(1));
        assert!(date("1970-02-30").is_err());
    }
}
