//! Where reading starts: decided from what the target holds and what the broker still has.

use millstream_core::Position;

use crate::config::Start;
use crate::position_text::PositionText;

/// The position at which everything up to and including `offset` was read.
pub fn position(offset: i64) -> Position {
    Position::at(&*PositionText::new(offset))
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

/// What one target table holds of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The last offset that it holds, -1 if it stood before the first; `None` if nothing.
    pub offset: Option<i64>,
    /// Whether it holds a position in any partition of the topic.
    pub topic: bool,
}

/// Where to start in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartAt {
    /// The offset to read first.
    pub next: i64,
    /// The least offset that a target table holds. `None` where one holds nothing: it must be
    /// told of the place at once, or a restart would choose another.
    pub from: Option<i64>,
}

/// What follows `next` is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The offset that was to be read.
    pub next: i64,
    /// What was lost.
    pub loss: Loss,
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

impl Loss {
    /// What is lost where `next` is to be read from a log that holds `marks`.
    pub fn of(next: i64, Watermarks { low, high }: Watermarks) -> Option<Self> {
        match next {
            next if next < low => Some(Self::Expired { count: low - next }),
            next if next > high => Some(Self::Beyond { count: next - high }),
            _ => None,
        }
    }
}

/// Decides where to start, for target tables that hold `held`. Each table asks for an offset:
///
/// | it holds `c` | it has read the topic | start    | it asks for |
/// |--------------|-----------------------|----------|-------------|
/// | an offset    | yes                   | any      | `c + 1`     |
/// | nothing      | yes                   | any      | 0: the partition is new, and nothing of it was read |
/// | nothing      | no                    | earliest | `low`       |
/// | nothing      | no                    | latest   | whatever the others ask for, else `high` |
///
/// Reading starts with the least of these. What a table asks for and the log does not hold, below
/// `low` or above `high`, is lost. A committed -1 means that the source stood before the first
/// message ever: the topic was empty.
///
/// # Errors
/// What is lost, for the table that stands furthest back among those that lost something.
pub fn decide(held: &[Held], start: Start, marks: Watermarks) -> Result<StartAt, Lost> {
    let Watermarks { low, high } = marks;
    let mut asked: Vec<i64> = held
        .iter()
        .filter_map(|held| match (held.offset, held.topic, start) {
            (Some(offset), ..) => Some(offset + 1),
            (None, true, _) => Some(0),
            (None, false, Start::Earliest) => Some(low),
            (None, false, Start::Latest) => None,
        })
        .collect();
    asked.sort_unstable();
    for &next in &asked {
        if let Some(loss) = Loss::of(next, marks) {
            return Err(Lost { next, loss });
        }
    }
    let offsets: Option<Vec<i64>> = held.iter().map(|held| held.offset).collect();
    Ok(StartAt {
        next: asked.first().copied().unwrap_or(high),
        from: offsets.and_then(|offsets| offsets.into_iter().min()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Watermarks = Watermarks { low: 10, high: 20 };

    fn at(offset: i64) -> Held {
        Held {
            offset: Some(offset),
            topic: true,
        }
    }

    const NEW: Held = Held {
        offset: None,
        topic: false,
    };
    const NEW_PARTITION: Held = Held {
        offset: None,
        topic: true,
    };

    fn reads(next: i64, from: Option<i64>) -> Result<StartAt, Lost> {
        Ok(StartAt { next, from })
    }

    fn lost(next: i64, loss: Loss) -> Result<StartAt, Lost> {
        Err(Lost { next, loss })
    }

    #[test]
    fn one_table_starts_where_it_stands() {
        let decide = |held, start| decide(&[held], start, MARKS);
        assert_eq!(decide(at(9), Start::Latest), reads(10, Some(9)));
        assert_eq!(decide(at(19), Start::Earliest), reads(20, Some(19)));
        assert_eq!(decide(at(4), Start::Earliest), lost(5, Loss::Expired { count: 5 }));
        assert_eq!(decide(at(22), Start::Earliest), lost(23, Loss::Beyond { count: 3 }));
        assert_eq!(decide(NEW, Start::Earliest), reads(10, None));
        assert_eq!(decide(NEW, Start::Latest), reads(20, None));
    }

    #[test]
    fn a_new_partition_is_owed_from_its_first_message() {
        for start in [Start::Earliest, Start::Latest] {
            assert_eq!(
                decide(&[NEW_PARTITION], start, MARKS),
                lost(0, Loss::Expired { count: 10 })
            );
            let marks = Watermarks { low: 0, high: 20 };
            assert_eq!(decide(&[NEW_PARTITION], start, marks), reads(0, None));
        }
    }

    #[test]
    fn a_second_table_never_moves_the_start_past_what_the_first_holds() {
        for tables in [[at(12), NEW], [NEW, at(12)]] {
            assert_eq!(decide(&tables, Start::Latest, MARKS), reads(13, None));
            assert_eq!(decide(&tables, Start::Earliest, MARKS), reads(10, None));
        }
        for start in [Start::Earliest, Start::Latest] {
            assert_eq!(decide(&[NEW, at(4)], start, MARKS), lost(5, Loss::Expired { count: 5 }));
            assert_eq!(
                decide(&[at(12), at(30)], start, MARKS),
                lost(31, Loss::Beyond { count: 11 })
            );
        }
        assert_eq!(decide(&[at(15), at(12)], Start::Latest, MARKS), reads(13, Some(12)));
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
