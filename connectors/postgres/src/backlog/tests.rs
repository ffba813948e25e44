//! A backlog on disk, without a server.

use super::block::Block;
use super::*;

fn config(folder: &std::path::Path, size: &str) -> Settings {
    let config = serde_json::json!({
        "url": "postgres://a@b", "publication": "p", "tables": ["t"], "slot": "watched",
        "wal_budget": {"bytes": "1GiB", "backlog": {"folder": folder.to_str().unwrap(), "size": size}},
    });
    Settings::read("p", "s", &serde_json::from_value(config).unwrap()).unwrap()
}

/// A block with one message, of about `len` bytes.
fn block(text: &str, len: usize, end: u64) -> Vec<u8> {
    let mut block = Block::new();
    block.push(&[text.as_bytes(), &vec![b'.'; len]].concat());
    block.seal(Lsn(end))
}

/// The first letter of each message that is there behind `after`.
async fn read(backlog: &Arc<Backlog>, after: u64) -> String {
    let mut reader = Reader::new(backlog.clone(), Lsn(after));
    let mut found = String::new();
    while reader.fill().await.unwrap() > 0 {
        while let Some(Entry::Message(message)) = reader.next_buffered() {
            found.push(char::from(message[0]));
        }
    }
    found
}

#[tokio::test]
async fn it_is_read_from_any_place_and_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let settings = config(folder.path(), "16MiB");
    let open = || Backlog::of(&settings, "s").unwrap().unwrap();
    let backlog = open();
    assert_eq!((backlog.range(), backlog.server()), (None, None));
    backlog.begin(Lsn(10), "server", 0).unwrap();
    // Segments are a quarter of all.
    assert!(!backlog.append(&block("a", 100, 20), Lsn(20), true, 0).unwrap());
    assert!(backlog.append(&block("b", 5 << 20, 30), Lsn(30), true, 0).unwrap());
    assert!(
        !backlog.append(&block("c", 5 << 20, 30), Lsn(30), false, 0).unwrap(),
        "a transaction is read"
    );
    assert!(backlog.append(&block("d", 100, 40), Lsn(40), true, 0).unwrap());
    let range = |begins, end| {
        Some(Range {
            begins: Lsn(begins),
            end: Lsn(end),
        })
    };
    assert_eq!(backlog.range(), range(10, 40));
    assert_eq!(read(&backlog, 10).await, "abcd");
    assert_eq!(read(&backlog, 29).await, "abcd");
    assert_eq!(read(&backlog, 30).await, "cd");
    drop(backlog);

    let backlog = open();
    assert_eq!(
        (backlog.range(), backlog.server().as_deref()),
        (range(10, 40), Some("server"))
    );
    assert_eq!(read(&backlog, 10).await, "abcd");
    backlog.held(Lsn(29)).unwrap();
    assert_eq!(backlog.range(), range(10, 40));
    backlog.held(Lsn(35)).unwrap();
    assert_eq!(backlog.range(), range(30, 40));
    assert_eq!(read(&backlog, 35).await, "cd");
    assert!(!backlog.clear(Some(Lsn(39))).unwrap(), "it has more");
    assert!(backlog.announce() && !backlog.clear(None).unwrap());
    backlog.closed();
    assert!(backlog.clear(Some(Lsn(40))).unwrap());
    drop(backlog);
    let backlog = open();
    assert_eq!((backlog.range(), backlog.server()), (None, None));
    let names = std::fs::read_dir(folder.path().join("millstream_p_s")).unwrap();
    assert_eq!(names.count(), 1, "the lock");
}

#[tokio::test]
async fn what_a_crash_cut_off_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = config(folder.path(), "16MiB");
    let open = || Backlog::of(&settings, "s").unwrap().unwrap();
    let backlog = open();
    backlog.begin(Lsn(10), "server", 0).unwrap();
    backlog.append(&block("a", 100, 20), Lsn(20), true, 0).unwrap();
    let segment = folder.path().join("millstream_p_s").join("000000000000000A.wal");
    let whole = std::fs::metadata(&segment).unwrap().len();
    backlog.append(&block("b", 100, 30), Lsn(30), true, 0).unwrap();
    drop(backlog);
    let all = std::fs::read(&segment).unwrap();
    for cut in [whole + 1, whole + 24, all.len() as u64 - 1] {
        std::fs::write(&segment, &all[..usize::try_from(cut).unwrap()]).unwrap();
        let backlog = open();
        assert_eq!(backlog.range().unwrap().end, Lsn(20), "cut at {cut}");
        assert_eq!(read(&backlog, 10).await, "a");
        backlog.append(&block("c", 10, 25), Lsn(25), true, 0).unwrap();
        assert_eq!(read(&backlog, 10).await, "ac");
    }
    // One whose beginning was cut off is none.
    std::fs::remove_file(folder.path().join("millstream_p_s").join("server")).unwrap();
    assert_eq!(open().range(), None);
}

