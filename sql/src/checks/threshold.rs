//! Thresholds on a number of failing rows, as dbt writes them: `">10"`.

use std::fmt;
use std::str::FromStr;

use serde::de;
use serde::{Deserialize, Deserializer};

/// A comparison that a number of failing rows is put to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    comparison: Comparison,
    bound: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    More,
    AtLeast,
    Less,
    AtMost,
    Equal,
    NotEqual,
}

/// Longer signs first, so that `>=` is not read as `>`.
const SIGNS: [(&str, Comparison); 8] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    ("!=", Comparison::NotEqual),
    ("<>", Comparison::NotEqual),
    ("==", Comparison::Equal),
    (">", Comparison::More),
    ("<", Comparison::Less),
    ("=", Comparison::Equal),
];

impl Threshold {
    /// Whether `failing` rows meet the comparison.
    pub const fn met_by(self, failing: u64) -> bool {
        match self.comparison {
            Comparison::More => failing > self.bound,
            Comparison::AtLeast => failing >= self.bound,
            Comparison::Less => failing < self.bound,
            Comparison::AtMost => failing <= self.bound,
            Comparison::Equal => failing == self.bound,
            Comparison::NotEqual => failing != self.bound,
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = SIGNS
            .iter()
            .find(|(_, comparison)| *comparison == self.comparison)
            .map_or("", |(sign, _)| sign);
        write!(f, "{sign}{}", self.bound)
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a threshold on a number of rows, expected for example `\">10\"`");
        let trimmed = text.trim();
        let (sign, comparison) = SIGNS
            .iter()
            .find(|(sign, _)| trimmed.starts_with(sign))
            .ok_or_else(wrong)?;
        let bound = trimmed[sign.len()..].trim().parse().map_err(|_| wrong())?;
        Ok(Self {
            comparison: *comparison,
            bound,
        })
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_read_whole() {
        let met = |text: &str, failing| text.parse::<Threshold>().unwrap().met_by(failing);
        assert!(met(">=10", 10) && !met(">10", 10) && met("<= 3", 3) && !met("<3", 3));
        assert!(met("!=0", 1) && met("= 0", 0) && met("==2", 2));
        assert_eq!(">= 7".parse::<Threshold>().unwrap().to_string(), ">=7");
        assert!("10".parse::<Threshold>().is_err() && ">x".parse::<Threshold>().is_err());
    }
}
