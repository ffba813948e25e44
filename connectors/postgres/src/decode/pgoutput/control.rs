//! Messages that say which transaction others belong to, and what becomes of it: protocol
//! versions 2 (transactions in progress), 3 (two-phase commit) and 4 (where an abort is).
//!
//! PostgreSQL manual, 55.9 "Logical Replication Message Formats". Between `Stream Start` and
//! `Stream Stop` every message but `Origin` has the transaction's or subtransaction's number
//! behind its tag; [`streamed`] takes it out.

use super::{Result, lsn, time};
use crate::decode::reader::Reader;
use crate::decode::{Lsn, ProtocolError};

/// One such message. Transactions are named by the number (`xid`) of their topmost one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control<'a> {
    /// `S`: what follows belongs to a transaction in progress, or to a subtransaction of it.
    StreamStart {
        xid: u32,
        /// Whether nothing was sent of it before.
        first: bool,
    },
    /// `E`: what follows belongs to it no more.
    StreamStop,
    /// `c`: a transaction that was sent while in progress commits.
    StreamCommit { xid: u32, committed: Committed<'a> },
    /// `A`: a subtransaction is rolled back, or with `subxid` the same as `xid` all of it.
    StreamAbort { xid: u32, subxid: u32 },
    /// `b`: a transaction that is about to be prepared follows, up to its `Prepare`.
    BeginPrepare { xid: u32 },
    /// `P`: it is prepared, by a record that begins at `at`.
    Prepare { xid: u32, at: Lsn },
    /// `p`: the same for a transaction that was sent while in progress.
    StreamPrepare { xid: u32, at: Lsn },
    /// `K`: `COMMIT PREPARED`
    CommitPrepared { xid: u32, committed: Committed<'a> },
    /// `r`: `ROLLBACK PREPARED`
    RollbackPrepared { xid: u32 },
}

/// How a transaction committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Committed<'a> {
    /// Where the commit record begins.
    pub(crate) lsn: Lsn,
    /// The fields of a `Commit` message: flags, commit LSN, end LSN, time.
    fields: &'a [u8],
}

impl Committed<'_> {
    /// The messages `Begin` and `Commit` that frame the transaction when it is sent whole.
    pub(crate) fn frame(&self, xid: u32) -> (Vec<u8>, Vec<u8>) {
        let (commit_lsn, time) = (&self.fields[1..9], &self.fields[17..25]);
        let begin = [b"B", commit_lsn, time, &xid.to_be_bytes()].concat();
        (begin, [b"C", self.fields].concat())
    }
}

impl<'a> Control<'a> {
    /// Reads one message; `None` if it is of another kind.
    ///
    /// # Errors
    /// A [`ProtocolError`]; never panics, whatever the bytes.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Option<Self>> {
        let Some((&tag @ (b'S' | b'E' | b'c' | b'A' | b'b' | b'P' | b'p' | b'K' | b'r'), rest)) = bytes.split_first()
        else {
            return Ok(None);
        };
        let mut reader = Reader::new(rest);
        let control = read(tag, &mut reader)?;
        reader.end()?;
        Ok(Some(control))
    }
}

fn read<'a>(tag: u8, reader: &mut Reader<'a>) -> Result<Control<'a>> {
    Ok(match tag {
        b'S' => Control::StreamStart {
            xid: reader.u32()?,
            first: reader.u8()? == 1,
        },
        b'E' => Control::StreamStop,
        b'c' => Control::StreamCommit {
            xid: reader.u32()?,
            committed: committed(reader)?,
        },
        b'A' => {
            let (xid, subxid) = (reader.u32()?, reader.u32()?);
            // Sent where `streaming` is `parallel`.
            if !reader.rest().is_empty() {
                let (_abort_lsn, _aborted_at) = (lsn(reader)?, time(reader)?);
            }
            Control::StreamAbort { xid, subxid }
        }
        b'b' => Control::BeginPrepare {
            xid: prepare(reader)?.0,
        },
        b'P' | b'p' => {
            let _unused_flags = reader.u8()?;
            let (xid, at) = prepare(reader)?;
            match tag {
                b'P' => Control::Prepare { xid, at },
                _ => Control::StreamPrepare { xid, at },
            }
        }
        b'K' => {
            let committed = committed(reader)?;
            let xid = reader.u32()?;
            let _gid = reader.terminated()?;
            Control::CommitPrepared { xid, committed }
        }
        b'r' => {
            let _unused_flags = reader.u8()?;
            let (_prepare_end, _rollback_end) = (lsn(reader)?, lsn(reader)?);
            let (_prepared_at, _rolled_back_at) = (time(reader)?, time(reader)?);
            let xid = reader.u32()?;
            let _gid = reader.terminated()?;
            Control::RollbackPrepared { xid }
        }
        unknown => return Err(ProtocolError::UnknownMessage(unknown)),
    })
}

fn committed<'a>(reader: &mut Reader<'a>) -> Result<Committed<'a>> {
    let fields = reader.bytes(25)?;
    let commit = super::read_commit(&mut Reader::new(fields))?;
    Ok(Committed {
        lsn: commit.commit_lsn,
        fields,
    })
}

