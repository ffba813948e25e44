//! Arrow values back to PostgreSQL's text, by code of its own.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_schema::DataType;

const DAY: i64 = 86_400_000_000;

/// Whether the value at `at` is what the server shows as `text`.
///
/// # Errors
/// What it is, if it is something else.
pub fn same(array: &dyn Array, at: usize, text: Option<&str>, sql_type: &str) -> Result<(), String> {
    let Some(text) = text else {
        return if array.is_null(at) {
            Ok(())
        } else {
            Err("a value".to_owned())
        };
    };
    if array.is_null(at) {
        return Err("NULL".to_owned());
    }
    if let Some(shown) = exact(array, at, sql_type) {
        return if shown == text { Ok(()) } else { Err(shown) };
    }
    match array.data_type() {
        // The server's text has the fewest digits that tell the number, so that it reads back to it.
        DataType::Float32 => {
            let (value, read) = (array.as_primitive::<Float32Type>().value(at), text.parse::<f32>());
            let same = read.is_ok_and(|read| read.to_bits() == value.to_bits() || read.is_nan() && value.is_nan());
            if same { Ok(()) } else { Err(value.to_string()) }
        }
        DataType::Float64 => {
            let (value, read) = (array.as_primitive::<Float64Type>().value(at), text.parse::<f64>());
            let same = read.is_ok_and(|read| read.to_bits() == value.to_bits() || read.is_nan() && value.is_nan());
            if same { Ok(()) } else { Err(value.to_string()) }
        }
        DataType::List(_) => {
            let values = array.as_list::<i32>().value(at);
            let elements = elements(text, delimiter(sql_type));
            if values.len() != elements.len() {
                return Err(format!("{} elements", values.len()));
            }
            let mut each = elements.iter().enumerate();
            each.try_for_each(|(index, element)| same(values.as_ref(), index, element.as_deref(), sql_type))
        }
        other => Err(format!("an unexpected {other}")),
    }
}

/// The server's text of a value of which it has only one. `None` for floats and lists.
pub fn exact(array: &dyn Array, at: usize, sql_type: &str) -> Option<String> {
    let shown = match array.data_type() {
        DataType::Boolean => if array.as_boolean().value(at) { "t" } else { "f" }.to_owned(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(at).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(at).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(at).to_string(),
        DataType::Decimal128(_, scale) => {
            decimal(&array.as_primitive::<Decimal128Type>().value(at).to_string(), *scale)
        }
        DataType::Decimal256(_, scale) => {
            decimal(&array.as_primitive::<Decimal256Type>().value(at).to_string(), *scale)
        }
        DataType::Binary => {
            let bytes = array.as_binary::<i32>().value(at).iter();
            let hex: String = bytes.map(|byte| format!("{byte:02x}")).collect();
            if sql_type.starts_with("geo") {
                hex.to_uppercase()
            } else {
                format!("\\x{hex}")
            }
        }
        DataType::Date32 => date(array.as_primitive::<Date32Type>().value(at)),
        DataType::Time64(_) => time(array.as_primitive::<Time64MicrosecondType>().value(at)),
        DataType::Timestamp(_, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(at);
            timestamp(micros, if zone.is_some() { "+00" } else { "" })
        }
        DataType::Utf8 => array.as_string::<i32>().value(at).to_owned(),
        _ => return None,
    };
    Some(shown)
}

/// What stands between the elements of an array of this type.
fn delimiter(sql_type: &str) -> char {
    // PostGIS declares its own (`CREATE TYPE … DELIMITER ':'`).
    if sql_type.starts_with("geo") { ':' } else { ',' }
}

/// An unscaled integer with its point.
fn decimal(unscaled: &str, scale: i8) -> String {
    let (sign, digits) = unscaled
        .strip_prefix('-')
        .map_or(("", unscaled), |digits| ("-", digits));
    let scale = usize::try_from(scale).expect("no scale below zero is made");
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if scale == 0 { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        _ => {
            let (year, rest, era) = civil(i64::from(days));
            format!("{year:04}{rest}{era}")
        }
    }
}

fn timestamp(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        _ => {
            let (year, rest, era) = civil(micros.div_euclid(DAY));
            format!("{year:04}{rest} {}{zone}{era}", time(micros.rem_euclid(DAY)))
        }
    }
}

fn time(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let whole = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let decimals = format!(".{fraction:06}");
    whole + decimals.trim_end_matches('0').trim_end_matches('.')
}

/// The year, `-month-day` and the era of a day since 1970-01-01, counted off year by year from
/// the year 2000 of a cycle of 400.
fn civil(days: i64) -> (i64, String, &'static str) {
    const CYCLE: i64 = 146_097;
    let since_2000 = days - 10_957;
    let mut year = 2000 + 400 * since_2000.div_euclid(CYCLE);
    let mut left = since_2000.rem_euclid(CYCLE);
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while left >= 365 + i64::from(is_leap(year)) {
        left -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + i64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (year, format!("-{month:02}-{:02}", left + 1), era)
}

/// The elements of a one-dimensional array's text, or of a vector's.
fn elements(text: &str, delimiter: char) -> Vec<Option<String>> {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.split(',').map(|number| Some(number.to_owned())).collect();
    }
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let mut letters = inner.expect("an array").chars().peekable();
    let mut found = Vec::new();
    while letters.peek().is_some() {
        let quoted = letters.next_if_eq(&'"').is_some();
        let mut element = String::new();
        while let Some(letter) = letters.next() {
            match letter {
                '"' if quoted => break,
                '\\' => element.extend(letters.next()),
                letter if letter == delimiter && !quoted => break,
                _ => element.push(letter),
            }
        }
        if quoted {
            letters.next_if_eq(&delimiter);
        }
        found.push((quoted || element != "NULL").then_some(element));
    }
    found
}
