//! The rows that were read since the last boundary.

use std::iter;

use millstream_core::{Error, ErrorKind, PartitionId, Result, SourceEvent};

use super::place::{LAST_BLOCK, Places, Tid};
use crate::config::BatchLimits;
use crate::decode::{CopyDecoder, CopyRows, ProtocolError, Room, TableDecoder};
use crate::run::tables::batches;
use crate::wire::CopyMessages;

/// How it is known where the rows of a statement lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addresses {
    /// Each begins with its own, and they come in that order.
    Sent,
    /// None is sent, and rows are counted: the file has no addresses.
    Counted,
    /// All that is known is that none lies behind the end of this block: they have one place.
    UpTo(u32),
}

/// Rows and bytes, as the server sent them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Amount {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// See the module.
pub(super) struct Piece {
    decoder: TableDecoder,
    pub(super) partition: PartitionId,
    places: Places,
    /// What a batch may have.
    most: Amount,
    addresses: Addresses,
    /// The place of the rows of a block, and the block.
    place: (u32, String),
    /// The last boundary.
    cut: Tid,
    /// The last row, or the block that no row lies behind.
    pub(super) last: Tid,
    /// The numbers of rows that the decoder is still to take: in their block, or in the piece.
    ordinals: Vec<i64>,
    /// What the decoder has.
    batch: Amount,
    /// Batches that are done, and what they have.
    done: Vec<SourceEvent>,
    in_done: Amount,
}

impl Piece {
    /// No rows yet of `partition`, behind `from`. A batch of what `decoder` is given may have so much at `most`.
    pub(super) fn new(decoder: TableDecoder, partition: &PartitionId, places: Places, from: Tid, most: Amount) -> Self {
        Self {
            decoder,
            partition: partition.clone(),
            places,
            most,
            addresses: Addresses::Sent,
            place: (LAST_BLOCK, String::new()),
            cut: from,
            last: from,
            ordinals: Vec::new(),
            batch: Amount::default(),
            done: Vec::new(),
            in_done: Amount::default(),
        }
    }

    /// Rows of another statement follow.
    pub(super) fn begin(&mut self, addresses: Addresses) {
        self.addresses = addresses;
        if let Addresses::UpTo(block) = addresses {
            self.last = Tid { block, row: 0 };
        }
    }

    /// What was read since the last boundary.
    pub(super) fn total(&self) -> Amount {
        Amount {
            rows: self.in_done.rows + self.batch.rows,
            bytes: self.in_done.bytes + self.batch.bytes,
        }
    }

    /// What the last batch took.
    pub(super) fn room(&self) -> Option<&Room> {
        self.decoder.room()
    }

    /// Takes rows of `messages`, and tells whether a batch is full. If not, the next messages are to be
    /// asked for: some of these may be left, and come again.
    pub(super) fn take_some(&mut self, messages: &mut CopyMessages<'_>, decoder: &mut CopyDecoder) -> Result<bool> {
        let most = self.most;
        let room = most.rows.saturating_sub(self.batch.rows) as usize;
        let mut bytes = self.batch.bytes;
        let next = || {
            let message = (bytes < most.bytes).then(|| messages.next()).flatten()?;
            bytes += message.len() as u64;
            Some(message)
        };
        // PostgreSQL's messages have one row at most. Of others the limit is passed by a message's rows.
        decoder.feed(iter::from_fn(next).take(room), |rows| self.take(&rows))?;
        self.batch.bytes = bytes;
        Ok(self.batch.rows >= most.rows || self.batch.bytes >= most.bytes)
    }

    fn take(&mut self, rows: &CopyRows<'_>) -> Result<()> {
        if let Addresses::UpTo(_) = self.addresses {
            let before = self.total().rows as i64;
            self.ordinals.extend(before + 1..=before + rows.len() as i64);
            return self.take_of_block(rows);
        }
        let mut addresses = None;
        let mut values = *rows;
        if self.addresses == Addresses::Sent {
            values = rows.without_first()?;
            addresses = Some(rows.column(0));
        }
        // Where the rows of the present block begin.
        let mut begin = 0;
        for index in 0..rows.len() {
            let tid = match &mut addresses {
                Some(sent) => address(sent.next().flatten())?,
                None => self.counted(),
            };
            if tid <= self.last {
                return Err(
                    Error::new(ErrorKind::Internal, "the server sent rows of a copy out of their order")
                        .hint("report it, with what EXPLAIN says of the statement"),
                );
            }
            if tid.block != self.last.block {
                self.take_of_block(&values.slice(begin..index))?;
                begin = index;
            }
            self.ordinals.push(tid.row.into());
            self.last = tid;
        }
        self.take_of_block(&values.slice(begin..rows.len()))
    }

