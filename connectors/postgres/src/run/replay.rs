//! The place inside a transaction at which a stream was left, found again in another.

use crate::decode::{Lsn, ProtocolError};

/// Follows the messages of a stream. After [`again`](Self::again) a new stream of the same slot
/// is followed, which begins with the transaction that the old one was left in; what was taken
/// of it is passed over, because the server decodes a transaction to the same changes in the
/// same order each time.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Where the transaction commits.
    commit: Lsn,
    /// How many of its changes were taken.
    taken: usize,
    /// How many changes are to be passed over; `None` in a stream that was not left.
    repeated: Option<usize>,
    /// Whether the transaction's Begin is to be passed over.
    begins_again: bool,
}

impl Replay {
    /// Whether `message`, one of pgoutput's, is new.
    ///
    /// # Errors
    /// If the new stream does not begin with the old one's transaction.
    pub(super) fn is_new(&mut self, message: &[u8]) -> Result<bool, ProtocolError> {
        match message {
            [b'B', a, b, c, d, e, f, g, h, ..] => {
                let commit = Lsn(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
                if !self.begins_again {
                    (self.commit, self.taken, self.repeated) = (commit, 0, None);
                    return Ok(true);
                }
                if commit < self.commit {
                    // Sent again for its relations, which are known.
                    return Ok(false);
                }
                if commit != self.commit {
                    return Err(ProtocolError::UnknownContent("another transaction than was left"));
                }
                self.begins_again = false;
                Ok(false)
            }
            // Of messages that somebody wrote, those that belong to the transaction.
            [b'I' | b'U' | b'D' | b'T', ..] | [b'M', 1, ..] => match &mut self.repeated {
                Some(left @ 1..) => {
                    *left -= 1;
                    Ok(false)
                }
                _ => {
                    self.taken += 1;
                    Ok(true)
                }
            },
            [b'M', ..] => Ok(true),
            // Relations in between are known from the first time.
            _ => Ok(!self.begins_again && self.repeated.is_none_or(|left| left == 0)),
        }
    }

    /// Where the transaction commits that is followed.
    pub(super) fn commit(&self) -> Lsn {
        self.commit
    }

    /// How many of its changes were taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Prepares for a new stream, in which that transaction need not come again.
    pub(super) fn forget(&mut self) {
        (self.taken, self.repeated, self.begins_again) = (0, None, false);
    }

    /// Prepares for a new stream, which must begin with that transaction or an earlier one.
    pub(super) fn again(&mut self) {
        (self.repeated, self.begins_again) = (Some(self.taken), true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(commit: u64) -> Vec<u8> {
        [b"B".as_slice(), &commit.to_be_bytes(), &[0; 12]].concat()
    }

    fn is_new(replay: &mut Replay, message: &[u8]) -> bool {
        replay.is_new(message).unwrap()
    }

    #[test]
    fn what_was_taken_of_a_transaction_is_passed_over_and_no_more() {
        let mut replay = Replay::default();
        for message in [
            &begin(5),
            b"R".as_slice(),
            b"I",
            b"C",
            &begin(7),
            b"R",
            b"I",
            b"T",
            b"R",
        ] {
            assert!(is_new(&mut replay, message));
        }
        for _ in 0..2 {
            replay.again();
            assert_eq!(replay.commit(), Lsn(7));
            for message in [&begin(7), b"R".as_slice(), b"I", b"R", b"T"] {
                assert!(!is_new(&mut replay, message));
            }
            assert!(is_new(&mut replay, b"R"));
        }
        for message in [b"D".as_slice(), b"C", &begin(9), b"R", b"I"] {
            assert!(is_new(&mut replay, message));
        }
        replay.again();
        assert_eq!((replay.commit(), replay.taken), (Lsn(9), 1));
        assert!(replay.is_new(&begin(11)).is_err());
    }
}
