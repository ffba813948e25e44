//! Vectors of pgvector into lists of Float32.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{Float32Builder, ListBuilder};

use super::extension::{Width, vector_from_text, vector_from_wire};
use super::value_error::{Result, ValueError};

/// Most numbers of one batch: Arrow's offsets have 31 bits.
const MOST_NUMBERS: usize = i32::MAX as usize;

/// Collects vectors, which have neither NULLs nor dimensions nor bounds.
pub(super) struct VectorColumn {
    width: Width,
    values: ListBuilder<Float32Builder>,
    /// The numbers of one vector, so that a refused one appends nothing.
    scratch: Vec<f32>,
}

impl VectorColumn {
    pub(super) fn new(width: Width) -> Self {
        let values = ListBuilder::new(Float32Builder::new());
        let scratch = Vec::new();
        Self { width, values, scratch }
    }

    pub(super) fn append_binary(&mut self, bytes: &[u8]) -> Result<()> {
        self.scratch.clear();
        self.scratch.extend(vector_from_wire(self.width, bytes)?);
        self.append()
    }

    pub(super) fn append_text(&mut self, text: &[u8]) -> Result<()> {
        self.scratch.clear();
        for number in vector_from_text(text)? {
            self.scratch.push(number?);
        }
        self.append()
    }

    fn append(&mut self) -> Result<()> {
        use arrow_array::builder::ArrayBuilder;
        if self.values.values().len() + self.scratch.len() > MOST_NUMBERS {
            return Err(ValueError::OutOfRange("the batch has no room for so many numbers"));
        }
        self.values.values().append_slice(&self.scratch);
        self.values.append(true);
        Ok(())
    }

    pub(super) fn append_null(&mut self) {
        self.values.append(false);
    }

    pub(super) fn len(&self) -> usize {
        use arrow_array::builder::ArrayBuilder;
        self.values.len()
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        Arc::new(self.values.finish())
    }
}
