//! What micro-benchmarks call: the decoder of one table, given what the server would send.

use std::sync::Arc;

use arrow_schema::Schema;
use millstream_core::{ChangeBatch, Error, PartitionId, Result, TableId, TableSchema};

use super::catalog_type::Catalog;
use super::pgoutput::{self, Message};
use super::{ChangeContext, ColumnType, CopyDecoder, TableDecoder};

/// Narrow rows of one block of 8 KiB, about.
const ROWS_OF_BLOCK: usize = 128;

/// The place of all rows.
const CONTEXT: ChangeContext<'static> = ChangeContext {
    position: "0000000000000001",
    ordinal: 0,
    committed_at: None,
};

/// A table's decoder.
pub struct Table(TableDecoder);

impl Table {
    /// Of columns with the OIDs and modifiers of built-in types, the first of which is the key.
    pub fn new(columns: &[(&str, u32, i32)]) -> Self {
        let catalog = Catalog::new();
        let types: Vec<_> = columns
            .iter()
            .map(|(_, oid, typmod)| ColumnType::resolve(*oid, *typmod, &catalog))
            .collect();
        let fields = columns
            .iter()
            .zip(&types)
            .map(|((name, ..), r#type)| r#type.field(name));
        let schema = TableSchema {
            id: TableId::new("shop", Some("public"), "orders"),
            columns: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            key: vec![columns[0].0.to_owned()],
            not_null: Vec::new(),
            before_image: false,
        };
        let partition = PartitionId::new("shop", "wal");
        Self(TableDecoder::new(Arc::new(schema), types, partition))
    }

    /// The rows of `COPY … TO STDOUT (FORMAT binary)`, which lie in blocks.
    ///
    /// # Errors
    /// As the decoder's.
    pub fn copy<'a>(&mut self, messages: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<ChangeBatch>> {
        let mut decoder = CopyDecoder::new(self.0.types().len());
        let mut block = 0;
        decoder.feed(messages, |rows| {
            for first in (0..rows.len()).step_by(ROWS_OF_BLOCK) {
                let of_block = rows.slice(first..rows.len().min(first + ROWS_OF_BLOCK));
                let ordinals: Vec<_> = (0..of_block.len() as i64).collect();
                self.0.copy(&format!("{block:016}"), &ordinals, &of_block)?;
                block += 1;
            }
            Ok::<_, Error>(())
        })?;
        decoder.finish()?;
        self.0.finish()
    }

    /// The rows of inserts of pgoutput.
    ///
    /// # Errors
    /// As the decoder's.
    pub fn stream<'a>(&mut self, messages: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<ChangeBatch>> {
        for message in messages {
            if let Message::Insert { new, .. } = pgoutput::parse(message)? {
                self.0.insert(&CONTEXT, &new)?;
            }
        }
        self.0.finish()
    }
}
