//! Messages of the `pgoutput` plug-in as protocol version 1 has them, without a copy. What the
//! later versions add is in [`control`].
//!
//! PostgreSQL manual, 55.5 "Logical Streaming Replication Protocol" and 55.9 "Logical
//! Replication Message Formats". Times on the wire count microseconds from 2000-01-01; here
//! they count from 1970-01-01.

pub(crate) mod control;

use super::calendar::EPOCH_OFFSET_MICROS;
use super::reader::Reader;
use super::tuple::Tuple;
use super::{Lsn, ProtocolError};

type Result<T> = std::result::Result<T, ProtocolError>;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// `B`: a transaction follows, whole.
    Begin(Begin),
    /// `C`: its end.
    Commit(Commit),
    /// `R`: the columns of a table, before its first change and after each change of them.
    Relation(Relation<'a>),
    /// `I`
    Insert {
        /// The table's OID.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// `U`
    Update {
        /// The table's OID.
        relation: u32,
        /// The row before, as far as it was sent.
        old: Option<OldTuple<'a>>,
        /// The row after.
        new: Tuple<'a>,
    },
    /// `D`
    Delete {
        /// The table's OID.
        relation: u32,
        /// The row before, as far as it was sent.
        old: OldTuple<'a>,
    },
    /// `T`
    Truncate {
        /// The tables' OIDs.
        relations: RelationIds<'a>,
    },
    /// `M`: what `pg_logical_emit_message` wrote.
    Logical(Logical<'a>),
    /// What tells nothing about rows: `O`, the transaction came from another server; `Y`, the
    /// name of a type that is not built in.
    Other,
}

/// A message that somebody wrote into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logical<'a> {
    /// Whether it belongs to the transaction that it comes in. Others come between transactions.
    pub(crate) transactional: bool,
    /// Where it is in the log.
    pub(crate) lsn: Lsn,
    /// What tells who it is for. In the database's encoding where that knows none.
    pub(crate) prefix: &'a [u8],
    /// Its content.
    pub(crate) content: &'a [u8],
}

/// What a transaction begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begin {
    /// The LSN of the commit record: [`Commit::commit_lsn`] of the same transaction.
    pub(crate) final_lsn: Lsn,
    /// Commit time in microseconds since the Unix epoch.
    pub(crate) committed_at: i64,
    /// The transaction's number.
    pub(crate) xid: u32,
}

/// What a transaction ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit {
    /// Where the commit record begins.
    pub(crate) commit_lsn: Lsn,
    /// Commit time in microseconds since the Unix epoch.
    pub(crate) committed_at: i64,
}

/// The old row that an update or a delete carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OldTuple<'a> {
    /// `K`: the columns of the replica identity; all others are null.
    Key(Tuple<'a>),
    /// `O`: the whole row, with REPLICA IDENTITY FULL.
    Full(Tuple<'a>),
}

/// A table's columns, as the messages that follow send them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relation<'a> {
    /// `pg_class.oid`
    pub(crate) oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// `pg_class.relreplident`: `d`efault, `n`othing, `f`ull or `i`ndex.
    pub(crate) replica_identity: u8,
    columns: u16,
    bytes: &'a [u8],
}

/// One column of a [`Relation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelationColumn<'a> {
    /// Whether it belongs to the replica identity; with `f`ull every column does.
    pub(crate) key: bool,
    /// Its name.
    pub(crate) name: &'a str,
    /// `pg_attribute.atttypid`
    pub(crate) type_oid: u32,
    /// `pg_attribute.atttypmod`; -1 for none.
    pub(crate) type_modifier: i32,
}

impl<'a> Relation<'a> {
    /// The columns, in the order of the rows that follow.
    pub(crate) fn columns(&self) -> impl Iterator<Item = RelationColumn<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        // `read_relation` walked over the same bytes, so none of these reads fails.
        (0..self.columns).map_while(move |_| read_column(&mut reader).ok())
    }
}

/// The tables of a `Truncate` message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelationIds<'a>(&'a [u8]);

impl<'a> RelationIds<'a> {
    /// Their OIDs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.0.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// Reads one message: the payload of an `XLogData` message.
///
/// # Errors
/// A [`ProtocolError`]; never panics, whatever the bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Message<'_>> {
    let mut reader = Reader::new(bytes);
    let tag = reader.u8()?;
    let message = read_message(tag, &mut reader)?;
    reader.end()?;
    Ok(message)
}

