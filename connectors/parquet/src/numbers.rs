//! A column chunk of numbers that are near their neighbours, such as dates, keys and amounts, or of which there are few
//! different ones, such as rates.
//!
//! `parquet`'s writer takes each value through a chain of loops: to the integer that is stored, the least and the
//! greatest, differences or a dictionary, bits. Here what a page has is put together, and encoded at once: as differences
//! ([`crate::differences`]), or as indexes of a dictionary ([`crate::dictionary`]).

use std::hash::Hash;

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

use crate::dictionary::Dictionary;
use crate::differences::{self, Number};
use crate::encoding::distinct::Distinct;
use crate::hybrid;
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
    form: Form<T>,
    pages: Pages,
    /// The least and the greatest of each page, if it has any.
    ends: Vec<Option<(T, T)>>,
    /// The page in progress: its rows, and their numbers.
    rows: Rows,
    values: Vec<T>,
}

/// How numbers are encoded.
enum Form<T> {
    Differences,
    /// As indexes of a dictionary: it, and the indexes of the page in progress.
    Few(Dictionary<T>, Vec<u32>),
}

/// With so many different numbers they are few no more.
const MOST_NUMBERS: usize = 4096;
/// How many rows tell whether numbers come again, and how many numbers they have to have for that.
const ROWS_THAT_TELL: usize = 256;
const NUMBERS_THAT_TELL: usize = 64;

impl NumbersColumn {
    /// Whether numbers of a type are written here. All are ordered as the integers that are stored.
    pub(crate) fn knows(data_type: &DataType) -> bool {
        match data_type {
            DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Date32 => true,
            DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Time64(TimeUnit::Microsecond) => true,
            // Longer ones are stored as bytes.
            DataType::Decimal128(precision, _) => *precision <= 18,
            _ => false,
        }
    }

    /// An empty column chunk that begins with `rows`, if their type is known here and `column` is written as
    /// differences, or `are_few` has promised few different numbers.
    ///
    /// # Errors
    /// If the rows cannot be compared.
    pub(crate) fn for_rows(
        rows: &ArrayRef,
        column: &ColumnDescPtr,
        properties: &WriterProperties,
        are_few: bool,
    ) -> Result<Option<Self>, ParquetError> {
        let path = column.path();
        let are_differences =
            !properties.dictionary_enabled(path) && properties.encoding(path) == Some(Encoding::DELTA_BINARY_PACKED);
        if !Self::knows(rows.data_type()) {
            return Ok(None);
        }
        // The column may have become another one since.
        let are_few = are_few && rows.null_count() < rows.len() && come_again(rows)?;
        Ok(match column.physical_type() {
            _ if !(are_few || are_differences) => None,
            Type::INT32 => Some(Self::Short(Numbers::new(column, properties, Form::of(are_few)))),
            Type::INT64 => Some(Self::Long(Numbers::new(column, properties, Form::of(are_few)))),
            _ => None,
        })
    }

    /// Whether what follows is better written otherwise.
    pub(crate) fn suits_no_more(&self) -> bool {
        match self {
            Self::Short(numbers) => numbers.suits_no_more(),
            Self::Long(numbers) => numbers.suits_no_more(),
        }
    }

    /// Whether it has a dictionary, and may suit no more.
    pub(crate) fn are_few(&self) -> bool {
        match self {
            Self::Short(numbers) => numbers.are_few(),
            Self::Long(numbers) => numbers.are_few(),
        }
    }

