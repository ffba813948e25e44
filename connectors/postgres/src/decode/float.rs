//! Floats as PostgreSQL writes them with `extra_float_digits` of 1 or more.
//!
//! The text has the fewest digits that read back as the same number (PostgreSQL manual, 8.1.3
//! "Floating-Point Types"). Unlike Rust's shortest text, and as `STRICTLY_SHORTEST` is off in
//! `src/common/d2s.c`, a text that lies just in the middle between two numbers, which reads back
//! only because ties go to the even one, is not taken: 1e23 is `9.999999999999999e+22`. Where two
//! texts are equally near, the even one is taken.

use std::fmt::Write;

/// A width of IEEE 754 numbers.
trait Float: Copy + PartialEq + std::str::FromStr + std::fmt::LowerExp {
    /// Exponents from which a text has one (`FLT_DIG` and `DBL_DIG`).
    const FIXED_BELOW: i32;
    /// Digits that tell any two numbers apart.
    const MOST_DIGITS: usize;

    /// Why there are no digits, if there are none.
    fn special(self) -> Option<&'static str>;

    /// Twice the significand and the power of two that belongs to it: `self = 2m * 2^k`.
    fn doubled(self) -> (u64, i32);
}

impl Float for f64 {
    const FIXED_BELOW: i32 = 15;
    const MOST_DIGITS: usize = 17;

    fn special(self) -> Option<&'static str> {
        special(self)
    }

    fn doubled(self) -> (u64, i32) {
        let bits = self.to_bits();
        let (exponent, fraction) = ((bits >> 52 & 0x7FF) as i32, bits & ((1 << 52) - 1));
        match exponent {
            0 => (2 * fraction, -1075),
            _ => (2 * (fraction | 1 << 52), exponent - 1076),
        }
    }
}

impl Float for f32 {
    const FIXED_BELOW: i32 = 6;
    const MOST_DIGITS: usize = 9;

    fn special(self) -> Option<&'static str> {
        special(f64::from(self))
    }

    fn doubled(self) -> (u64, i32) {
        let bits = self.to_bits();
        let (exponent, fraction) = ((bits >> 23 & 0xFF) as i32, u64::from(bits & ((1 << 23) - 1)));
        match exponent {
            0 => (2 * fraction, -150),
            _ => (2 * (fraction | 1 << 23), exponent - 151),
        }
    }
}

/// Writes a `float8`.
pub(super) fn write_float8(out: &mut String, value: f64) {
    write_float(out, value);
}

/// Writes a `float4`.
pub(super) fn write_float4(out: &mut String, value: f32) {
    write_float(out, value);
}

fn special(value: f64) -> Option<&'static str> {
    match value {
        _ if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        0.0 if value.is_sign_negative() => Some("-0"),
        0.0 => Some("0"),
        _ => None,
    }
}

fn write_float<F: Float>(out: &mut String, value: F) {
    if let Some(text) = value.special() {
        return out.push_str(text);
    }
    let decimal = shortest(value);
    if decimal.negative {
        out.push('-');
    }
    let digits = decimal.digits.to_string();
    let len = digits.len() as i32;
    // The exponent of the first digit.
    let exponent = decimal.exponent + len - 1;
    if !(-4..F::FIXED_BELOW).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        out.push_str(first);
        if !rest.is_empty() {
            out.push('.');
            out.push_str(rest);
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "e{sign}{:02}", exponent.unsigned_abs()).expect("writing to a string cannot fail");
    } else if exponent < 0 {
        out.push_str("0.");
        out.extend((exponent + 1..0).map(|_| '0'));
        out.push_str(&digits);
    } else if exponent + 1 >= len {
        out.push_str(&digits);
        out.extend((len..=exponent).map(|_| '0'));
    } else {
        let (whole, fraction) = digits.split_at(exponent as usize + 1);
        out.push_str(whole);
        out.push('.');
        out.push_str(fraction);
    }
}

/// `digits * 10^exponent`, the last digit not zero.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Decimal {
    negative: bool,
    digits: u64,
    exponent: i32,
}

impl Decimal {
    /// Reads what `{:e}` writes: `-1.25e-7`.
    fn from_scientific(text: &str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let number = |digits: &str| digits.bytes().fold(0u64, |sum, byte| sum * 10 + u64::from(byte - b'0'));
        let scale = 10u64.pow(fraction.len() as u32);
        Self {
            negative,
            digits: number(whole) * scale + number(fraction),
            exponent: exponent.parse::<i32>().unwrap_or_default() - fraction.len() as i32,
        }
        .trimmed()
    }