fn read_message<'a>(tag: u8, reader: &mut Reader<'a>) -> Result<Message<'a>> {
    Ok(match tag {
        b'B' => {
            let begin = Begin {
                final_lsn: lsn(reader)?,
                committed_at: time(reader)?,
                xid: reader.u32()?,
            };
            Message::Begin(begin)
        }
        b'C' => Message::Commit(read_commit(reader)?),
        b'R' => Message::Relation(read_relation(reader)?),
        b'I' => {
            let relation = reader.u32()?;
            expect(reader, b'N')?;
            Message::Insert {
                relation,
                new: Tuple::read(reader)?,
            }
        }
        b'U' => {
            let relation = reader.u32()?;
            let old = match reader.rest().first() {
                Some(b'N') => None,
                _ => Some(read_old(reader)?),
            };
            expect(reader, b'N')?;
            Message::Update {
                relation,
                old,
                new: Tuple::read(reader)?,
            }
        }
        b'D' => Message::Delete {
            relation: reader.u32()?,
            old: read_old(reader)?,
        },
        b'T' => {
            let relations = reader.u32()?;
            let _cascade_and_restart_identity = reader.u8()?;
            let len = usize::try_from(relations)
                .ok()
                .and_then(|n| n.checked_mul(4))
                .ok_or(ProtocolError::Truncated)?;
            Message::Truncate {
                relations: RelationIds(reader.bytes(len)?),
            }
        }
        b'M' => Message::Logical(read_logical(reader)?),
        b'O' | b'Y' => {
            reader.bytes(reader.rest().len())?;
            Message::Other
        }
        unknown => return Err(ProtocolError::UnknownMessage(unknown)),
    })
}

fn lsn(reader: &mut Reader<'_>) -> Result<Lsn> {
    reader.u64().map(Lsn)
}

fn time(reader: &mut Reader<'_>) -> Result<i64> {
    reader
        .i64()?
        .checked_add(EPOCH_OFFSET_MICROS)
        .ok_or(ProtocolError::UnknownContent("a commit time"))
}

fn expect(reader: &mut Reader<'_>, tag: u8) -> Result<()> {
    if reader.u8()? == tag {
        Ok(())
    } else {
        Err(ProtocolError::UnknownContent("a row's kind"))
    }
}

fn read_commit(reader: &mut Reader<'_>) -> Result<Commit> {
    let _unused_flags = reader.u8()?;
    let commit_lsn = lsn(reader)?;
    let _end_lsn = lsn(reader)?;
    Ok(Commit {
        commit_lsn,
        committed_at: time(reader)?,
    })
}

fn read_logical<'a>(reader: &mut Reader<'a>) -> Result<Logical<'a>> {
    let (flags, lsn, prefix) = (reader.u8()?, lsn(reader)?, reader.terminated()?);
    let len = usize::try_from(reader.u32()?).map_err(|_| ProtocolError::Truncated)?;
    Ok(Logical {
        transactional: flags & 1 != 0,
        lsn,
        prefix,
        content: reader.bytes(len)?,
    })
}

fn read_old<'a>(reader: &mut Reader<'a>) -> Result<OldTuple<'a>> {
    match reader.u8()? {
        b'K' => Tuple::read(reader).map(OldTuple::Key),
        b'O' => Tuple::read(reader).map(OldTuple::Full),
        _ => Err(ProtocolError::UnknownContent("a row's kind")),
    }
}

fn read_relation<'a>(reader: &mut Reader<'a>) -> Result<Relation<'a>> {
    let (oid, namespace, name) = (reader.u32()?, reader.name()?, reader.name()?);
    let (replica_identity, columns) = (reader.u8()?, reader.u16()?);
    let start = reader.rest();
    for _ in 0..columns {
        read_column(reader)?;
    }
    let bytes = &start[..start.len() - reader.rest().len()];
    Ok(Relation {
        oid,
        namespace,
        name,
        replica_identity,
        columns,
        bytes,
    })
}

