//! Where reading starts: decided from what the target holds and what the broker still has.

use millstream_core::Position;

use crate::config::Start;

/// The text of the position at which `offset` was read: 20 digits, so that it sorts as the log
/// does. The offset before the first message is -1, and `-` sorts before every digit.
pub fn position_text(offset: i64) -> String {
    format!("{offset:020}")
}

/// The position at which everything up to and including `offset` was read.
pub fn position(offset: i64) -> Position {
    Position::at(position_text(offset))
}

/// The last offset that was read up to `position`; `None` at the beginning.
///
/// # Errors
/// If it is not a position of this source.
pub fn offset(position: &Position) -> Result<Option<i64>, NotAnOffset> {
    match position {
        Position::Beginning => Ok(None),
        Position::At(text) if text.len() == 20 => match text.parse() {
            Ok(offset) if offset >= -1 => Ok(Some(offset)),
            _ => Err(NotAnOffset),
        },
        _ => Err(NotAnOffset),
    }
}

/// A position that this source did not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the position is not an offset of 20 digits")]
pub struct NotAnOffset;

/// What a partition's broker holds: offsets from `low` on, up to but not including `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The oldest offset still there.
    pub low: i64,
    /// The offset that the next message will get.
    pub high: i64,
}

/// Where to start in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// With this offset.
    Offset(i64),
    /// With this offset, which the target must be told at once, or a restart would choose another.
    Announced(i64),
    /// What follows the committed position is gone.
    Lost(Loss),
}

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Retention removed `count` offsets that were not read yet.
    Expired {
        /// How many.
        count: i64,
    },
    /// The committed position lies beyond the end of the log: it was truncated, or the topic
    /// was deleted and created anew.
    Beyond {
        /// By how many offsets.
        count: i64,
    },
}

/// Decides where to start.
///
/// | committed offset `c`        | topic read before | start    | outcome |
/// |-----------------------------|-------------------|----------|---------|
/// | `low <= c + 1 <= high`      | any               | any      | `c + 1` |
/// | `c + 1 < low`               | any               | any      | lost, expired |
/// | `c + 1 > high`              | any               | any      | lost, beyond |
/// | none                        | yes               | any      | `low`: the partition is new |
/// | none                        | no                | earliest | `low` |
/// | none                        | no                | latest   | `high`, announced |
///
/// A committed -1 means that the source stood before the first message ever: the topic was
/// empty then, so it follows the same rules.
pub fn decide(committed: Option<i64>, topic_read_before: bool, start: Start, marks: Watermarks) -> StartAt {
    let Watermarks { low, high } = marks;
    match committed {
        Some(committed) => match committed + 1 {
            next if next < low => StartAt::Lost(Loss::Expired { count: low - next }),
            next if next > high => StartAt::Lost(Loss::Beyond { count: next - high }),
            next => StartAt::Offset(next),
        },
        None if !topic_read_before && start == Start::Latest => StartAt::Announced(high),
        None => StartAt::Offset(low),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_starts_holds() {
        let marks = Watermarks { low: 10, high: 20 };
        let decide = |committed, before, start| decide(committed, before, start, marks);
        assert_eq!(decide(Some(9), true, Start::Latest), StartAt::Offset(10));
        assert_eq!(decide(Some(19), true, Start::Earliest), StartAt::Offset(20));
        assert_eq!(
            decide(Some(4), true, Start::Earliest),
            StartAt::Lost(Loss::Expired { count: 5 })
        );
        assert_eq!(
            decide(Some(22), true, Start::Earliest),
            StartAt::Lost(Loss::Beyond { count: 3 })
        );
        assert_eq!(decide(None, true, Start::Latest), StartAt::Offset(10));
        assert_eq!(decide(None, false, Start::Earliest), StartAt::Offset(10));
        assert_eq!(decide(None, false, Start::Latest), StartAt::Announced(20));
    }

    #[test]
    fn positions_sort_as_offsets_do() {
        let offsets = [-1, 0, 1, 9, 10, 99, 100, i64::MAX];
        for pair in offsets.windows(2) {
            assert!(position(pair[0]) < position(pair[1]));
        }
        for last in offsets {
            assert_eq!(offset(&position(last)), Ok(Some(last)));
        }
        assert_eq!(offset(&Position::Beginning), Ok(None));
        for wrong in [
            Position::End,
            Position::Token {
                number: 1,
                token: "x".into(),
            },
            Position::at("7"),
            Position::at("-0000000000000000002"),
        ] {
            assert_eq!(offset(&wrong), Err(NotAnOffset));
        }
    }
}
