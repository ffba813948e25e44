//! Tests of [`super::InProgress`], on messages made by hand.

use proptest::prelude::*;

use super::*;

const HELD: Lsn = Lsn(100);

fn in_progress(budget: usize) -> InProgress {
    InProgress::new(
        Spool::open("shop", std::env::temp_dir(), budget).unwrap(),
        HELD,
        Some(Lsn(50)),
    )
}

fn message(tag: u8, fields: &[&[u8]]) -> Vec<u8> {
    [&[tag][..], &fields.concat()].concat()
}

fn start(xid: u32, first: bool) -> Vec<u8> {
    message(b'S', &[&xid.to_be_bytes(), &[u8::from(first)]])
}

fn change(subxid: u32, number: u32) -> Vec<u8> {
    message(b'I', &[&subxid.to_be_bytes(), &number.to_be_bytes()])
}

fn stop() -> Vec<u8> {
    b"E".to_vec()
}

fn abort(xid: u32, subxid: u32) -> Vec<u8> {
    message(b'A', &[&xid.to_be_bytes(), &subxid.to_be_bytes()])
}

fn commit_fields(lsn: u64) -> Vec<u8> {
    [&[0][..], &lsn.to_be_bytes(), &[0; 8], &[0; 8]].concat()
}

fn commit(xid: u32, lsn: u64) -> Vec<u8> {
    message(b'c', &[&xid.to_be_bytes(), &commit_fields(lsn)])
}

fn prepare(tag: u8, xid: u32, at: u64) -> Vec<u8> {
    let flags: &[u8] = if tag == b'b' { &[] } else { &[0] };
    message(tag, &[flags, &at.to_be_bytes(), &[0; 16], &xid.to_be_bytes(), b"gid\0"])
}

fn commit_prepared(xid: u32, lsn: u64) -> Vec<u8> {
    message(b'K', &[&commit_fields(lsn), &xid.to_be_bytes(), b"gid\0"])
}

fn rollback_prepared(xid: u32) -> Vec<u8> {
    message(b'r', &[&[0], &[0; 32], &xid.to_be_bytes(), b"gid\0"])
}

/// What an assembler would be given.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    Begin(u64),
    Change(u32),
    Relation,
    Commit,
}

fn given(message: &[u8]) -> Given {
    match message {
        [b'B', rest @ ..] => Given::Begin(u64::from_be_bytes(rest[..8].try_into().unwrap())),
        [b'I', rest @ ..] => Given::Change(u32::from_be_bytes(rest.try_into().unwrap())),
        [b'R', ..] => Given::Relation,
        [b'C', ..] => Given::Commit,
        other => panic!("{other:?}"),
    }
}

fn feed(in_progress: &mut InProgress, messages: &[Vec<u8>]) -> Vec<Given> {
    let mut all = Vec::new();
    for message in messages {
        assert!(!in_progress.is_reading());
        if in_progress.take(message).unwrap() == Turn::Pass {
            all.push(given(message));
        }
        while let Some(message) = in_progress.next().unwrap() {
            all.push(given(message));
        }
    }
    all
}

fn whole(lsn: u64, numbers: &[u32]) -> Vec<Given> {
    let changes = numbers.iter().map(|number| Given::Change(*number));
    [Given::Begin(lsn)]
        .into_iter()
        .chain(changes)
        .chain([Given::Commit])
        .collect()
}

#[test]
fn a_transaction_appears_at_its_commit_among_those_that_are_sent_whole() {
    let mut in_progress = in_progress(64);
    let plain = |number: u32| message(b'I', &[&number.to_be_bytes()]);
    let begin = message(b'B', &[&200u64.to_be_bytes(), &[0; 12]]);
    let messages = [
        start(1, true),
        message(b'O', &[&[0; 8], b"elsewhere\0"]),
        change(1, 10),
        change(3, 11),
        stop(),
        start(2, true),
        change(2, 20),
        stop(),
        begin,
        plain(30),
        message(b'C', &[&commit_fields(200)]),
        start(1, false),
        change(1, 12),
        stop(),
        commit(2, 300),
        commit(1, 400),
    ];
    let expected = [whole(200, &[30]), whole(300, &[20]), whole(400, &[10, 11, 12])].concat();
    assert_eq!(feed(&mut in_progress, &messages), expected);
}

#[test]
fn what_is_rolled_back_does_not_appear() {
    let mut in_progress = in_progress(64);
    let messages = [
        start(1, true),
        change(1, 10),
        change(3, 11),
        stop(),
        abort(1, 3),
        start(2, true),
        change(2, 20),
        stop(),
        abort(2, 2),
        start(1, false),
        change(4, 12),
        stop(),
        commit(1, 400),
    ];
    assert_eq!(feed(&mut in_progress, &messages), whole(400, &[10, 12]));
    assert!(in_progress.take(&commit(2, 500)).is_err(), "it is gone");
}

