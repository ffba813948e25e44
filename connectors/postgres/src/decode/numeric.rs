//! `numeric`: base-10000 digits straight into Arrow's decimals, or into PostgreSQL's text.
//!
//! The binary form is four 16-bit fields (digit count, weight, sign, display scale), then the
//! digits; the value is the sum of `digit[i] * 10000^(weight - i)`. Described only in the
//! source: `numeric_send` and `NumericVar` in `src/backend/utils/adt/numeric.c`.

use std::fmt::Write;

use arrow_buffer::i256;

use super::value_error::{Result, ValueError};

const MALFORMED: ValueError = ValueError::Malformed("not a numeric");
const TOO_LARGE: ValueError = ValueError::OutOfRange("the number has more digits than its column declares");
const TOO_FINE: ValueError = ValueError::OutOfRange("the number has more decimals than its column declares");

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// Those that 64 bits hold.
const POWERS_OF_TEN: [u64; 20] = {
    let mut powers = [1; 20];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

/// The integers that decimals are stored in.
pub(super) trait Unscaled: Copy {
    const ZERO: Self;

    /// `self * factor + add`; `None` if that overflows.
    fn scale_add(self, factor: u64, add: u64) -> Option<Self>;

    fn negate(self) -> Self;
}

impl Unscaled for i128 {
    const ZERO: Self = 0;

    fn scale_add(self, factor: u64, add: u64) -> Option<Self> {
        self.checked_mul(i128::from(factor))?.checked_add(i128::from(add))
    }

    fn negate(self) -> Self {
        // Built by `scale_add` from zero, so it is never the minimum.
        -self
    }
}

impl Unscaled for i256 {
    const ZERO: Self = i256::ZERO;

    fn scale_add(self, factor: u64, add: u64) -> Option<Self> {
        self.checked_mul(i256::from_i128(i128::from(factor)))?
            .checked_add(i256::from_i128(i128::from(add)))
    }

    fn negate(self) -> Self {
        self.wrapping_neg()
    }
}

/// The fields of a binary numeric.
struct Wire<'a> {
    weight: i32,
    sign: u16,
    display_scale: u16,
    digits: &'a [[u8; 2]],
}

impl<'a> Wire<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
        let (pairs, []) = bytes.as_chunks::<2>() else {
            return Err(ValueError::Length);
        };
        let ([count, weight, sign, display_scale], digits) = pairs.split_first_chunk().ok_or(ValueError::Length)?;
        if digits.len() != usize::from(u16::from_be_bytes(*count)) {
            return Err(ValueError::Length);
        }
        Ok(Self {
            weight: i32::from(i16::from_be_bytes(*weight)),
            sign: u16::from_be_bytes(*sign),
            display_scale: u16::from_be_bytes(*display_scale),
            digits,
        })
    }

    /// The unscaled integer in a decimal of `precision` and `scale`, if the number is as most are:
    /// with few digits, of which none is wrong or lost. `None` says nothing.
    fn short(&self, precision: u8, scale: u8) -> Option<u64> {
        if self.digits.len() > 4 {
            return None;
        }
        let mut sum = 0;
        for index in 0..self.digits.len() {
            sum = sum * 10_000 + self.digit(index).ok()?;
        }
        // The power of ten of the last decimal place, relative to the scale.
        let exponent = (self.weight + 1 - self.digits.len() as i32) * 4 + i32::from(scale);
        let power = *POWERS_OF_TEN.get(exponent.unsigned_abs() as usize)?;
        let unscaled = if exponent >= 0 {
            sum.checked_mul(power)?
        } else if sum.is_multiple_of(power) {
            sum / power
        } else {
            return None;
        };
        let limit = POWERS_OF_TEN.get(usize::from(precision)).copied();
        limit.is_none_or(|limit| unscaled < limit).then_some(unscaled)
    }

    fn digit(&self, index: usize) -> Result<u64> {
        let digit = self.digits.get(index).map_or(0, |digit| u16::from_be_bytes(*digit));
        if digit < 10_000 {
            Ok(u64::from(digit))
        } else {
            Err(MALFORMED)
        }
    }
}