#[tokio::test]
async fn a_reader_waits_for_what_is_written_and_asks_for_the_end_when_the_target_keeps_up() {
    let folder = tempfile::tempdir().unwrap();
    let backlog = Backlog::of(&config(folder.path(), "16MiB"), "s").unwrap().unwrap();
    assert!(backlog.announce() && !backlog.announce());
    let mut reader = Reader::new(backlog.clone(), Lsn(10));
    let writer = backlog.clone();
    let written = tokio::task::spawn_blocking(move || {
        writer.begin(Lsn(10), "server", 1).unwrap();
        writer.append(&block("a", 10, 20), Lsn(20), true, 1).unwrap();
    });
    assert!(reader.fill().await.unwrap() > 0);
    written.await.unwrap();
    // What was announced before it is not written any more.
    assert!(backlog.append(&block("x", 10, 99), Lsn(99), true, 0).is_err());
    reader.held(Lsn(1000));
    assert_eq!(backlog.phase(), Phase::Filling, "not all was read yet");
    let waits = tokio::time::timeout(std::time::Duration::from_millis(20), reader.fill());
    assert!(waits.await.is_err());
    reader.held(Lsn(20));
    assert_eq!(backlog.phase(), Phase::Filling, "the log's end is far");
    backlog.is_level_now();
    let waits = tokio::time::timeout(std::time::Duration::from_millis(20), reader.fill());
    assert!(waits.await.is_err());
    reader.held(Lsn(19));
    assert_eq!(backlog.phase(), Phase::Filling);
    reader.held(Lsn(20));
    assert_eq!(backlog.phase(), Phase::Closing);
    backlog.append(&block("b", 10, 30), Lsn(30), true, 1).unwrap();
    backlog.closed();
    assert!(reader.fill().await.unwrap() > 0);
    assert_eq!(reader.fill().await.unwrap(), 0);
}

#[tokio::test]
async fn a_full_one_is_not_filled_and_a_damaged_one_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let backlog = Backlog::of(&config(folder.path(), "16MiB"), "s").unwrap().unwrap();
    backlog.begin(Lsn(10), "server", 0).unwrap();
    backlog.append(&block("a", 15 << 20, 20), Lsn(20), true, 0).unwrap();
    assert!(!backlog.announce());
    let segment = folder.path().join("millstream_p_s").join("000000000000000A.wal");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let mut reader = Reader::new(backlog.clone(), Lsn(10));
    assert_eq!(reader.fill().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn two_processes_do_not_share_one() {
    let folder = tempfile::tempdir().unwrap();
    let _other = segments::open(&folder.path().join("millstream_p_s")).unwrap();
    let error = Backlog::of(&config(folder.path(), "16MiB"), "s").unwrap_err();
    assert_eq!(error.error_code(), Some("PG0056"));
    assert!(error.hint_text().unwrap().contains("another process"));
}

#[tokio::test]
async fn a_segment_that_is_missing_is_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let settings = config(folder.path(), "16MiB");
    let open = || Backlog::of(&settings, "s").unwrap().unwrap();
    let backlog = open();
    backlog.begin(Lsn(10), "server", 0).unwrap();
    for (text, end) in [("a", 20), ("b", 30), ("c", 40)] {
        assert!(backlog.append(&block(text, 5 << 20, end), Lsn(end), true, 0).unwrap());
    }
    drop(backlog);
    std::fs::remove_file(folder.path().join("millstream_p_s").join("0000000000000014.wal")).unwrap();
    let mut reader = Reader::new(open(), Lsn(10));
    assert!(reader.fill().await.unwrap() > 0);
    assert_eq!(reader.fill().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}