    /// Appends rows of the type that it was made for.
    ///
    /// # Errors
    /// If they are of another one.
    pub(crate) fn push(&mut self, rows: &ArrayRef) -> Result<(), ParquetError> {
        match (self, rows.data_type()) {
            (Self::Short(numbers), DataType::Int16) => numbers.push(rows.as_primitive::<Int16Type>(), i32::from),
            (Self::Short(numbers), DataType::Int32) => numbers.push(rows.as_primitive::<Int32Type>(), |value| value),
            (Self::Short(numbers), DataType::Date32) => numbers.push(rows.as_primitive::<Date32Type>(), |value| value),
            (Self::Short(numbers), DataType::Decimal128(..)) => {
                numbers.push(rows.as_primitive::<Decimal128Type>(), |value| value as i32);
            }
            (Self::Long(numbers), DataType::Int64) => numbers.push(rows.as_primitive::<Int64Type>(), |value| value),
            (Self::Long(numbers), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                numbers.push(rows.as_primitive::<TimestampMicrosecondType>(), |value| value);
            }
            (Self::Long(numbers), DataType::Time64(TimeUnit::Microsecond)) => {
                numbers.push(rows.as_primitive::<Time64MicrosecondType>(), |value| value);
            }
            (Self::Long(numbers), DataType::Decimal128(..)) => {
                numbers.push(rows.as_primitive::<Decimal128Type>(), |value| value as i64);
            }
            (_, other) => return Err(ParquetError::General(format!("a column of numbers holds {other}"))),
        }
        Ok(())
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

/// Whether some of the first numbers are there more than once, if there are enough to tell.
fn come_again(rows: &ArrayRef) -> Result<bool, ParquetError> {
    let found = Distinct::of(&rows.slice(0, rows.len().min(ROWS_THAT_TELL)))?;
    Ok(found.is_some_and(|found| found.values < NUMBERS_THAT_TELL || found.percent() <= 50))
}

impl<T: Stored> Form<T> {
    fn of(are_few: bool) -> Self {
        if are_few {
            Self::Few(Dictionary::new(), Vec::new())
        } else {
            Self::Differences
        }
    }
}

impl<T: Stored> Numbers<T> {
    fn new(column: &ColumnDescPtr, properties: &WriterProperties, form: Form<T>) -> Self {
        Self {
            form,
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
            let before = self.values.len();
            let (values, nulls) = (head.values(), head.nulls().filter(|nulls| nulls.null_count() > 0));
            match nulls {
                None => self.values.extend(values.iter().map(|value| number(*value))),
                Some(nulls) => {
                    for (first, end) in nulls.valid_slices() {
                        self.values
                            .extend(values[first..end].iter().map(|value| number(*value)));
                    }
                }
            }
            if let Form::Few(dictionary, indexes) = &mut self.form {
                indexes.extend(self.values[before..].iter().map(|value| dictionary.index_of(*value)));
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
        match &mut self.form {
            Form::Differences => differences::write(&mut bytes, &self.values),
            Form::Few(dictionary, indexes) => {
                let width = dictionary.width();
                bytes.push(width as u8);
                hybrid::write(&mut bytes, width, indexes);
                indexes.clear();
            }
        }
        let least = self.values.iter().copied().min();
        self.ends.push(least.zip(self.values.iter().copied().max()));
        self.pages.push(bytes, &self.rows, None);
        self.values.clear();
        self.rows.clear();
    }

    fn are_few(&self) -> bool {
        matches!(self.form, Form::Few(..))
    }

    fn suits_no_more(&self) -> bool {
        matches!(&self.form, Form::Few(dictionary, _) if dictionary.numbers().len() >= MOST_NUMBERS)
    }

    fn memory_size(&self) -> usize {
        let of_form = match &self.form {
            Form::Differences => 0,
            Form::Few(dictionary, indexes) => dictionary.memory_size() + indexes.capacity() * size_of::<u32>(),
        };
        of_form + self.pages.bytes() + self.values.capacity() * size_of::<T>() + self.rows.memory_size()
    }

    fn estimated_bytes(&self) -> usize {
        let in_progress = match &self.form {
            Form::Differences => self.values.len() * size_of::<T>() / 2,
            Form::Few(dictionary, indexes) => {
                size_of_val(dictionary.numbers()) + indexes.len() * dictionary.width() as usize / 8
            }
        };
        in_progress + self.pages.bytes()
    }

    fn close(mut self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        self.end_page();
        let (dictionary, encoding) = match &self.form {
            Form::Differences => (None, Encoding::DELTA_BINARY_PACKED),
            Form::Few(dictionary, _) => {
                let numbers = dictionary.numbers();
                let plain = numbers.iter().flat_map(|number| number.bytes()).collect();
                (Some((plain, numbers.len())), Encoding::RLE_DICTIONARY)
            }
        };
        let closing = Closing {
            dictionary,
            encoding,
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
pub(crate) trait Stored: Number + Hash {
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
