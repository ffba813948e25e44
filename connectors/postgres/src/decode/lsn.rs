//! Log sequence numbers.

use std::fmt;
use std::str::FromStr;

/// A byte address in the write-ahead log. PostgreSQL manual, 8.20 `pg_lsn`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    /// 16 upper-case hex digits: the text of a [`Position::At`](millstream_core::Position::At),
    /// which sorts as the log does.
    pub(crate) fn padded(self) -> String {
        format!("{:016X}", self.0)
    }

    /// Reads what [`padded`](Self::padded) wrote.
    pub(crate) fn from_padded(text: &str) -> Option<Self> {
        (text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| u64::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

impl fmt::Display for Lsn {
    /// PostgreSQL's own form: `16/B374D848`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not two hex numbers with a slash between them.
#[derive(Debug, thiserror::Error)]
#[error("not an LSN: expected two hexadecimal numbers separated by a slash")]
pub(crate) struct InvalidLsn;

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let part = |digits: &str| {
            let hex = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if hex {
                u64::from_str_radix(digits, 16).map_err(|_| InvalidLsn)
            } else {
                Err(InvalidLsn)
            }
        };
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        Ok(Self(part(high)? << 32 | part(low)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_survive_their_text() {
        let lsn = Lsn(0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!(lsn.padded(), "00000016B374D848");
        assert_eq!("16/B374D848".parse::<Lsn>().unwrap(), lsn);
        assert_eq!(Lsn::from_padded("00000016B374D848"), Some(lsn));
        assert_eq!(Lsn(5).to_string(), "0/5");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "1", "/", "1/", "/1", "123456789/0", "+1/0", "g/0", "1/2/3"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
        assert_eq!(Lsn::from_padded("+000000000000001"), None);
        assert_eq!(Lsn::from_padded("1"), None);
    }
}
