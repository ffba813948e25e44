//! The messages around pgoutput's (PostgreSQL manual, 55.4 "Streaming Replication Protocol").

use bytes::{Buf, BufMut};

use crate::decode::Lsn;
use crate::wire::WireError;

/// 2000-01-01 in microseconds since the Unix epoch: where the server's clock starts.
const EPOCH: i64 = 946_684_800_000_000;

/// What the server sends in a replication stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Envelope<'a> {
    /// `w`: WAL data, here one pgoutput message.
    Data {
        data: &'a [u8],
        /// When it was sent, by the server's clock, in microseconds since the Unix epoch.
        sent: i64,
    },
    /// `k`: everything that ends before `wal_end` was sent.
    KeepAlive {
        wal_end: Lsn,
        /// Whether the server closes the connection unless it is answered soon.
        reply: bool,
    },
}

impl<'a> Envelope<'a> {
    pub(crate) fn parse(content: &'a [u8]) -> Result<Self, WireError> {
        let malformed = || WireError::Protocol("a malformed replication message".to_owned());
        let (&tag, mut rest) = content.split_first().ok_or_else(malformed)?;
        match tag {
            b'w' if rest.len() >= 24 => {
                // Where it starts, and the end of the log.
                rest.advance(16);
                let sent = rest.get_i64().saturating_add(EPOCH);
                Ok(Self::Data { data: rest, sent })
            }
            b'k' if rest.len() == 17 => {
                let wal_end = Lsn(rest.get_u64());
                rest.advance(8);
                Ok(Self::KeepAlive {
                    wal_end,
                    reply: rest.get_u8() == 1,
                })
            }
            _ => Err(malformed()),
        }
    }
}

/// A standby status update that reports `confirmed` as written, flushed and applied. Written is
/// not reported further than flushed, because a server that believes all was written sends no
/// keepalive when it has caught up, and those tell how far an idle log has moved.
pub(crate) fn status_update(confirmed: Lsn, unix_micros: i64, ask_for_reply: bool) -> [u8; 34] {
    let mut message = [0; 34];
    let mut out = &mut message[..];
    out.put_u8(b'r');
    for _written_flushed_applied in 0..3 {
        out.put_u64(confirmed.0);
    }
    out.put_i64(unix_micros - EPOCH);
    out.put_u8(ask_for_reply.into());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_told_apart() {
        let mut data = vec![b'w'];
        data.extend([0; 16]);
        data.extend(5i64.to_be_bytes());
        data.extend(b"BEGIN");
        let expected = Envelope::Data {
            data: b"BEGIN",
            sent: EPOCH + 5,
        };
        assert_eq!(Envelope::parse(&data).unwrap(), expected);
        assert!(Envelope::parse(&data[..24]).is_err());
        let mut keepalive = vec![b'k'];
        keepalive.extend(7u64.to_be_bytes());
        keepalive.extend([0; 8]);
        keepalive.push(1);
        assert_eq!(
            Envelope::parse(&keepalive).unwrap(),
            Envelope::KeepAlive {
                wal_end: Lsn(7),
                reply: true
            }
        );
        assert!(Envelope::parse(&keepalive[..17]).is_err());
        assert!(Envelope::parse(b"x").is_err());
    }

    #[test]
    fn a_status_names_one_lsn_three_times_and_the_servers_time() {
        let message = status_update(Lsn(0x0102), EPOCH + 5, true);
        assert_eq!(message[0], b'r');
        assert_eq!(message[1..9], message[9..17]);
        assert_eq!(message[1..9], [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(message[25..33], 5i64.to_be_bytes());
        assert_eq!(message[33], 1);
    }
}