    fn trimmed(mut self) -> Self {
        while self.digits != 0 && self.digits.is_multiple_of(10) {
            self.digits /= 10;
            self.exponent += 1;
        }
        self
    }

    /// Whether this reads back as `value` and is nearer to it than to any other number.
    fn is_within<F: Float>(&self, value: F) -> bool {
        let sign = if self.negative { "-" } else { "" };
        let read = format!("{sign}{}e{}", self.digits, self.exponent).parse::<F>();
        read.is_ok_and(|read| read == value) && !self.is_halfway(value)
    }

    /// Whether this is just in the middle between `value` and one of its neighbours:
    /// `digits * 10^exponent == (2m ± 1) * 2^k`. Both sides are compared by their odd parts, which
    /// fit 128 bits wherever they can be equal at all.
    fn is_halfway<F: Float>(&self, value: F) -> bool {
        let (doubled, power) = value.doubled();
        let Some(fives) = u128::from(5u8).checked_pow(self.exponent.unsigned_abs()) else {
            return false;
        };
        let twos = self.digits.trailing_zeros() as i32 + self.exponent;
        let odd = u128::from(self.digits >> self.digits.trailing_zeros());
        let is = |middle: u64, power: i32| {
            let middle = u128::from(middle);
            let equal = if self.exponent >= 0 {
                odd.checked_mul(fives) == Some(middle)
            } else {
                middle.checked_mul(fives) == Some(odd)
            };
            equal && twos == power
        };
        // Below a power of two the numbers are twice as dense, and the middle is half as far.
        let below_power_of_two = doubled.is_power_of_two() && is(2 * doubled - 1, power - 1);
        is(doubled + 1, power) || is(doubled - 1, power) || below_power_of_two
    }
}

fn shortest<F: Float>(value: F) -> Decimal {
    let found = Decimal::from_scientific(&format!("{value:e}"));
    // Rounded to so many digits it is the nearest, and of two that are equally near the even one.
    let rounded = |digits: usize| {
        let decimals = digits - 1;
        Decimal::from_scientific(&format!("{value:.decimals$e}"))
    };
    let fewest = found.digits.ilog10() as usize + 1;
    let halfway = found.is_halfway(value);
    let nearest = rounded(fewest);
    if nearest == found && !halfway || nearest.is_within(value) {
        return nearest;
    }
    if !halfway {
        return found;
    }
    let mut more = (fewest + 1..=F::MOST_DIGITS).map(rounded);
    more.find(|decimal| decimal.is_within(value)).unwrap_or(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn double(value: f64) -> String {
        let mut out = String::new();
        write_float8(&mut out, value);
        out
    }

    fn single(value: f32) -> String {
        let mut out = String::new();
        write_float4(&mut out, value);
        out
    }

    #[test]
    fn doubles_are_written_as_postgresql_does() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123456789012345.0, "123456789012345"),
            (999999999999999.0, "999999999999999"),
            (1e15, "1e+15"),
            (1234567890123456.0, "1.234567890123456e+15"),
            (1e22, "1e+22"),
            (1e23, "9.999999999999999e+22"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (100.0, "100"),
            (120.5, "120.5"),
            // 2^-25 = 0.000000029802322387695312|5
            (2f64.powi(-25), "2.9802322387695312e-08"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn singles_are_written_as_postgresql_does() {
        for (value, text) in [
            (0.1, "0.1"),
            (123456.0, "123456"),
            (999999.0, "999999"),
            (1e6, "1e+06"),
            (1234567.0, "1.234567e+06"),
            (16777216.0, "1.6777216e+07"),
            (1e-45, "1e-45"),
            (f32::MAX, "3.4028235e+38"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f32::NAN, "NaN"),
        ] {
            assert_eq!(single(value), text);
        }
    }

    proptest! {
        #[test]
        fn doubles_read_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            let read = double(value).parse::<f64>().unwrap();
            prop_assert!(read == value || value.is_nan());
        }

        #[test]
        fn singles_read_back(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let read = single(value).parse::<f32>().unwrap();
            prop_assert!(read == value || value.is_nan());
        }
    }
}
