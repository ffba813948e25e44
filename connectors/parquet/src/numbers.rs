//! A column chunk of numbers that are near their neighbours: dates, keys, amounts, times.
//!
//! `parquet`'s writer takes each value through a chain of loops: to the integer that is stored, the least and the
//! greatest, differences, bits. Here what a page has is put together, and encoded at once ([`crate::differences`]).

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray};
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Encoding, Type};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnIndexBuilder;
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescPtr;

use crate::differences::{self, Number};
use crate::pages::{Closing, Pages, Rows};

/// The rows of one column in a row group.
pub(crate) enum NumbersColumn {
    /// Numbers of 32 bits.
    Short(Numbers<i32>),
    /// Numbers of 64 bits.
    Long(Numbers<i64>),
}

/// Numbers of one width.
pub(crate) struct Numbers<T> {
    pages: Pages,
    /// The least and the greatest of each page, if it has any.
    ends: Vec<Option<(T, T)>>,
    /// The page in progress: its rows, and their numbers.
    rows: Rows,
    values: Vec<T>,
}

impl NumbersColumn {
    /// An empty column chunk, if `column` is one that is to be written as differences and its rows are of a type that
    /// is known here.
    pub(crate) fn for_rows(rows: &ArrayRef, column: &ColumnDescPtr, properties: &WriterProperties) -> Option<Self> {
        let path = column.path();
        let are_differences = !properties.dictionary_enabled(path)
            && properties.encoding(path) == Some(Encoding::DELTA_BINARY_PACKED)
            && is_known(rows.data_type());
        match column.physical_type() {
            Type::INT32 if are_differences => Some(Self::Short(Numbers::new(column, properties))),
            Type::INT64 if are_differences => Some(Self::Long(Numbers::new(column, properties))),
            _ => None,
        }
    }

    /// Appends rows of the type that it was made for.
    pub(crate) fn push(&mut self, rows: &ArrayRef) {
        match self {
            Self::Short(numbers) => match rows.data_type() {
                DataType::Int16 => numbers.push(rows.as_primitive::<Int16Type>(), i32::from),
                DataType::Int32 => numbers.push(rows.as_primitive::<Int32Type>(), |value| value),
                DataType::Date32 => numbers.push(rows.as_primitive::<Date32Type>(), |value| value),
                _ => numbers.push(rows.as_primitive::<Decimal128Type>(), |value| value as i32),
            },
            Self::Long(numbers) => match rows.data_type() {
                DataType::Int64 => numbers.push(rows.as_primitive::<Int64Type>(), |value| value),
                DataType::Timestamp(..) => numbers.push(rows.as_primitive::<TimestampMicrosecondType>(), |value| value),
                DataType::Time64(_) => numbers.push(rows.as_primitive::<Time64MicrosecondType>(), |value| value),
                _ => numbers.push(rows.as_primitive::<Decimal128Type>(), |value| value as i64),
            },
        }
    }

    /// The memory that it takes, roughly.
    pub(crate) fn memory_size(&self) -> usize {
        match self {
            Self::Short(numbers) => numbers.memory_size(),
            Self::Long(numbers) => numbers.memory_size(),
        }
    }

    /// The size that it would have in the file, roughly, before compression.
    pub(crate) fn estimated_bytes(&self) -> usize {
        match self {
            Self::Short(numbers) => numbers.estimated_bytes(),
            Self::Long(numbers) => numbers.estimated_bytes(),
        }
    }

    /// Writes all pages. The offsets are those within the bytes.
    pub(crate) fn close(self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        match self {
            Self::Short(numbers) => numbers.close(),
            Self::Long(numbers) => numbers.close(),
        }
    }
}

/// Whether numbers of a type are pushed here. All are ordered as the integers that are stored.
fn is_known(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Timestamp(TimeUnit::Microsecond, _)
            | DataType::Time64(TimeUnit::Microsecond)
            | DataType::Decimal128(..)
    )
}

impl<T: Stored> Numbers<T> {
    fn new(column: &ColumnDescPtr, properties: &WriterProperties) -> Self {
        Self {
            pages: Pages::new(column.clone(), properties),
            ends: Vec::new(),
            rows: Rows::default(),
            values: Vec::new(),
        }
    }

