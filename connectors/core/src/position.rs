//! Positions: where in a source's partition a reader stands.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A part of a source that is read in order: a replication slot's WAL (`shop/wal`), a Kafka
/// partition (`clicks/clicks/0`), a range of a first copy (`shop/copy/public.orders/16385:0-4999`).
///
/// The first segment is the source's name in the pipeline, so that one checkpoint can hold
/// the partitions of several sources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(Arc<str>);

impl PartitionId {
    /// Names `partition` of the source called `source`.
    pub fn new(source: &str, partition: impl fmt::Display) -> Self {
        Self(format!("{source}/{partition}").into())
    }

    /// The name as it is stored: `source/partition`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The source's name: everything before the first `/`.
    pub fn source(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// What follows the source's name.
    pub fn within_source(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, rest)| rest)
    }

    /// The partition that this one is the part called `name` of. A `/` in `name` parts it again.
    #[must_use]
    pub fn part(&self, name: impl fmt::Display) -> Self {
        Self(format!("{self}/{name}").into())
    }

    /// The names of the partitions that this one lies within, the nearest first.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &str> {
        let cuts = self.0.rmatch_indices('/');
        cuts.map(|(at, _)| &self.0[..at])
    }

    /// Whether this is a part of `whole`, or of a part of it.
    pub fn is_within(&self, whole: &Self) -> bool {
        let rest = self.0.strip_prefix(whole.as_str());
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

impl Borrow<str> for PartitionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PartitionId {
    fn from(stored: &str) -> Self {
        Self(stored.into())
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in a partition. Owned by the source and opaque to the engine, which compares
/// positions but never computes with them.
///
/// Serialised as text: `beginning`, `at:<padded>`, `token:<20 digits>:<text>`, `end`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Position {
    /// Nothing was read yet.
    Beginning,
    /// A place in an ordered log. The text sorts byte by byte as the log does, so numbers are
    /// padded to a fixed width by their source (an LSN to 16 hex digits, an offset to 20 digits).
    At(Arc<str>),
    /// A continuation token of a source that gives no order, such as a REST page token. The
    /// source counts the pages that it read, from 1, and the count is their order; rows carry it,
    /// padded to 20 digits, as their `__position`. Two tokens of one number are equal or not
    /// comparable: the listing was begun anew.
    Token {
        /// How many pages were read, this one included.
        number: u64,
        /// What the system is asked for the next page with.
        token: Arc<str>,
    },
    /// Everything was read and nothing will follow: a finished chunk of a first copy.
    End,
}

impl Position {
    /// An ordered position; `padded` must sort byte by byte as the log does.
    pub fn at(padded: impl Into<Arc<str>>) -> Self {
        Self::At(padded.into())
    }

    /// The padded text of an ordered position.
    pub fn ordered(&self) -> Option<&str> {
        match self {
            Self::At(text) => Some(text),
            _ => None,
        }
    }

    /// Whether a reader that stands here already holds a row at `row`, the text of its
    /// `__position` column. A finished partition holds every row.
    pub fn holds(&self, row: &str) -> bool {
        match self {
            Self::Beginning => false,
            Self::At(text) => row <= text.as_ref(),
            Self::Token { number, .. } => row <= page(*number).as_str(),
            Self::End => true,
        }
    }
}

impl PartialOrd for Position {
    /// `None` for two tokens of one number, or a token and an ordered position.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        use Position::{At, Beginning, End, Token};
        match (self, other) {
            (Beginning, Beginning) | (End, End) => Some(Ordering::Equal),
            (Beginning, _) | (_, End) => Some(Ordering::Less),
            (_, Beginning) | (End, _) => Some(Ordering::Greater),
            (At(a), At(b)) => Some(a.cmp(b)),
            (Token { number: a, .. }, Token { number: b, .. }) if a != b => Some(a.cmp(b)),
            (Token { token: a, .. }, Token { token: b, .. }) if a == b => Some(Ordering::Equal),
            (Token { .. } | At(_), Token { .. } | At(_)) => None,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beginning => f.write_str("beginning"),
            Self::At(text) => write!(f, "at:{text}"),
            Self::Token { number, token } => write!(f, "token:{}:{token}", page(*number)),
            Self::End => f.write_str("end"),
        }
    }
}

/// A page's number, as rows carry it.
fn page(number: u64) -> String {
    format!("{number:020}")
}

fn parse_token(text: &str) -> Option<Position> {
    let (number, token) = text.split_once(':')?;
    Some(Position::Token {
        number: number.parse().ok()?,
        token: token.into(),
    })
}

/// The text is not one of the four forms of a [`Position`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a position: expected `beginning`, `end`, `at:…` or `token:<number>:…`")]
pub struct InvalidPosition(String);

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "beginning" => Ok(Self::Beginning),
            None if text == "end" => Ok(Self::End),
            Some(("at", padded)) => Ok(Self::At(padded.into())),
            Some(("token", rest)) => parse_token(rest).ok_or_else(|| InvalidPosition(text.to_owned())),
            _ => Err(InvalidPosition(text.to_owned())),
        }
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64, token: &str) -> Position {
        Position::Token {
            number,
            token: token.into(),
        }
    }

    #[test]
    fn every_form_survives_its_text() {
        for position in [
            Position::Beginning,
            Position::at("00FF"),
            token(7, "a:b"),
            Position::End,
        ] {
            assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        }
        for text in ["at", "token:a", "token:x:a"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_are_ordered_by_the_page_they_stand_after() {
        let second = token(2, "x");
        assert!(Position::Beginning < second && second < Position::End);
        assert!(token(9, "y") < token(10, "a"));
        assert_eq!(second.partial_cmp(&token(2, "y")), None);
        assert_eq!(second.partial_cmp(&Position::at("x")), None);
        assert!(token(10, "x").holds(&page(9)) && !token(10, "x").holds(&page(11)));
    }
}
