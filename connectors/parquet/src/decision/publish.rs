//! What to do after each answer of the store while a commit is being published.
//!
//! A put whose answer was lost may have taken effect, or may yet do so. The record carries a
//! random commit id, so reading the object back tells whose it is; as creates are conditional
//! an object, once there, never changes hands.
//!
//! The client of an object store repeats a put by itself and reports the last answer alone, so
//! that no answer but success proves anything: behind a refusal there may be an earlier try that
//! took effect. Only another's record in our place proves that ours is not there.

/// How the store answered a conditional create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object was created.
    Created,
    /// The store says that the object is there already. This may be our own earlier put, or a
    /// conflict with a put that failed in the end (409), so it is no proof of anything.
    Exists,
    /// No answer, or one that leaves open whether the put took effect.
    Unknown,
    /// The store refused the last request before acting on it: no permission, no such bucket.
    /// Trying again cannot help.
    Refused,
}

/// What reading the object back showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The object holds our commit id.
    Ours,
    /// The object holds something else.
    Theirs,
    /// There is no object.
    Absent,
    /// The read failed.
    Failed,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The commit is published.
    Committed,
    /// Another writer took the version; our record is not there and never will be.
    Fenced,
    /// Read the object back.
    ReadBack,
    /// Wait, then put again.
    PutAgain,
    /// Wait, then read again.
    ReadAgain,
    /// Report the last error. The commit may be there all the same, so its files must stay.
    GiveUp,
}

/// The progress of publishing one record.
#[derive(Debug, Clone)]
pub struct Publication {
    retries_left: u32,
    refused: bool,
}

impl Publication {
    /// A publication that may retry `retries` times.
    pub fn new(retries: u32) -> Self {
        Self {
            retries_left: retries,
            refused: false,
        }
    }

    /// Judges the answer to a put.
    pub fn after_put(&mut self, outcome: PutOutcome) -> Next {
        match outcome {
            PutOutcome::Created => Next::Committed,
            PutOutcome::Exists | PutOutcome::Unknown => Next::ReadBack,
            PutOutcome::Refused => {
                self.refused = true;
                Next::ReadBack
            }
        }
    }

    /// Judges what the read-back showed.
    pub fn after_read(&mut self, outcome: ReadOutcome) -> Next {
        match outcome {
            ReadOutcome::Ours => Next::Committed,
            ReadOutcome::Theirs => Next::Fenced,
            ReadOutcome::Absent | ReadOutcome::Failed if self.refused => Next::GiveUp,
            ReadOutcome::Absent => self.retry(Next::PutAgain),
            ReadOutcome::Failed => self.retry(Next::ReadAgain),
        }
    }

    fn retry(&mut self, next: Next) -> Next {
        match self.retries_left.checked_sub(1) {
            Some(left) => {
                self.retries_left = left;
                next
            }
            None => Next::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the store and the network do to one request.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Works,
        LostBefore,
        LostAfter,
        /// The put takes effect, if it still can, when the next request has been served.
        Delayed,
        Conflict,
        Refused,
        /// The client's first try takes effect without an answer, and its second is refused.
        LandedThenRefused,
        /// The same, where the second try meets the object.
        LandedThenExists,
    }

    fn fates() -> impl Strategy<Value = Vec<Fate>> {
        let fate = prop_oneof![
            Just(Fate::Works),
            Just(Fate::LostBefore),
            Just(Fate::LostAfter),
            Just(Fate::Delayed),
            Just(Fate::Conflict),
            Just(Fate::Refused),
            Just(Fate::LandedThenRefused),
            Just(Fate::LandedThenExists),
        ];
        proptest::collection::vec(fate, 1..30)
    }

    proptest! {
        #[test]
        fn the_verdict_agrees_with_the_store(
            fates in fates(),
            rival_at in proptest::option::of(0usize..12),
            retries in 0u32..8,
        ) {
            let mut slot: Option<&str> = None;
            let mut delayed = 0;
            let mut publication = Publication::new(retries);
            let mut next = Next::PutAgain;
            for request in 0.. {
                if rival_at == Some(request) {
                    slot.get_or_insert("theirs");
                }
                let landing = std::mem::take(&mut delayed);
                let fate = fates[request % fates.len()];
                next = match next {
                    Next::PutAgain => {
                        let outcome = match fate {
                            Fate::Works if slot.is_some() => PutOutcome::Exists,
                            Fate::Works => { slot = Some("ours"); PutOutcome::Created }
                            Fate::LostBefore => PutOutcome::Unknown,
                            Fate::LostAfter => { slot.get_or_insert("ours"); PutOutcome::Unknown }
                            Fate::Delayed => { delayed = 1; PutOutcome::Unknown }
                            Fate::Conflict => PutOutcome::Exists,
                            Fate::Refused => PutOutcome::Refused,
                            Fate::LandedThenRefused => { slot.get_or_insert("ours"); PutOutcome::Refused }
                            Fate::LandedThenExists => { slot.get_or_insert("ours"); PutOutcome::Exists }
                        };
                        publication.after_put(outcome)
                    }
                    Next::ReadBack | Next::ReadAgain => publication.after_read(match (fate, slot) {
                        (Fate::LostBefore | Fate::LostAfter | Fate::Refused | Fate::LandedThenRefused, _) => ReadOutcome::Failed,
                        (_, None) => ReadOutcome::Absent,
                        (_, Some("ours")) => ReadOutcome::Ours,
                        (_, Some(_)) => ReadOutcome::Theirs,
                    }),
                    verdict => {
                        prop_assert!(request <= 3 * (retries as usize + 1) + 2);
                        match verdict {
                            Next::Committed => prop_assert_eq!(slot, Some("ours")),
                            // The one verdict after which files are removed.
                            Next::Fenced => prop_assert_eq!(slot, Some("theirs")),
                            _ => {}
                        }
                        return Ok(());
                    }
                };
                if landing == 1 {
                    slot.get_or_insert("ours");
                }
            }
        }
    }

    #[test]
    fn a_refused_put_is_read_back_once_and_not_repeated() {
        for (found, next) in [
            (ReadOutcome::Ours, Next::Committed),
            (ReadOutcome::Theirs, Next::Fenced),
            (ReadOutcome::Absent, Next::GiveUp),
            (ReadOutcome::Failed, Next::GiveUp),
        ] {
            let mut publication = Publication::new(3);
            assert_eq!(publication.after_put(PutOutcome::Refused), Next::ReadBack);
            assert_eq!(publication.after_read(found), next);
        }
    }
}