    /// What stands for the address of the next row of a file without addresses.
    fn counted(&self) -> Tid {
        if self.last.row == u16::MAX - 1 {
            return Tid {
                block: self.last.block + 1,
                row: 1,
            };
        }
        Tid {
            row: self.last.row + 1,
            ..self.last
        }
    }

    /// Takes rows of the block of the last row, whose numbers are in `ordinals`.
    fn take_of_block(&mut self, rows: &CopyRows<'_>) -> Result<()> {
        if rows.len() == 0 {
            return Ok(());
        }
        let block = self.last.block;
        if self.place.0 != block || self.batch.rows == 0 {
            self.place = (block, self.places.rows(block, self.behind(block)));
        }
        self.decoder.copy(&self.place.1, &self.ordinals, rows)?;
        self.ordinals.clear();
        self.batch.rows += rows.len() as u64;
        Ok(())
    }

    /// The row of `block` that the last boundary was behind; 0 if it was not inside the block.
    fn behind(&self, block: u32) -> u16 {
        if self.cut.block == block && self.cut.row < u16::MAX {
            self.cut.row
        } else {
            0
        }
    }

    /// Ends the batch, where the piece cannot end yet.
    pub(super) fn end_batch(&mut self) -> Result<()> {
        self.in_done = self.total();
        self.batch = Amount::default();
        self.done.extend(batches(&mut self.decoder)?);
        Ok(())
    }

    /// Ends the piece behind `up_to`. Returns its batches, and the place of the boundary that ends them.
    pub(super) fn finish(&mut self, up_to: Tid) -> Result<(Vec<SourceEvent>, String)> {
        self.end_batch()?;
        self.in_done = Amount::default();
        let place = self.places.up_to(up_to, self.behind(up_to.block));
        self.cut = up_to;
        Ok((std::mem::take(&mut self.done), place))
    }
}

/// A row's address, as the server sends it.
fn address(sent: Option<&[u8]>) -> Result<Tid> {
    let parts = sent.and_then(|bytes| bytes.split_first_chunk::<4>());
    let (block, rest) = parts.ok_or(ProtocolError::UnknownContent("a row's address"))?;
    let row = rest.try_into().map(u16::from_be_bytes);
    Ok(Tid {
        block: u32::from_be_bytes(*block),
        row: row.map_err(|_| ProtocolError::UnknownContent("a row's address"))?,
    })
}