/// The unscaled integer of a binary numeric in a decimal of `precision` and `scale`.
pub(super) fn unscaled_from_wire<T: Unscaled>(bytes: &[u8], precision: u8, scale: u8) -> Result<T> {
    let wire = Wire::read(bytes)?;
    let negative = match wire.sign {
        0 => false,
        NEGATIVE => true,
        NAN | INFINITY | NEGATIVE_INFINITY => return Err(ValueError::NotFinite),
        _ => return Err(MALFORMED),
    };
    let short = wire.short(precision, scale);
    if let Some(unscaled) = short.and_then(|unscaled| T::ZERO.scale_add(1, unscaled)) {
        return Ok(if negative { unscaled.negate() } else { unscaled });
    }
    from_digits(&wire, negative, precision, scale)
}

/// As [`unscaled_from_wire`], however many digits there are.
fn from_digits<T: Unscaled>(wire: &Wire<'_>, negative: bool, precision: u8, scale: u8) -> Result<T> {
    let mut sum = Digits::<T>::new(precision);
    // The power of ten of a digit's last decimal place, relative to the scale.
    let mut exponent = wire.weight * 4 + i32::from(scale);
    for index in 0..wire.digits.len() {
        let digit = wire.digit(index)?;
        if exponent >= 0 {
            sum.push(digit, 4)?;
        } else {
            // Only the digit that straddles the scale keeps some of its decimals, and none may be lost.
            let kept = u32::try_from(4 + exponent).unwrap_or(0);
            let dropped = 10u64.pow(4 - kept);
            if !digit.is_multiple_of(dropped) {
                return Err(TOO_FINE);
            }
            sum.push(digit / dropped, kept)?;
        }
        exponent -= 4;
    }
    // Trailing zero digits are not sent: after the last one, `exponent + 4` places are left.
    sum.pad(exponent + 4)?;
    sum.finish(negative)
}

