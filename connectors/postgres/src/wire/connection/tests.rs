use std::pin::Pin;
use std::task::Context;

use tokio::io::{AsyncRead, ReadBuf};

use super::*;

#[test]
fn a_frame_is_found_when_all_of_it_is_there() {
    assert_eq!(frame(b"d\0\0\0").unwrap(), None);
    assert_eq!(frame(b"d\0\0\0\x06a").unwrap(), None);
    assert_eq!(frame(b"d\0\0\0\x06abE").unwrap(), Some((b'd', 7)));
    assert!(frame(b"d\0\0\0\x03").is_err());
    assert!(frame(b"d\xff\0\0\x03").is_err());
}

#[test]
fn the_memory_of_a_huge_message_is_given_back() {
    let mut buffer = BytesMut::zeroed(3 * LONGEST_KEPT);
    buffer.extend_from_slice(b"next");
    let mut consumed = 3 * LONGEST_KEPT;
    consume(&mut buffer, &mut consumed);
    assert_eq!((&buffer[..], consumed), (&b"next"[..], 0));
    buffer.reserve(READ_BYTES);
    assert!(buffer.capacity() < LONGEST_KEPT, "{}", buffer.capacity());
}

impl Duplex for tokio::io::DuplexStream {
    fn rest(&mut self) {}
}

/// Gives one piece of so many bytes at each read, and then nothing for ever.
struct Pieces(std::vec::IntoIter<usize>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(bytes) = self.0.next() else {
            return Poll::Pending;
        };
        into.put_slice(&vec![0; bytes]);
        Poll::Ready(Ok(()))
    }
}

impl Duplex for tokio::io::Join<Pieces, tokio::io::Sink> {
    fn rest(&mut self) {}
}

#[tokio::test]
async fn a_read_is_repeated_where_more_must_be_there_and_under_tls() {
    for (encrypted, pieces, taken) in [
        (false, vec![100, 100], 100),
        (false, vec![MOST_AT_ONCE, 100, 100], MOST_AT_ONCE + 100),
        (true, vec![100, 100], 200),
    ] {
        let (mut connection, _theirs) = after(b"").await;
        connection.stream = Box::new(tokio::io::join(Pieces(pieces.into_iter()), tokio::io::sink()));
        connection.encrypted = encrypted;
        assert_eq!(connection.fill().await.unwrap(), taken);
    }
}

#[tokio::test]
async fn half_a_message_is_made_whole_before_the_next_and_before_a_goodbye() {
    for says_more in [false, true] {
        let (mut connection, _) = after(b"").await;
        let (ours, mut theirs) = tokio::io::duplex(16);
        connection.stream = Box::new(ours);
        let mut stream = ReplicationStream {
            connection,
            consumed: 0,
        };
        let long = [b'l'; 100];
        let waited = Duration::from_millis(20);
        assert!(timeout(waited, stream.send(&long)).await.is_err(), "nobody reads");
        let goodbye = async {
            if says_more {
                stream.send(b"short").await.unwrap();
            }
            stream.close().await;
        };
        let mut bytes = Vec::new();
        let (_, read) = tokio::join!(goodbye, theirs.read_to_end(&mut bytes));
        read.unwrap();
        let mut said = BytesMut::from(&bytes[..]);
        let mut messages = Vec::new();
        while let Some((tag, length)) = frame(&said).unwrap() {
            messages.push((tag, said.split_to(length)[5..].to_vec()));
        }
        assert!(said.is_empty(), "{said:?}");
        let mut expected = vec![(b'd', long.to_vec())];
        expected.extend(says_more.then(|| (b'd', b"short".to_vec())));
        expected.push((b'X', Vec::new()));
        assert_eq!(messages, expected);
    }
}

/// A connection on which the server said `bytes` and hung up, and the server's end.
async fn after(bytes: &[u8]) -> (Connection, tokio::io::DuplexStream) {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    theirs.write_all(bytes).await.unwrap();
    theirs.shutdown().await.unwrap();
    let connection = Connection {
        stream: Box::new(ours),
        inbound: BytesMut::new(),
        outbound: BytesMut::new(),
        encrypted: false,
        local: false,
        end_point: None,
        channel_bound: false,
        backend_pid: 0,
        server_version: 0,
        in_recovery: None,
        read_only: None,
    };
    (connection, theirs)
}