/// What a batch of a copy may have: several sessions have one each, in the place of the stream's one.
pub(super) fn most(limits: &BatchLimits) -> Amount {
    Amount {
        rows: limits.rows as u64,
        bytes: limits.bytes.0.div_ceil(2),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_schema::Schema;
    use millstream_core::{TableId, TableSchema, envelope};

    use super::*;
    use crate::decode::{Catalog, ColumnType, Lsn};

    const FILE: &str = "0000000000000009/0000000007";

    /// A piece of a table with one `int4`, in batches of two rows.
    fn piece(from: Tid) -> Piece {
        let int4 = ColumnType::resolve(23, -1, &Catalog::new());
        let schema = TableSchema {
            id: TableId::new("s", Some("public"), "t"),
            columns: Arc::new(Schema::new(vec![int4.field("id")])),
            key: vec!["id".to_owned()],
            not_null: Vec::new(),
            before_image: false,
        };
        let partition = PartitionId::new("s", "copy/public.t/7:0-");
        let decoder = TableDecoder::new(Arc::new(schema), vec![int4], partition.clone());
        let most = Amount {
            rows: 2,
            bytes: 1 << 20,
        };
        Piece::new(decoder, &partition, Places::new(Lsn(9), 7), from, most)
    }

    /// A whole stream of binary `COPY`.
    fn stream(rows: &[Vec<&[u8]>]) -> Vec<u8> {
        let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        for row in rows {
            bytes.extend((row.len() as i16).to_be_bytes());
            for field in row {
                bytes.extend((field.len() as i32).to_be_bytes());
                bytes.extend(*field);
            }
        }
        bytes.extend((-1i16).to_be_bytes());
        bytes
    }

    /// Gives a statement's rows to `piece`, whose batches end after every second, as a reader does.
    fn read(piece: &mut Piece, addresses: Addresses, rows: &[Vec<&[u8]>]) -> Result<()> {
        piece.begin(addresses);
        for rows in rows.chunks(2) {
            let mut decoder = CopyDecoder::new(rows[0].len());
            decoder.feed([&stream(rows)[..]], |rows| piece.take(&rows))?;
            piece.end_batch()?;
        }
        Ok(())
    }

    /// Place and number of each row, by batch.
    fn rows(events: &[SourceEvent]) -> Vec<Vec<(String, i64)>> {
        let batches = events.iter().map(|event| {
            let SourceEvent::Changes(batch) = event else {
                panic!("{event:?}")
            };
            let column = |name| batch.rows().column_by_name(name).expect("a reserved column");
            let places = column(envelope::POSITION).as_string::<i32>().iter();
            let numbers = column(envelope::ORDINAL).as_primitive::<Int64Type>().values();
            let rows = places.zip(numbers);
            rows.map(|(place, number)| {
                let place = place
                    .expect("a place")
                    .strip_prefix(FILE)
                    .expect("in the file")
                    .to_owned();
                (place, *number)
            })
            .collect()
        });
        batches.collect()
    }

    fn at(place: &str, numbers: &[i64]) -> Vec<(String, i64)> {
        numbers.iter().map(|number| (place.to_owned(), *number)).collect()
    }

    const ID: &[u8] = &[0, 0, 0, 5];

    #[test]
    fn rows_of_whole_blocks_are_numbered_through_the_piece() {
        let mut piece = piece(Tid::start_of(0));
        for block in [3, 9] {
            read(&mut piece, Addresses::UpTo(block), &vec![vec![ID]; 5]).unwrap();
            assert_eq!(piece.total().rows, 5);
            let (events, place) = piece.finish(Tid::end_of(block)).unwrap();
            let of_block = format!("/{block:010}");
            let expected = [&[1, 2][..], &[3, 4], &[5]].map(|numbers| at(&of_block, numbers));
            assert_eq!(rows(&events), expected, "each piece begins anew");
            assert_eq!(place, format!("{FILE}{of_block}~"));
        }
    }

    #[test]
    fn rows_behind_a_boundary_inside_of_their_block_have_a_place_behind_it() {
        let behind = Tid { block: 3, row: 42 };
        for (block, of_rows) in [(3, "/0000000003.00042"), (4, "/0000000004")] {
            let mut piece = piece(behind);
            read(&mut piece, Addresses::UpTo(block), &[vec![ID]]).unwrap();
            let (events, place) = piece.finish(Tid::end_of(block)).unwrap();
            assert_eq!(rows(&events), [at(of_rows, &[1])]);
            assert_eq!(place, format!("{FILE}/{block:010}~"));
        }
    }

    #[test]
    fn rows_that_are_sent_with_their_addresses_have_the_place_and_number_of_these() {
        let mut piece = piece(Tid::start_of(0));
        let tids: [&[u8]; 3] = [&[0, 0, 0, 3, 0, 7], &[0, 0, 0, 3, 0, 9], &[0, 0, 0, 4, 0, 1]];
        read(&mut piece, Addresses::Sent, &tids.map(|tid| vec![tid, ID])).unwrap();
        let (events, place) = piece.finish(piece.last).unwrap();
        assert_eq!(rows(&events), [at("/0000000003", &[7, 9]), at("/0000000004", &[1])]);
        assert_eq!(place, format!("{FILE}/0000000004+00001"));
        let error = read(&mut piece, Addresses::Sent, &[vec![tids[2], ID]]).unwrap_err();
        assert!(error.summary().contains("out of their order"), "{}", error.summary());
    }

    #[test]
    fn rows_without_addresses_are_counted() {
        let mut piece = piece(Tid {
            block: 0,
            row: u16::MAX - 2,
        });
        read(&mut piece, Addresses::Counted, &vec![vec![ID]; 3]).unwrap();
        let (events, _) = piece.finish(piece.last).unwrap();
        let last = i64::from(u16::MAX - 1);
        let behind = format!("/0000000000.{:05}", u16::MAX - 2);
        let expected = [
            [(behind, last), ("/0000000001".to_owned(), 1)].to_vec(),
            at("/0000000001", &[2]),
        ];
        assert_eq!(rows(&events), expected);
    }
}
