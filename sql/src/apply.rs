//! Applies a model to a change batch.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, StructArray, UInt32Array,
    new_null_array,
};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::{ArrowError, DataType};
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave;
use arrow_select::nullif::nullif;
use arrow_select::take::take;
use millstream_core::{ChangeBatch, Error, ErrorKind, Op, Result, envelope};

use crate::decide::{Blank, Emission, Side, decide};
use crate::evaluate::evaluate;
use crate::images::Images;
use crate::model::{Branch, Model};
use crate::reject::Rejects;
use crate::unsent::Unsent;

/// The name under which transforms reject rows.
const CHECK: &str = "transform";

/// What a model makes of a batch.
#[derive(Debug)]
pub struct Transformed {
    /// Changes of the model's table; `None` if nothing is left.
    pub changes: Option<ChangeBatch>,
    /// Rows that could not be computed, as a batch of the quarantine table.
    pub rejected: Option<ChangeBatch>,
    /// Rows that the filter kept out: neither in `changes` nor in `rejected`.
    pub filtered: usize,
}

impl Model {
    /// Applies the model to changes of one of its [`inputs`](Self::inputs), in their order.
    ///
    /// | change | passes before | passes after | becomes |
    /// |---|---|---|---|
    /// | `r`, `c` | | yes | itself |
    /// | `r`, `c` | | no | nothing |
    /// | `u` | yes, or not known | yes | `u`; `d` and `c` if its output key changed |
    /// | `u` | no | yes | `c` |
    /// | `u` | yes, or not known | no | `d` |
    /// | `u` | no | no | nothing |
    /// | `d` | yes, or not known | | `d` |
    /// | `d` | no | | nothing |
    /// | `t` | | | `t`; rejected where a UNION ALL puts out rows of other tables, too |
    ///
    /// "Before" is known where the row has a before-image and the filter reads no reserved
    /// column. A delete made without a before-image holds the key alone. Where a model can
    /// turn one update into two changes, all its ordinals are doubled, so that they stay unique;
    /// a delete gets the odd one, so that the create of a moved row still follows right after it.
    ///
    /// A row that cannot be computed (a failing cast, a column that the source did not send)
    /// is rejected; a delete never is for a column beside its key. A rejected update leaves the
    /// older version in the table, unless the output key changed: its `d` stands.
    ///
    /// Cancel safe: it keeps no state and does not wait.
    ///
    /// # Errors
    /// `SchemaChange` if the batch has another schema than the model was planned with,
    /// `Internal` for a fault of our own. No row causes an error.
    pub async fn apply(&self, batch: &ChangeBatch) -> Result<Transformed> {
        let branch = self.branch(batch)?;
        let images = Images::new(batch, branch)?;
        let mut decided = decide(batch, branch, &images)?;
        let built = Builder {
            model: self,
            branch,
            batch,
            images: &images,
            emissions: &decided.emissions,
        }
        .build(&mut decided.rejected)?;
        let changes = match built {
            Some(rows) if rows.num_rows() > 0 => Some(batch.derive(self.output.clone(), rows)?),
            _ => None,
        };
        let rejected = self.rejected(batch, &decided.rejected)?;
        Ok(Transformed {
            changes,
            rejected,
            filtered: decided.filtered,
        })
    }

    /// The rows of `batch` listed in `reasons`, for quarantine.
    fn rejected(&self, batch: &ChangeBatch, reasons: &BTreeMap<usize, String>) -> Result<Option<ChangeBatch>> {
        if reasons.is_empty() {
            return Ok(None);
        }
        let unsent = Unsent::of(batch.rows());
        let now = chrono::Utc::now().timestamp_micros();
        // Deletes can be rejected, too, and the row before may tell what the row was.
        let reserved = [envelope::OP, envelope::BEFORE];
        let mut rejects = Rejects::try_new(batch, &unsent, &self.name, &reserved, 1, now)?;
        for (&row, reason) in reasons {
            rejects.add(row, CHECK, reason)?;
        }
        rejects.finish().map(Some)
    }
}

/// Builds the output rows that were decided on.
struct Builder<'a> {
    model: &'a Model,
    branch: &'a Branch,
    batch: &'a ChangeBatch,
    images: &'a Images,
    emissions: &'a [Emission],
}