fn read_column<'a>(reader: &mut Reader<'a>) -> Result<RelationColumn<'a>> {
    Ok(RelationColumn {
        key: reader.u8()? & 1 != 0,
        name: reader.name()?,
        type_oid: reader.u32()?,
        type_modifier: reader.i32()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tuple::{TupleValue, encode};
    use super::*;

    fn message(tag: u8, fields: &[&[u8]]) -> Vec<u8> {
        [&[tag][..], &fields.concat()].concat()
    }

    #[test]
    fn a_transaction_is_framed() {
        let begin = message(
            b'B',
            &[
                &0x16_0000_0001u64.to_be_bytes(),
                &0i64.to_be_bytes(),
                &7u32.to_be_bytes(),
            ],
        );
        let expected = Begin {
            final_lsn: Lsn(0x16_0000_0001),
            committed_at: 946_684_800_000_000,
            xid: 7,
        };
        assert_eq!(parse(&begin).unwrap(), Message::Begin(expected));

        let commit = message(
            b'C',
            &[
                &[0],
                &5u64.to_be_bytes(),
                &9u64.to_be_bytes(),
                &(-946_684_800_000_000i64).to_be_bytes(),
            ],
        );
        let expected = Commit {
            commit_lsn: Lsn(5),
            committed_at: 0,
        };
        assert_eq!(parse(&commit).unwrap(), Message::Commit(expected));
    }

    #[test]
    fn a_relation_lists_its_columns() {
        let column = |key: u8, name: &str, oid: u32, typmod: i32| {
            [&[key], name.as_bytes(), &[0], &oid.to_be_bytes(), &typmod.to_be_bytes()].concat()
        };
        let bytes = message(
            b'R',
            &[
                &42u32.to_be_bytes(),
                b"public\0orders\0d",
                &[0, 2],
                &column(1, "id", 20, -1),
                &column(0, "n", 1700, 655_366),
            ],
        );
        let Message::Relation(relation) = parse(&bytes).unwrap() else {
            panic!("not a relation")
        };
        assert_eq!(
            (relation.oid, relation.namespace, relation.name),
            (42, "public", "orders")
        );
        assert_eq!(relation.replica_identity, b'd');
        let columns: Vec<_> = relation
            .columns()
            .map(|c| (c.key, c.name, c.type_oid, c.type_modifier))
            .collect();
        assert_eq!(columns, [(true, "id", 20, -1), (false, "n", 1700, 655_366)]);
    }

    #[test]
    fn changes_carry_their_rows() {
        let new = [
            TupleValue::Binary(&[0, 1]),
            TupleValue::Unchanged,
            TupleValue::Null,
            TupleValue::Text(b"x"),
        ];
        let insert = message(b'I', &[&9u32.to_be_bytes(), b"N", &encode(&new)]);
        let Message::Insert {
            relation: 9,
            new: tuple,
        } = parse(&insert).unwrap()
        else {
            panic!("not an insert")
        };
        assert_eq!(tuple.iter().collect::<Vec<_>>(), new);

        let old = [TupleValue::Text(b"k")];
        for (letter, full) in [(b"K", false), (b"O", true)] {
            let update = message(b'U', &[&9u32.to_be_bytes(), letter, &encode(&old), b"N", &encode(&new)]);
            let Message::Update {
                old: Some(sent),
                new: tuple,
                ..
            } = parse(&update).unwrap()
            else {
                panic!("not an update with its old row")
            };
            assert_eq!(matches!(sent, OldTuple::Full(_)), full);
            assert_eq!(tuple.len(), 4);
            let delete = message(b'D', &[&9u32.to_be_bytes(), letter, &encode(&old)]);
            assert_eq!(parse(&delete).unwrap(), Message::Delete { relation: 9, old: sent });
        }
        let update = message(b'U', &[&9u32.to_be_bytes(), b"N", &encode(&new)]);
        assert!(matches!(parse(&update).unwrap(), Message::Update { old: None, .. }));
    }

    #[test]
    fn a_truncate_names_its_tables_and_a_logical_message_its_prefix() {
        let truncate = message(
            b'T',
            &[&2u32.to_be_bytes(), &[2], &1u32.to_be_bytes(), &u32::MAX.to_be_bytes()],
        );
        let Message::Truncate { relations } = parse(&truncate).unwrap() else {
            panic!("not a truncate")
        };
        assert_eq!(relations.iter().collect::<Vec<_>>(), [1, u32::MAX]);

        for transactional in [true, false] {
            let flags = [u8::from(transactional)];
            let logical = message(
                b'M',
                &[&flags, &3u64.to_be_bytes(), b"ms\0", &2u32.to_be_bytes(), b"hi"],
            );
            let expected = Logical {
                transactional,
                lsn: Lsn(3),
                prefix: b"ms",
                content: b"hi",
            };
            assert_eq!(parse(&logical).unwrap(), Message::Logical(expected));
        }
    }

    #[test]
    fn every_truncation_and_every_extra_byte_is_refused() {
        let row = encode(&[TupleValue::Text(b"abc"), TupleValue::Null]);
        let update = message(b'U', &[&9u32.to_be_bytes(), b"K", &row, b"N", &row]);
        for len in 0..update.len() {
            assert!(parse(&update[..len]).is_err(), "{len}");
        }
        assert_eq!(parse(&[&update[..], &[0]].concat()), Err(ProtocolError::Trailing));
        // They say which transaction others belong to, and are told apart before.
        for tag in *b"ZSEcA" {
            assert_eq!(parse(&[tag]), Err(ProtocolError::UnknownMessage(tag)));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            tag in proptest::sample::select(b"BCORYIUDTMSEcA".to_vec()),
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(parsed) = parse(&message(tag, &[&body])) {
                match parsed {
                    Message::Relation(relation) => prop_assert!(relation.columns().count() < 200),
                    Message::Insert { new, .. } => prop_assert_eq!(new.iter().count(), new.len()),
                    _ => {}
                }
            }
        }

        #[test]
        fn damaged_rows_never_panic(flip in 0usize..60, with in any::<u8>(), keep in 0usize..60) {
            let row = encode(&[TupleValue::Text(b"abc"), TupleValue::Unchanged, TupleValue::Binary(&[0; 8])]);
            let mut bytes = message(b'U', &[&9u32.to_be_bytes(), b"O", &row, b"N", &row]);
            let at = flip % bytes.len();
            bytes[at] = with;
            bytes.truncate(keep.max(1));
            let _ = parse(&bytes);
        }
    }
}