#[test]
fn a_disordered_stream_is_refused() {
    let disorders: [&[Vec<u8>]; 8] = [
        &[stop()],
        &[start(1, false)],
        &[start(1, true), start(2, true)],
        &[start(1, true), commit(1, 200)],
        &[commit(1, 200)],
        &[prepare(b'P', 1, 200)],
        &[prepare(b'p', 1, 200)],
        &[prepare(b'b', 1, 200), prepare(b'P', 2, 200)],
    ];
    for messages in disorders {
        let mut in_progress = in_progress(64);
        let (last, before) = messages.split_last().unwrap();
        feed(&mut in_progress, before);
        let error = in_progress.take(last).unwrap_err();
        assert_eq!(error.error_code(), Some("PG0040"), "{messages:?}");
    }
}

#[test]
fn a_prepared_transaction_appears_at_its_commit_and_holds_the_log_until_it_is_durable() {
    let mut in_progress = in_progress(64);
    let plain = |number: u32| message(b'I', &[&number.to_be_bytes()]);
    let prepared = [
        prepare(b'b', 1, 200),
        plain(10),
        prepare(b'P', 1, 200),
        start(2, true),
        change(2, 20),
        stop(),
        prepare(b'p', 2, 250),
    ];
    assert_eq!(feed(&mut in_progress, &prepared), []);
    assert_eq!(in_progress.confirmable(Lsn(150)), Lsn(150));
    assert_eq!(in_progress.confirmable(Lsn(900)), Lsn(200));
    assert_eq!(feed(&mut in_progress, &[rollback_prepared(2)]), []);
    assert_eq!(feed(&mut in_progress, &[commit_prepared(1, 300)]), whole(300, &[10]));
    // Read, and not yet in the target.
    assert_eq!(in_progress.confirmable(Lsn(300)), Lsn(200));
    assert_eq!(in_progress.confirmable(Lsn(301)), Lsn(301));
}

#[test]
fn what_was_not_read_yet_is_not_confirmed() {
    let mut in_progress = in_progress(64);
    // The target holds that much since an earlier stream, in which something was prepared.
    assert_eq!(in_progress.confirmable(Lsn(900)), Lsn(50));
    in_progress.reached(Lsn(60));
    assert_eq!(in_progress.confirmable(Lsn(900)), Lsn(60));
    feed(&mut in_progress, &[prepare(b'b', 1, 70), prepare(b'P', 1, 70)]);
    in_progress.reached(Lsn(400));
    assert_eq!(in_progress.confirmable(Lsn(900)), Lsn(70));
    // Sent again in full because the slot had no two-phase commit then.
    feed(&mut in_progress, &[prepare(b'b', 2, 30), prepare(b'P', 2, 30)]);
    assert_eq!(in_progress.confirmable(Lsn(900)), Lsn(70), "never less than before");
}

#[test]
fn a_relation_that_came_with_a_prepared_transaction_is_given_before_it_is_needed() {
    let mut in_progress = in_progress(64);
    let relation = message(b'R', &[&7u32.to_be_bytes()]);
    let insert = || message(b'I', &[&7u32.to_be_bytes()]);
    let begin = message(b'B', &[&300u64.to_be_bytes(), &[0; 12]]);
    let prepared = [prepare(b'b', 1, 200), relation, insert(), prepare(b'P', 1, 200)];
    assert_eq!(feed(&mut in_progress, &prepared), []);
    let second = [prepare(b'b', 2, 210), insert(), prepare(b'P', 2, 210)];
    assert_eq!(feed(&mut in_progress, &second), []);
    let expected = [
        Given::Begin(220),
        Given::Relation,
        Given::Change(7),
        Given::Commit,
        Given::Begin(300),
        Given::Change(7),
        Given::Change(7),
    ];
    let others = [commit_prepared(2, 220), begin, insert(), insert()];
    assert_eq!(feed(&mut in_progress, &others), expected);
}

#[test]
fn a_prepared_transaction_s_own_relations_stay_where_they_were_among_its_changes() {
    let mut in_progress = in_progress(64);
    let relation = |columns: u8| message(b'R', &[&7u32.to_be_bytes(), &[columns]]);
    let insert = || message(b'I', &[&7u32.to_be_bytes()]);
    let begin = |commit: u64| message(b'B', &[&commit.to_be_bytes(), &[0; 12]]);
    let known = [begin(150), relation(1), message(b'C', &[&commit_fields(150)])];
    feed(&mut in_progress, &known);
    // It changes the table's columns.
    let altering = |xid: u32, at: u64| {
        [
            prepare(b'b', xid, at),
            insert(),
            relation(2),
            insert(),
            prepare(b'P', xid, at),
        ]
    };
    let read = |commit: u64| {
        [
            Given::Begin(commit),
            Given::Change(7),
            Given::Relation,
            Given::Change(7),
            Given::Commit,
        ]
    };
    assert_eq!(feed(&mut in_progress, &altering(1, 200)), []);
    assert_eq!(feed(&mut in_progress, &[commit_prepared(1, 210)]), read(210));
    assert_eq!(
        feed(&mut in_progress, &[begin(220), insert()]),
        [Given::Begin(220), Given::Change(7)]
    );

    // What another described that is rolled back, it needs as well.
    let described = [
        prepare(b'b', 2, 300),
        relation(1),
        insert(),
        prepare(b'P', 2, 300),
        rollback_prepared(2),
    ];
    assert_eq!(feed(&mut in_progress, &described), []);
    assert_eq!(feed(&mut in_progress, &altering(3, 310)), []);
    let mut expected = read(320).to_vec();
    expected.insert(1, Given::Relation);
    assert_eq!(feed(&mut in_progress, &[commit_prepared(3, 320)]), expected);
}