impl Builder<'_> {
    /// The output; rows that turn out not to be computable are added to `reasons`.
    fn build(&self, reasons: &mut BTreeMap<usize, String>) -> Result<Option<RecordBatch>> {
        if self.emissions.is_empty() {
            return Ok(None);
        }
        let (columns, keep) = self.user_columns(reasons)?;
        let mut arrays = columns;
        arrays.extend(self.envelope()?);
        if self.model.output.before_image {
            arrays.push(self.before()?);
        }
        let rows = RecordBatch::try_new(self.model.output.batch_schema(), arrays).map_err(internal)?;
        match keep {
            None => Ok(Some(rows)),
            Some(keep) => filter_record_batch(&rows, &keep).map(Some).map_err(internal),
        }
    }

    /// The user's columns, and which emissions to keep if not all.
    fn user_columns(&self, reasons: &mut BTreeMap<usize, String>) -> Result<(Vec<ArrayRef>, Option<BooleanArray>)> {
        let image = self.image()?;
        let beside_key = self.blanks(|blank| blank != Blank::Nothing);
        let all = self.blanks(|blank| blank == Blank::All);
        let mut arrays = Vec::with_capacity(self.branch.outputs.len());
        // Emissions to leave out. A row that is rejected with its new key still goes from where its
        // old one was: no later change would name that.
        let mut dropped: HashSet<usize> = HashSet::new();
        for output in &self.branch.outputs {
            let evaluated = evaluate(output.expr.as_ref(), &image, output.field.data_type())?;
            let blanks = if output.key { &all } else { &beside_key };
            for failure in evaluated.failures {
                let emission = self.emissions[failure.row];
                let blank = blanks.as_ref().is_some_and(|blanks| blanks.value(failure.row));
                if blank || (emission.op == Op::Delete && !output.key) {
                    continue;
                }
                dropped.insert(failure.row);
                if emission.op == Op::Delete && emission.followed {
                    // What had no key before was never put out.
                    continue;
                }
                let reason = || format!("column `{}`: {}", output.field.name(), failure.reason);
                reasons.entry(emission.row as usize).or_insert_with(reason);
            }
            arrays.push(match blanks {
                Some(blanks) => nullif(&evaluated.values, blanks).map_err(internal)?,
                None => evaluated.values,
            });
        }
        if dropped.is_empty() {
            return Ok((arrays, None));
        }
        let keep = (0..self.emissions.len()).map(|index| Some(!dropped.contains(&index)));
        Ok((arrays, Some(BooleanArray::from_iter(keep))))
    }

    /// The source columns, one row for each emission, from the image that it was decided to show.
    fn image(&self) -> Result<RecordBatch> {
        if self.is_identity() && self.emissions.iter().all(|emission| emission.side == Side::After) {
            return Ok(self.images.after.clone());
        }
        let columns = match &self.images.before {
            Some(before) if self.emissions.iter().any(|emission| emission.side == Side::Before) => {
                let places: Vec<(usize, usize)> = self
                    .emissions
                    .iter()
                    .map(|emission| (usize::from(emission.side == Side::Before), emission.row as usize))
                    .collect();
                let pairs = self.images.after.columns().iter().zip(before.columns());
                pairs
                    .map(|(after, before)| interleave(&[after.as_ref(), before.as_ref()], &places))
                    .collect()
            }
            _ => self.taken(self.images.after.columns()),
        };
        self.rows_of(columns.map_err(internal)?)
    }

    fn rows_of(&self, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        let count = RecordBatchOptions::new().with_row_count(Some(self.emissions.len()));
        RecordBatch::try_new_with_options(self.branch.scan.clone(), columns, &count).map_err(internal)
    }

    /// Which emissions have blank columns; `None` if none has.
    fn blanks(&self, is: impl Fn(Blank) -> bool) -> Option<BooleanArray> {
        if !self.emissions.iter().any(|emission| is(emission.blank)) {
            return None;
        }
        Some(BooleanArray::new(
            BooleanBuffer::from_iter(self.emissions.iter().map(|emission| is(emission.blank))),
            None,
        ))
    }

    /// The reserved columns, `__before` excepted.
    fn envelope(&self) -> Result<Vec<ArrayRef>> {
        let rows = self.batch.rows();
        let mut arrays = Vec::with_capacity(6);
        for field in envelope::fields() {
            let source = rows.column_by_name(field.name()).ok_or_else(|| lacking(field.name()))?;
            arrays.push(match field.name().as_str() {
                envelope::OP => self.ops(),
                envelope::UNCHANGED => self.unchanged()?,
                envelope::ORDINAL if self.model.splits_updates => {
                    let ordinals = source.as_primitive::<Int64Type>();
                    let late = |e: &Emission| e.second || (e.op == Op::Delete && !e.followed);
                    let doubled = |e: &Emission| ordinals.value(e.row as usize) * 2 + i64::from(late(e));
                    Arc::new(Int64Array::from_iter_values(self.emissions.iter().map(doubled)))
                }
                _ if self.is_identity() => source.clone(),
                _ => take(source, &self.indices(), None).map_err(internal)?,
            });
        }
        Ok(arrays)
    }

    fn ops(&self) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            self.emissions.iter().map(|emission| emission.op.letter()),
        ))
    }

    /// The names of unchanged columns, as the output calls them.
    fn unchanged(&self) -> Result<ArrayRef> {
        let mut names = arrow_array::builder::ListBuilder::new(arrow_array::builder::StringBuilder::new());
        for emission in self.emissions {
            let unsent = self.images.unsent(emission.row as usize);
            let shown = emission.side == Side::After && emission.op != Op::Delete;
            let mut any = false;
            for name in unsent.filter(|_| shown) {
                let outputs = self
                    .branch
                    .outputs
                    .iter()
                    .filter(|output| output.plain.as_deref() == Some(name));
                for output in outputs {
                    names.values().append_value(output.field.name());
                    any = true;
                }
            }
            names.append(any);
        }
        Ok(Arc::new(names.finish()))
    }

    /// The before-image through the same expressions. A column that cannot be computed for it,
    /// or that depends on a reserved column of the change before, is null.
    fn before(&self) -> Result<ArrayRef> {
        let data_type = DataType::Struct(self.model.output.columns.fields().clone());
        let shown = |e: &Emission| matches!(e.op, Op::Update | Op::Delete) && self.images.has_before(e.row as usize);
        let (Some(before), true) = (&self.images.before, self.emissions.iter().any(shown)) else {
            return Ok(new_null_array(&data_type, self.emissions.len()));
        };
        let image = self.rows_of(self.taken(before.columns()).map_err(internal)?)?;
        let mut arrays = Vec::with_capacity(self.branch.outputs.len());
        for output in &self.branch.outputs {
            let data_type = output.field.data_type();
            arrays.push(match output.reads_reserved {
                true => new_null_array(data_type, self.emissions.len()),
                false => evaluate(output.expr.as_ref(), &image, data_type)?.values,
            });
        }
        let validity = NullBuffer::new(BooleanBuffer::from_iter(self.emissions.iter().map(shown)));
        let fields = self.model.output.columns.fields().clone();
        Ok(Arc::new(
            StructArray::try_new(fields, arrays, Some(validity)).map_err(internal)?,
        ))
    }

    fn taken(&self, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.is_identity() {
            return Ok(columns.to_vec());
        }
        let indices = self.indices();
        columns.iter().map(|column| take(column, &indices, None)).collect()
    }

    fn indices(&self) -> UInt32Array {
        UInt32Array::from_iter_values(self.emissions.iter().map(|emission| emission.row))
    }

    /// Whether there is one emission for each row: nothing has to be copied.
    fn is_identity(&self) -> bool {
        self.emissions.len() == self.batch.num_rows()
            && self
                .emissions
                .iter()
                .enumerate()
                .all(|(index, emission)| emission.row as usize == index)
    }
}

pub(crate) fn internal(error: ArrowError) -> Error {
    // Arrow's messages can quote a value, so that only the kind of fault is told.
    let fault = match error {
        ArrowError::InvalidArgumentError(_) => "invalid argument",
        ArrowError::CastError(_) => "cast",
        ArrowError::MemoryError(_) => "memory",
        ArrowError::NotYetImplemented(_) => "not implemented",
        ArrowError::OffsetOverflowError(_) => "a column is over 2 GiB",
        _ => "compute",
    };
    Error::new(ErrorKind::Internal, "cannot build a model's changes").with("fault", fault)
}

pub(crate) fn lacking(column: &str) -> Error {
    Error::new(ErrorKind::Internal, "a change batch lacks a column").with("column", column)
}