#[tokio::test]
async fn the_servers_last_words_are_not_lost() {
    let fatal = |before: &[u8]| [before, b"E\0\0\0\x1aSFATAL\0VFATAL\0C57P01\0\0"].concat();
    let code = |error: WireError| error.sqlstate().map(str::to_owned).unwrap();
    let (mut connection, _theirs) = after(&fatal(b"")).await;
    assert_eq!(code(connection.query("SELECT 1").await.unwrap_err()), "57P01");
    let (mut connection, _theirs) = after(&fatal(b"")).await;
    connection.begin_copy_out("COPY").await.unwrap();
    assert_eq!(code(connection.copy_out().await.err().unwrap()), "57P01");
    let (mut connection, _theirs) = after(&fatal(b"H\0\0\0\x07\0\0\0d\0\0\0\x05x")).await;
    connection.begin_copy_out("COPY").await.unwrap();
    let mut copy = connection.copy_out().await.unwrap();
    assert_eq!(copy.next().await.unwrap().unwrap().collect::<Vec<_>>(), [b"x"]);
    assert_eq!(code(copy.next().await.unwrap_err()), "57P01");
    let (connection, _theirs) = after(&fatal(b"")).await;
    assert_eq!(code(connection.replicate("START").await.err().unwrap()), "57P01");
}

/// The contents of the next messages, `most` of them at most.
async fn some(copy: &mut CopyOut<'_>, most: usize) -> Option<Vec<Vec<u8>>> {
    let messages = copy.next().await.unwrap()?;
    Some(messages.take(most).map(<[u8]>::to_vec).collect())
}

#[tokio::test]
async fn rows_of_a_copy_come_as_they_are_there_and_none_is_lost() {
    let begin = b"H\0\0\0\x07\0\0\0d\0\0\0\x05ad\0\0\0\x04d\0\0\0\x06bbN\0\0\0\x05\0d\0\0\0\x05cd\0\0\0\x05";
    let (mut connection, _) = after(b"").await;
    let (ours, mut theirs) = tokio::io::duplex(1024);
    connection.stream = Box::new(ours);
    theirs.write_all(begin).await.unwrap();
    connection.begin_copy_out("COPY").await.unwrap();
    let mut copy = connection.copy_out().await.unwrap();
    assert_eq!(some(&mut copy, 1).await.unwrap(), [b"a"]);
    assert_eq!(some(&mut copy, 0).await.unwrap(), [b""; 0]);
    assert_eq!(some(&mut copy, 9).await.unwrap(), [&b""[..], b"bb"]);
    assert_eq!(some(&mut copy, 9).await.unwrap(), [b"c"], "behind a notice");
    theirs
        .write_all(b"dc\0\0\0\x04C\0\0\0\x05\0Z\0\0\0\x05I")
        .await
        .unwrap();
    assert_eq!(some(&mut copy, 9).await.unwrap(), [b"d"], "whose last byte came apart");
    assert_eq!(some(&mut copy, 9).await, None);
}

/// The reader has its turn after each row, and would read each by itself if it were woken.
#[tokio::test]
async fn rows_that_come_one_by_one_are_read_together() {
    const ROWS: usize = 500;
    let (mut connection, _) = after(b"").await;
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    connection.stream = Box::new(ours);
    let send = async {
        theirs.write_all(b"H\0\0\0\x07\0\0\0").await.unwrap();
        for _ in 0..ROWS {
            theirs.write_all(b"d\0\0\0\x05x").await.unwrap();
            tokio::task::yield_now().await;
        }
        theirs.write_all(b"c\0\0\0\x04Z\0\0\0\x05I").await.unwrap();
    };
    let read = async {
        connection.begin_copy_out("COPY").await.unwrap();
        let mut copy = connection.copy_out().await.unwrap();
        let (mut reads, mut rows) = (0, 0);
        while let Some(messages) = some(&mut copy, ROWS).await {
            reads += 1;
            rows += messages.len();
        }
        (reads, rows)
    };
    let ((), (reads, rows)) = tokio::join!(send, read);
    assert_eq!(rows, ROWS);
    assert!(reads <= ROWS / 2, "{reads} reads");
}

#[tokio::test]
async fn what_is_wrong_behind_rows_is_told_after_them() {
    for (behind, told) in [
        (&b"d\0\0\0\x03"[..], "3 bytes"),
        (b"?\0\0\0\x04", "message `?` during COPY"),
        (b"E\0\0\0\x17SERROR\0C22012\0Moh\0\0Z\0\0\0\x05I", "22012"),
    ] {
        let rows = b"H\0\0\0\x07\0\0\0d\0\0\0\x05ad\0\0\0\x05b";
        let (mut connection, _theirs) = after(&[&rows[..], behind].concat()).await;
        connection.begin_copy_out("COPY").await.unwrap();
        let mut copy = connection.copy_out().await.unwrap();
        assert_eq!(some(&mut copy, 1).await.unwrap(), [b"a"]);
        assert_eq!(some(&mut copy, 9).await.unwrap(), [b"b"]);
        let error = copy.next().await.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn versions_are_read() {
    assert_eq!(version_number("15.4 (Debian 15.4-1)"), 150_004);
    assert_eq!(version_number("17beta1"), 170_000);
}