    fn push<A: ArrowPrimitiveType>(&mut self, rows: &PrimitiveArray<A>, number: impl Fn(A::Native) -> T) {
        let mut rest = rows.clone();
        while !rest.is_empty() {
            let count = self.rows.room().min(rest.len());
            let head = rest.slice(0, count);
            rest = rest.slice(count, rest.len() - count);
            self.rows.add(&head);
            match head.null_count() {
                0 => self.values.extend(head.values().iter().map(|value| number(*value))),
                _ => self.values.extend(head.iter().flatten().map(&number)),
            }
            if self.rows.room() == 0 {
                self.end_page();
            }
        }
    }

    fn end_page(&mut self) {
        if self.rows.count() == 0 {
            return;
        }
        let mut bytes = self.pages.begin(&self.rows, self.values.len() * size_of::<T>() / 2);
        differences::write(&mut bytes, &self.values);
        let least = self.values.iter().copied().min();
        self.ends.push(least.zip(self.values.iter().copied().max()));
        self.pages.push(bytes, &self.rows, None);
        self.values.clear();
        self.rows.clear();
    }

    fn memory_size(&self) -> usize {
        self.pages.bytes() + self.values.capacity() * size_of::<T>() + self.rows.memory_size()
    }

    fn estimated_bytes(&self) -> usize {
        self.pages.bytes() + self.values.len() * size_of::<T>() / 2
    }

    fn close(mut self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        self.end_page();
        let closing = Closing {
            dictionary: None,
            encoding: Encoding::DELTA_BINARY_PACKED,
            statistics: self.of_chunk(),
            column_index: self.of_pages(),
        };
        self.pages.close(closing)
    }

    /// The statistics of the chunk.
    fn of_chunk(&self) -> Option<Statistics> {
        let ends = || self.ends.iter().flatten();
        let least = ends().map(|(least, _)| *least).min();
        let greatest = ends().map(|(_, greatest)| *greatest).max();
        let nulls = self.pages.nulls().sum::<usize>() as u64;
        self.pages
            .has_statistics()
            .then(|| T::statistics(least, greatest, nulls))
    }

    /// The statistics of its pages.
    fn of_pages(&self) -> Option<ColumnIndexBuilder> {
        if !self.pages.has_index() {
            return None;
        }
        let mut index = ColumnIndexBuilder::new(T::TYPE);
        for (ends, nulls) in self.ends.iter().zip(self.pages.nulls()) {
            let [least, greatest] = match ends {
                Some((least, greatest)) => [least.bytes(), greatest.bytes()],
                None => [Vec::new(), Vec::new()],
            };
            index.append(ends.is_none(), least, greatest, nulls as i64);
        }
        // Pages without numbers have no place in the order.
        let ends: Vec<_> = self.ends.iter().flatten().collect();
        if ends.is_sorted_by(|one, next| one.0 <= next.0 && one.1 <= next.1) {
            index.set_boundary_order(BoundaryOrder::ASCENDING);
        } else if ends.is_sorted_by(|one, next| one.0 >= next.0 && one.1 >= next.1) {
            index.set_boundary_order(BoundaryOrder::DESCENDING);
        }
        Some(index)
    }
}

/// A number, as Parquet's metadata has it.
pub(crate) trait Stored: Number {
    const TYPE: Type;

    fn statistics(least: Option<Self>, greatest: Option<Self>, nulls: u64) -> Statistics;

    /// In `PLAIN`.
    fn bytes(self) -> Vec<u8>;
}

impl Stored for i32 {
    const TYPE: Type = Type::INT32;

    fn statistics(least: Option<Self>, greatest: Option<Self>, nulls: u64) -> Statistics {
        let statistics = ValueStatistics::new(least, greatest, None, Some(nulls), false);
        // Old readers look for them elsewhere, and order all numbers as these are ordered.
        statistics.with_backwards_compatible_min_max(true).into()
    }

    fn bytes(self) -> Vec<u8> {
        self.to_le_bytes().into()
    }
}

impl Stored for i64 {
    const TYPE: Type = Type::INT64;

    fn statistics(least: Option<Self>, greatest: Option<Self>, nulls: u64) -> Statistics {
        let statistics = ValueStatistics::new(least, greatest, None, Some(nulls), false);
        statistics.with_backwards_compatible_min_max(true).into()
    }

    fn bytes(self) -> Vec<u8> {
        self.to_le_bytes().into()
    }
}

#[cfg(test)]
mod tests;
