//! Tests of [`super::Spool`].

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn spool(budget: usize) -> Spool {
    Spool::open("shop", std::env::temp_dir(), budget).unwrap()
}

impl Spool {
    /// Reads a transaction to its end.
    fn drain(&mut self, xid: u32) -> Vec<Vec<u8>> {
        self.read(xid);
        let mut messages = Vec::new();
        while self.advance().unwrap() {
            messages.push(self.message().to_vec());
        }
        messages
    }

    fn on_disk(&self) -> u64 {
        self.logs.values().map(Log::in_file).sum()
    }
}

#[test]
fn all_transactions_together_stay_within_the_budget() {
    const BUDGET: usize = 64 * 1024;
    let mut spool = spool(BUDGET);
    (1..=20).for_each(|xid| spool.begin(xid));
    for turn in 0..2000u32 {
        let xid = turn % 20 + 1;
        spool.append(xid, xid, b'I', &[0; 500]).unwrap();
        let memory: usize = spool.logs.values().map(Log::in_memory).sum();
        assert_eq!(memory, spool.in_memory);
        assert!(memory <= BUDGET, "{memory} after {turn}");
    }
    assert!(spool.on_disk() > 800_000);
    for xid in 1..=20 {
        assert_eq!(spool.drain(xid).len(), 100);
    }
    assert_eq!((spool.in_memory, spool.logs.len()), (0, 0));
}

#[test]
fn a_message_beyond_the_budget_goes_to_disk_and_comes_back() {
    let mut spool = spool(4096);
    let huge: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    spool.begin(1);
    spool.append(1, 1, b'I', b"a").unwrap();
    spool.append(1, 1, b'U', &huge).unwrap();
    assert!(spool.in_memory <= 4096);
    spool.append(1, 1, b'D', b"b").unwrap();
    let messages = spool.drain(1);
    assert_eq!(messages.len(), 3);
    assert_eq!(
        (messages[0].as_slice(), messages[2].as_slice()),
        (b"Ia".as_slice(), b"Db".as_slice())
    );
    assert!(messages[1][0] == b'U' && messages[1][1..] == huge);
}

#[test]
fn what_is_rolled_back_at_the_end_frees_its_place() {
    let mut spool = spool(1024);
    spool.begin(1);
    spool.append(1, 1, b'I', b"kept").unwrap();
    let mut most = 0;
    for subxid in 2..2000 {
        for _ in 0..10 {
            spool.append(1, subxid, b'I', &[0; 200]).unwrap();
        }
        // Released into another, which is rolled back with it.
        spool.append(1, subxid + 10_000, b'I', &[0; 200]).unwrap();
        spool.append(1, subxid, b'I', &[0; 200]).unwrap();
        most = most.max(spool.on_disk());
        spool.roll_back(1, subxid + 10_000).unwrap();
        spool.roll_back(1, subxid).unwrap();
    }
    assert!(most < 10_000, "{most} bytes on disk");
    assert_eq!(spool.drain(1), [b"Ikept"]);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_told_at_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Spool::open("shop", file.path().join("below"), 1024).unwrap_err();
    assert_eq!((error.kind(), error.error_code()), (ErrorKind::Config, Some("PG0041")));
}

#[test]
fn a_full_disk_is_told_as_such_and_may_pass() {
    let error = spool(1024).failed(io::ErrorKind::StorageFull.into());
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::StorageFull, Some("PG0041"))
    );
}

/// Messages as (subtransaction, number).
type Model = BTreeMap<u32, Vec<(u32, u32)>>;

#[derive(Debug, Clone)]
enum Step {
    Append { top: u32, sub: u32, bytes: usize },
    RollBack { top: u32, sub: u32 },
    Forget { top: u32 },
    Read { top: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let (top, sub) = (0u32..4, 0u32..8);
    prop_oneof![
        8 => (top.clone(), sub.clone(), 0usize..400).prop_map(|(top, sub, bytes)| Step::Append { top, sub, bytes }),
        2 => (top.clone(), sub).prop_map(|(top, sub)| Step::RollBack { top, sub }),
        1 => top.clone().prop_map(|top| Step::Forget { top }),
        1 => top.prop_map(|top| Step::Read { top }),
    ]
}

proptest! {
    /// In any order, nested or not: the log gives what a list without what was rolled back gives.
    #[test]
    fn a_spool_reads_like_a_list(steps in proptest::collection::vec(step(), 0..200), budget in 64usize..4096, wrap in any::<bool>()) {
        let mut spool = spool(budget);
        let mut model = Model::new();
        // Numbers may go around within a transaction. A subtransaction that was rolled back never comes again.
        let base = |top: u32| if wrap { u32::MAX - 500 + top } else { 100 + top };
        let mut renewed = [[0u32; 8]; 4];
        let name = |renewed: &[[u32; 8]; 4], top: u32, sub: u32| {
            base(top).wrapping_add(4 * (sub + 8 * renewed[top as usize][sub as usize]))
        };
        for (number, step) in steps.iter().enumerate() {
            match *step {
                Step::Append { top, sub, bytes } => {
                    let xid = base(top);
                    if !spool.contains(xid) {
                        spool.begin(xid);
                    }
                    let subxid = name(&renewed, top, sub);
                    let number = u32::try_from(number).unwrap();
                    let body = [&number.to_be_bytes()[..], &vec![7; bytes]].concat();
                    spool.append(xid, subxid, b'I', &body).unwrap();
                    model.entry(xid).or_default().push((subxid, number));
                }
                Step::RollBack { top, sub } => {
                    let subxid = name(&renewed, top, sub);
                    spool.roll_back(base(top), subxid).unwrap();
                    if let Some(messages) = model.get_mut(&base(top)) {
                        messages.retain(|(of, _)| *of != subxid);
                    }
                    renewed[top as usize][sub as usize] += 1;
                }
                Step::Forget { top } => {
                    spool.forget(base(top));
                    model.remove(&base(top));
                }
                Step::Read { top } => {
                    let numbers = |messages: Vec<Vec<u8>>| -> Vec<u32> {
                        messages.iter().map(|m| u32::from_be_bytes(m[1..5].try_into().unwrap())).collect()
                    };
                    let expected: Vec<u32> = model.remove(&base(top)).unwrap_or_default().iter().map(|(_, n)| *n).collect();
                    prop_assert_eq!(numbers(spool.drain(base(top))), expected);
                }
            }
            prop_assert!(spool.in_memory <= budget);
        }
    }
}