#[test]
fn a_commit_of_a_transaction_that_never_came_ends_the_stream_unless_it_is_held() {
    let mut in_progress = in_progress(64);
    assert_eq!(feed(&mut in_progress, &[commit_prepared(1, HELD.0)]), []);
    let error = in_progress.take(&commit_prepared(1, HELD.0 + 1)).unwrap_err();
    assert_eq!(error.error_code(), Some("PG0043"));
}

#[test]
fn of_what_the_target_holds_only_the_relations_are_given() {
    let mut in_progress = in_progress(64);
    let held = [Given::Begin(HELD.0), Given::Relation, Given::Commit];
    let begin = message(b'B', &[&HELD.0.to_be_bytes(), &[0; 12]]);
    let whole = [
        begin,
        b"R".to_vec(),
        b"I".to_vec(),
        b"M".to_vec(),
        message(b'C', &[&commit_fields(HELD.0)]),
    ];
    assert_eq!(feed(&mut in_progress, &whole), held);
    let in_parts = [
        start(1, true),
        message(b'R', &[&1u32.to_be_bytes()]),
        change(1, 10),
        stop(),
        commit(1, HELD.0),
    ];
    assert_eq!(feed(&mut in_progress, &in_parts), held);
}

/// A transaction of the model: its open savepoints, and its messages with the subtransaction of each.
#[derive(Debug, Default)]
struct Open {
    savepoints: Vec<u32>,
    messages: Vec<(u32, u32)>,
    /// Released into another subtransaction: (it, the one that it is a part of now).
    released: Vec<(u32, u32)>,
    sent: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Part(usize),
    Savepoint,
    Release,
    RollBack,
    Abort,
    Commit,
}

fn step() -> impl Strategy<Value = (u32, Step)> {
    let step = prop_oneof![
        6 => (1usize..6).prop_map(Step::Part),
        3 => Just(Step::Savepoint),
        2 => Just(Step::Release),
        2 => Just(Step::RollBack),
        1 => Just(Step::Abort),
        1 => Just(Step::Commit),
    ];
    (0u32..4, step)
}

proptest! {
    /// Transactions with savepoints, in parts among each other as a server sends them: what is
    /// given is what committed, in the order of the commits.
    #[test]
    fn what_is_given_is_what_committed(steps in proptest::collection::vec(step(), 0..300), budget in 32usize..2000) {
        let mut in_progress = in_progress(budget);
        let mut open: HashMap<u32, (u32, Open)> = HashMap::new();
        let (mut next_xid, mut number, mut lsn) = (10u32, 0u32, 1000u64);
        let (mut messages, mut expected) = (Vec::new(), Vec::new());
        for (session, step) in steps {
            let (xid, transaction) = open.entry(session).or_insert_with(|| {
                next_xid += 1;
                (next_xid, Open::default())
            });
            let xid = *xid;
            match step {
                Step::Part(count) => {
                    messages.push(start(xid, !transaction.sent));
                    transaction.sent = true;
                    let subxid = transaction.savepoints.last().copied().unwrap_or(xid);
                    for _ in 0..count {
                        number += 1;
                        messages.push(change(subxid, number));
                        transaction.messages.push((subxid, number));
                    }
                    messages.push(stop());
                }
                Step::Savepoint => {
                    next_xid += 1;
                    transaction.savepoints.push(next_xid);
                }
                Step::Release => {
                    if let Some(released) = transaction.savepoints.pop() {
                        let parent = transaction.savepoints.last().copied().unwrap_or(xid);
                        transaction.released.push((released, parent));
                    }
                }
                Step::RollBack => {
                    if let Some(undone) = transaction.savepoints.pop() {
                        let mut gone = vec![undone];
                        // Those released into it, and into these: the latest were released last.
                        for (released, parent) in transaction.released.iter().rev() {
                            if gone.contains(parent) {
                                gone.push(*released);
                            }
                        }
                        for subxid in gone.iter().rev() {
                            // The server tells of those that it has sent something of.
                            if transaction.messages.iter().any(|(of, _)| of == subxid) {
                                messages.push(abort(xid, *subxid));
                            }
                        }
                        transaction.messages.retain(|(of, _)| !gone.contains(of));
                    }
                }
                Step::Abort | Step::Commit => {
                    let (_, ended) = open.remove(&session).unwrap_or_default();
                    if ended.sent && matches!(step, Step::Abort) {
                        messages.push(abort(xid, xid));
                    } else if ended.sent {
                        lsn += 8;
                        messages.push(commit(xid, lsn));
                        let numbers: Vec<u32> = ended.messages.iter().map(|(_, number)| *number).collect();
                        expected.extend(whole(lsn, &numbers));
                    }
                }
            }
        }
        prop_assert_eq!(feed(&mut in_progress, &messages), expected);
    }
}
