//! What to do after each answer of the store while a commit is being published.
//!
//! A put whose answer was lost may have taken effect, or may yet do so. The record carries a
//! random commit id, so reading the object back tells whose it is; as creates are conditional
//! an object, once there, never changes hands.

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
    /// The store refused the request before acting on it: no permission, no such bucket.
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
    /// Report the last error. [`Publication::may_have_landed`] tells whether the commit might be there.
    GiveUp,
}

/// The progress of publishing one record.
#[derive(Debug, Clone)]
pub struct Publication {
    retries_left: u32,
    may_have_landed: bool,
}

impl Publication {
    /// A publication that may retry `retries` times.
    pub fn new(retries: u32) -> Self {
        Self {
            retries_left: retries,
            may_have_landed: false,
        }
    }

    /// Whether some put could have taken effect, or could still, without us knowing. Until
    /// that is settled, the files of the commit must not be removed.
    pub fn may_have_landed(&self) -> bool {
        self.may_have_landed
    }

    /// Judges the answer to a put.
    pub fn after_put(&mut self, outcome: PutOutcome) -> Next {
        match outcome {
            PutOutcome::Created => Next::Committed,
            PutOutcome::Exists => Next::ReadBack,
            PutOutcome::Unknown => {
                self.may_have_landed = true;
                Next::ReadBack
            }
            PutOutcome::Refused if self.may_have_landed => Next::ReadBack,
            PutOutcome::Refused => Next::GiveUp,
        }
    }

    /// Judges what the read-back showed.
    pub fn after_read(&mut self, outcome: ReadOutcome) -> Next {
        match outcome {
            ReadOutcome::Ours => Next::Committed,
            ReadOutcome::Theirs => {
                self.may_have_landed = false;
                Next::Fenced
            }
            ReadOutcome::Absent => self.retry(Next::PutAgain),
            ReadOutcome::Failed => {
                // `Exists` followed by a failed read: the object may be ours after all, from a
                // put that the client library repeated on its own.
                self.may_have_landed = true;
                self.retry(Next::ReadAgain)
            }
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
    }

    fn fates() -> impl Strategy<Value = Vec<Fate>> {
        let fate = prop_oneof![
            Just(Fate::Works),
            Just(Fate::LostBefore),
            Just(Fate::LostAfter),
            Just(Fate::Delayed),
            Just(Fate::Conflict),
            Just(Fate::Refused),
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
                        };
                        publication.after_put(outcome)
                    }
                    Next::ReadBack | Next::ReadAgain => publication.after_read(match (fate, slot) {
                        (Fate::LostBefore | Fate::LostAfter | Fate::Refused, _) => ReadOutcome::Failed,
                        (_, None) => ReadOutcome::Absent,
                        (_, Some("ours")) => ReadOutcome::Ours,
                        (_, Some(_)) => ReadOutcome::Theirs,
                    }),
                    verdict => {
                        prop_assert!(request <= 3 * (retries as usize + 1) + 2);
                        match verdict {
                            Next::Committed => prop_assert_eq!(slot, Some("ours")),
                            Next::Fenced => {
                                prop_assert_eq!(slot, Some("theirs"));
                                prop_assert!(!publication.may_have_landed());
                            }
                            _ => prop_assert!(
                                publication.may_have_landed() || (slot != Some("ours") && landing == 0)
                            ),
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
    fn a_refused_put_is_final_only_while_nothing_is_unknown() {
        assert_eq!(Publication::new(3).after_put(PutOutcome::Refused), Next::GiveUp);
        let mut publication = Publication::new(3);
        publication.after_put(PutOutcome::Unknown);
        assert_eq!(publication.after_put(PutOutcome::Refused), Next::ReadBack);
    }
}