/// The unscaled integer of a numeric's text, such as `-12.50`.
pub(super) fn unscaled_from_text<T: Unscaled>(text: &[u8], precision: u8, scale: u8) -> Result<T> {
    let (negative, unsigned) = match text {
        b"NaN" | b"Infinity" | b"-Infinity" => return Err(ValueError::NotFinite),
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let point = unsigned.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = point.map_or((unsigned, &[][..]), |at| (&unsigned[..at], &unsigned[at + 1..]));
    if whole.is_empty() || (point.is_some() && fraction.is_empty()) {
        return Err(MALFORMED);
    }
    let mut sum = Digits::<T>::new(precision);
    let (kept, dropped) = fraction.split_at(fraction.len().min(usize::from(scale)));
    sum.push_text(whole)?;
    sum.push_text(kept)?;
    match dropped.iter().find(|byte| **byte != b'0') {
        Some(byte) if byte.is_ascii_digit() => return Err(TOO_FINE),
        Some(_) => return Err(MALFORMED),
        None => sum.pad(i32::from(scale) - kept.len() as i32)?,
    }
    sum.finish(negative)
}

/// Decimal digits, the most significant first, gathered in 64 bits as long as they fit.
struct Digits<T> {
    wide: T,
    /// Digits that `wide` does not hold yet, and by what `wide` is multiplied when it takes them.
    narrow: u64,
    narrow_factor: u64,
    /// Digits from the first that is not zero.
    significant: u32,
    precision: u32,
}

const NARROW_LIMIT: u64 = 1_000_000_000_000_000;

impl<T: Unscaled> Digits<T> {
    fn new(precision: u8) -> Self {
        Self {
            wide: T::ZERO,
            narrow: 0,
            narrow_factor: 1,
            significant: 0,
            precision: u32::from(precision),
        }
    }

    /// Appends `places` (at most 4) decimal digits.
    fn push(&mut self, digits: u64, places: u32) -> Result<()> {
        if self.significant == 0 {
            if digits == 0 {
                return Ok(());
            }
            self.significant = digits.ilog10() + 1;
        } else {
            self.significant += places;
        }
        // Checked here and not at the end: with at most 76 digits neither width can overflow.
        if self.significant > self.precision {
            return Err(TOO_LARGE);
        }
        if self.narrow_factor >= NARROW_LIMIT {
            self.flush()?;
        }
        let factor = 10u64.pow(places);
        self.narrow = self.narrow * factor + digits;
        self.narrow_factor *= factor;
        Ok(())
    }

    fn push_text(&mut self, text: &[u8]) -> Result<()> {
        for chunk in text.chunks(4) {
            let mut digits = 0;
            for byte in chunk {
                if !byte.is_ascii_digit() {
                    return Err(MALFORMED);
                }
                digits = digits * 10 + u64::from(byte - b'0');
            }
            self.push(digits, chunk.len() as u32)?;
        }
        Ok(())
    }

    /// Appends zeros; zero itself takes any number of them.
    fn pad(&mut self, zeros: i32) -> Result<()> {
        if self.significant == 0 {
            return Ok(());
        }
        let mut left = u32::try_from(zeros).unwrap_or(0);
        while left > 0 {
            let places = left.min(4);
            self.push(0, places)?;
            left -= places;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.wide = self.wide.scale_add(self.narrow_factor, self.narrow).ok_or(TOO_LARGE)?;
        (self.narrow, self.narrow_factor) = (0, 1);
        Ok(())
    }

    fn finish(mut self, negative: bool) -> Result<T> {
        self.flush()?;
        Ok(if negative { self.wide.negate() } else { self.wide })
    }
}

/// PostgreSQL's text of a binary numeric: every digit up to the display scale, no exponent.
pub(super) fn write_text(out: &mut String, bytes: &[u8]) -> Result<()> {
    let wire = Wire::read(bytes)?;
    let sign = match wire.sign {
        0 => "",
        NEGATIVE => "-",
        NAN => "NaN",
        INFINITY => "Infinity",
        NEGATIVE_INFINITY => "-Infinity",
        _ => return Err(MALFORMED),
    };
    out.push_str(sign);
    if !matches!(wire.sign, 0 | NEGATIVE) {
        return Ok(());
    }
    let place = |power: i32| usize::try_from(wire.weight - power).map_or(Ok(0), |index| wire.digit(index));
    if wire.weight < 0 {
        out.push('0');
    }
    for power in (0..=wire.weight).rev() {
        let digit = place(power)?;
        let written = if power == wire.weight {
            write!(out, "{digit}")
        } else {
            write!(out, "{digit:04}")
        };
        written.expect("writing to a string cannot fail");
    }
    let decimals = usize::from(wire.display_scale);
    if decimals > 0 {
        out.push('.');
        let end = out.len() + decimals;
        for power in 1..=decimals.div_ceil(4) as i32 {
            write!(out, "{:04}", place(-power)?).expect("writing to a string cannot fail");
        }
        out.truncate(end);
    }
    Ok(())
}

/// The binary form of a decimal text, for tests.
#[cfg(test)]
pub(super) fn encode(text: &str) -> Vec<u8> {
    let (sign, unsigned) = text.strip_prefix('-').map_or((0, text), |rest| (NEGATIVE, rest));
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let whole_groups = whole.len().div_ceil(4);
    let mut padded = format!("{whole:0>width$}{fraction}", width = whole_groups * 4);
    while !padded.len().is_multiple_of(4) {
        padded.push('0');
    }
    let mut digits: Vec<u16> = padded
        .as_bytes()
        .chunks(4)
        .map(|group| std::str::from_utf8(group).unwrap().parse().unwrap())
        .collect();
    let mut weight = i16::try_from(whole_groups).unwrap() - 1;
    while digits.first() == Some(&0) {
        digits.remove(0);
        weight -= 1;
    }
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let sign = if digits.is_empty() { 0 } else { sign };
    let weight = if digits.is_empty() { 0 } else { weight };
    let mut out = Vec::new();
    out.extend(u16::try_from(digits.len()).unwrap().to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(sign.to_be_bytes());
    out.extend(u16::try_from(fraction.len()).unwrap().to_be_bytes());
    out.extend(digits.iter().flat_map(|digit| digit.to_be_bytes()));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn both(text: &str, precision: u8, scale: u8) -> Result<i128> {
        let from_text = unscaled_from_text::<i128>(text.as_bytes(), precision, scale);
        let from_wire = unscaled_from_wire::<i128>(&encode(text), precision, scale);
        assert_eq!(from_text, from_wire, "{text}");
        from_wire
    }

    #[test]
    fn known_bytes() {
        // What PostgreSQL sends for 12345.678::numeric(10,3).
        let bytes = [0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1A, 0x7C];
        assert_eq!(unscaled_from_wire::<i128>(&bytes, 10, 3), Ok(12_345_678));
        let mut text = String::new();
        write_text(&mut text, &bytes).unwrap();
        assert_eq!(text, "12345.678");
        assert_eq!(encode("12345.678"), bytes);
    }

    #[test]
    fn digits_meet_the_scale() {
        assert_eq!(both("0", 5, 2), Ok(0));
        assert_eq!(both("0.00", 5, 2), Ok(0));
        assert_eq!(both("-0.01", 5, 2), Ok(-1));
        assert_eq!(both("999.99", 5, 2), Ok(99_999));
        assert_eq!(both("10000000000", 38, 20), Ok(10i128.pow(30)));
        assert_eq!(both("0.0000000001", 10, 10), Ok(1));
        assert_eq!(
            both("99999999999999999999999999999999999999", 38, 0),
            Ok(10i128.pow(38) - 1)
        );
        assert_eq!(
            both("0.99999999999999999999999999999999999999", 38, 38),
            Ok(10i128.pow(38) - 1)
        );
        assert_eq!(both("1000", 5, 2), Err(TOO_LARGE));
        assert_eq!(both("0.001", 5, 2), Err(TOO_FINE));
        assert_eq!(both("0.00001", 5, 2), Err(TOO_FINE));
        assert_eq!(both("100000000000000000000000000000000000000", 38, 0), Err(TOO_LARGE));
    }

    #[test]
    fn wide_numbers_use_256_bits() {
        let nines = "9".repeat(76);
        let expected = i256::from_string(&nines).unwrap();
        assert_eq!(unscaled_from_text::<i256>(nines.as_bytes(), 76, 0), Ok(expected));
        assert_eq!(
            unscaled_from_wire::<i256>(&encode(&format!("-{nines}")), 76, 0),
            Ok(expected.wrapping_neg())
        );
    }

    #[test]
    fn what_is_not_finite_is_named_so() {
        for (sign, text) in [(NAN, "NaN"), (INFINITY, "Infinity"), (NEGATIVE_INFINITY, "-Infinity")] {
            let bytes = [&[0, 0, 0, 0][..], &sign.to_be_bytes(), &[0, 0]].concat();
            assert_eq!(unscaled_from_wire::<i128>(&bytes, 10, 2), Err(ValueError::NotFinite));
            assert_eq!(
                unscaled_from_text::<i128>(text.as_bytes(), 10, 2),
                Err(ValueError::NotFinite)
            );
            let mut out = String::new();
            write_text(&mut out, &bytes).unwrap();
            assert_eq!(out, text);
        }
    }

    #[test]
    fn broken_values_are_refused() {
        for text in ["", "-", ".", "1.", ".1", "1e5", "1.x", "+1", "1.0000x"] {
            assert!(unscaled_from_text::<i128>(text.as_bytes(), 10, 2).is_err(), "{text}");
        }
        let digit_of_10000 = [0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10];
        assert_eq!(unscaled_from_wire::<i128>(&digit_of_10000, 10, 2), Err(MALFORMED));
        assert_eq!(
            unscaled_from_wire::<i128>(&digit_of_10000[..9], 10, 2),
            Err(ValueError::Length)
        );
    }

    proptest! {
        #[test]
        fn every_form_of_a_number_agrees(unscaled in -(10i128.pow(38) - 1)..10i128.pow(38), scale in 0u8..=38) {
            let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = usize::from(scale) + 1);
            let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
            let sign = if unscaled < 0 { "-" } else { "" };
            let point = if scale == 0 { "" } else { "." };
            let text = format!("{sign}{whole}{point}{fraction}");
            prop_assert_eq!(both(&text, 38, scale), Ok(unscaled));
            prop_assert_eq!(unscaled_from_wire::<i256>(&encode(&text), 76, scale), Ok(i256::from_i128(unscaled)));
            let mut shown = String::new();
            write_text(&mut shown, &encode(&text)).unwrap();
            prop_assert_eq!(shown, text);
        }

        #[test]
        fn few_digits_are_read_as_many_are(
            digits in proptest::collection::vec(prop_oneof![8 => 0u16..10_000, 1 => Just(0), 1 => 9_999u16..10_002], 0..6),
            weight in -6i16..8,
            precision in 1u8..=38,
            scale in 0u8..=38,
        ) {
            let fields = [digits.len() as u16, weight as u16, 0, 0];
            let bytes: Vec<u8> = fields.iter().chain(&digits).flat_map(|field| field.to_be_bytes()).collect();
            let slow = from_digits::<i128>(&Wire::read(&bytes).unwrap(), false, precision, scale);
            prop_assert_eq!(unscaled_from_wire::<i128>(&bytes, precision, scale), slow);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), scale in 0u8..=38) {
            let _ = unscaled_from_wire::<i128>(&bytes, 38, scale);
            let _ = unscaled_from_wire::<i256>(&bytes, 76, scale);
            let _ = write_text(&mut String::new(), &bytes);
            let _ = unscaled_from_text::<i128>(&bytes, 38, scale);
        }
    }
}