/// What the messages about a prepared transaction share: its number, and where its record is.
fn prepare(reader: &mut Reader<'_>) -> Result<(u32, Lsn)> {
    let (at, _end_lsn) = (lsn(reader)?, lsn(reader)?);
    let _prepared_at = time(reader)?;
    let xid = reader.u32()?;
    let _gid = reader.terminated()?;
    Ok((xid, at))
}

/// Takes the number of the transaction or subtransaction out of a message between `Stream
/// Start` and `Stream Stop`. Its tag and what is left are the message as protocol 1 has it.
///
/// # Errors
/// `Truncated` if there is none.
pub(crate) fn streamed(message: &[u8]) -> Result<(u8, u32, &[u8])> {
    let mut reader = Reader::new(message);
    let (tag, xid) = (reader.u8()?, reader.u32()?);
    Ok((tag, xid, reader.rest()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Message, parse};
    use super::*;

    const XID: [u8; 4] = 7u32.to_be_bytes();

    fn long(n: u64) -> [u8; 8] {
        n.to_be_bytes()
    }

    fn one(fields: &[&[u8]]) -> Control<'static> {
        let bytes: &'static [u8] = fields.concat().leak();
        // Every shorter form is refused, but for an abort that does not say where it is.
        for len in 1..bytes.len() {
            let short = Control::parse(&bytes[..len]);
            assert!(short.is_err() || (bytes[0] == b'A' && len == 9), "{len} of {bytes:?}");
        }
        assert!(Control::parse(&[bytes, &[0]].concat()).is_err());
        Control::parse(bytes).unwrap().unwrap()
    }

    #[test]
    fn a_transaction_in_progress_is_framed() {
        let xid = 7;
        assert_eq!(one(&[b"S", &XID, &[1]]), Control::StreamStart { xid, first: true });
        assert_eq!(one(&[b"S", &XID, &[0]]), Control::StreamStart { xid, first: false });
        assert_eq!(one(&[b"E"]), Control::StreamStop);
        let subxid = 9;
        let abort = Control::StreamAbort { xid, subxid };
        let sub = subxid.to_be_bytes();
        let plain = [b"A".as_slice(), &XID, &sub].concat();
        assert_eq!(Control::parse(&plain), Ok(Some(abort)));
        assert_eq!(one(&[b"A", &XID, &sub, &long(5), &long(6)]), abort);
    }

    #[test]
    fn a_commit_becomes_the_frame_of_a_whole_transaction() {
        let fields = [&[0][..], &long(40), &long(48), &long(6)].concat();
        for control in [one(&[b"c", &XID, &fields]), one(&[b"K", &fields, &XID, b"gid\0"])] {
            let (Control::StreamCommit { xid, committed } | Control::CommitPrepared { xid, committed }) = control
            else {
                panic!("{control:?}")
            };
            let (begin, commit) = committed.frame(xid);
            let (Ok(Message::Begin(begin)), Ok(Message::Commit(commit))) = (parse(&begin), parse(&commit)) else {
                panic!("not a frame")
            };
            assert_eq!((begin.final_lsn, commit.commit_lsn), (Lsn(40), Lsn(40)));
            assert_eq!(begin.committed_at, commit.committed_at);
            assert_eq!(begin.committed_at, 946_684_800_000_006);
        }
    }

    #[test]
    fn two_phase_commit_is_read() {
        let prepared = [&long(40)[..], &long(48), &long(6), &XID, b"gid\0"].concat();
        let (xid, at) = (7, Lsn(40));
        assert_eq!(one(&[b"b", &prepared]), Control::BeginPrepare { xid });
        assert_eq!(one(&[b"P", &[0], &prepared]), Control::Prepare { xid, at });
        assert_eq!(one(&[b"p", &[0], &prepared]), Control::StreamPrepare { xid, at });
        let rolled_back = [&[0][..], &long(48), &long(60), &long(6), &long(7), &XID, b"gid\0"].concat();
        assert_eq!(one(&[b"r", &rolled_back]), Control::RollbackPrepared { xid });
    }

    #[test]
    fn a_message_of_a_transaction_in_progress_has_its_number_behind_the_tag() {
        let message = [b"I".as_slice(), &XID, b"body"].concat();
        assert_eq!(streamed(&message), Ok((b'I', 7, b"body".as_slice())));
        assert_eq!(streamed(&message[..4]), Err(ProtocolError::Truncated));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            tag in proptest::sample::select(b"SEcAbPpKrIRx".to_vec()),
            body in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let message = [&[tag][..], &body].concat();
            let _ = streamed(&message);
            match Control::parse(&message) {
                Ok(Some(Control::StreamCommit { xid, committed } | Control::CommitPrepared { xid, committed })) => {
                    let (begin, commit) = committed.frame(xid);
                    prop_assert!(parse(&begin).is_ok() && parse(&commit).is_ok());
                }
                Ok(None) => prop_assert!(b"IRx".contains(&tag)),
                _ => {}
            }
        }
    }
}
