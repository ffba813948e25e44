//! Rows as PostgreSQL's `COPY … TO STDOUT` writes them: tabs between columns, `\N` for null,
//! backslash escapes (PostgreSQL manual, COPY, "Text Format").

use anyhow::Result;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, TimeUnit};

/// Appends one line for each row of `batch`.
pub fn append_rows(batch: &RecordBatch, lines: &mut Vec<String>) -> Result<()> {
    let cells = batch
        .columns()
        .iter()
        .map(|column| Cells::of(column.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    for row in 0..batch.num_rows() {
        let mut line = String::new();
        for (index, column) in cells.iter().enumerate() {
            if index > 0 {
                line.push('\t');
            }
            column.append(row, &mut line)?;
        }
        lines.push(line);
    }
    Ok(())
}

/// How the values of one column are written.
enum Cells<'a> {
    /// Text, escaped.
    Text(&'a arrow_array::StringArray),
    /// Microseconds since the Unix epoch.
    Micros(&'a arrow_array::PrimitiveArray<TimestampMicrosecondType>),
    /// A JSON array, as `array_to_json` writes it.
    TextList(&'a arrow_array::ListArray),
    /// Arrow's own text, which for numbers, dates and booleans is PostgreSQL's too.
    Other(&'a dyn Array, ArrayFormatter<'a>),
}

impl<'a> Cells<'a> {
    fn of(column: &'a dyn Array) -> Result<Self> {
        const OPTIONS: FormatOptions<'static> = FormatOptions::new();
        Ok(match column.data_type() {
            DataType::Utf8 => Self::Text(column.as_string()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::Micros(column.as_primitive()),
            DataType::List(item) if *item.data_type() == DataType::Utf8 => Self::TextList(column.as_list()),
            _ => Self::Other(column, ArrayFormatter::try_new(column, &OPTIONS)?),
        })
    }

    fn append(&self, row: usize, line: &mut String) -> Result<()> {
        let is_null = match self {
            Self::Text(column) => column.is_null(row),
            Self::Micros(column) => column.is_null(row),
            Self::TextList(column) => column.is_null(row),
            Self::Other(column, _) => column.is_null(row),
        };
        if is_null {
            line.push_str("\\N");
            return Ok(());
        }
        match self {
            Self::Text(column) => escape(column.value(row), line),
            Self::Micros(column) => line.push_str(&column.value(row).to_string()),
            Self::TextList(column) => {
                let items: Vec<Option<String>> = column
                    .value(row)
                    .as_string::<i32>()
                    .iter()
                    .map(|item| item.map(str::to_owned))
                    .collect();
                escape(&serde_json::to_string(&items)?, line);
            }
            Self::Other(_, formatter) => line.push_str(&formatter.value(row).try_to_string()?),
        }
        Ok(())
    }
}

fn escape(text: &str, line: &mut String) {
    for character in text.chars() {
        match character {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\u{8}' => line.push_str("\\b"),
            '\u{b}' => line.push_str("\\v"),
            '\u{c}' => line.push_str("\\f"),
            other => line.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{ArrayRef, BooleanArray, Date32Array, Decimal128Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn rows_look_as_copy_writes_them() {
        let mut tags = ListBuilder::new(StringBuilder::new());
        tags.append_value([Some("a \"b\""), None]);
        tags.append_null();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringArray::from(vec![Some("a\tb\\"), None]))),
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None]).with_timezone("UTC")),
            ),
            (
                "amount",
                Arc::new(
                    Decimal128Array::from(vec![1230, -5])
                        .with_precision_and_scale(12, 2)
                        .unwrap(),
                ),
            ),
            ("day", Arc::new(Date32Array::from(vec![1, -1]))),
            ("gift", Arc::new(BooleanArray::from(vec![true, false]))),
            ("tags", Arc::new(tags.finish())),
        ];
        let mut lines = Vec::new();
        append_rows(&RecordBatch::try_from_iter(columns).unwrap(), &mut lines).unwrap();
        assert_eq!(
            lines[0],
            "a\\tb\\\\\t-1\t12.30\t1970-01-02\ttrue\t[\"a \\\\\"b\\\\\"\",null]"
        );
        assert_eq!(lines[1], "\\N\t\\N\t-0.05\t1969-12-31\tfalse\t\\N");
    }
}
