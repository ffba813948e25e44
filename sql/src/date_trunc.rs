//! `date_trunc` of UTC times by arithmetic.
//!
//! DataFusion takes a time with a zone through a calendar, one by one, which took a fifth of the CPU
//! of a drain whose model has one `date_trunc('day', …)`, and refuses years that a count of
//! nanoseconds does not hold. In UTC a time is truncated as one without a zone, which is arithmetic
//! up to days. Of PostgreSQL's infinite times, the ends of the range, that makes finite ones without a
//! word, which is refused here.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_schema::{DataType, FieldRef, TimeUnit};
use datafusion::common::{DataFusionError, exec_err};
use datafusion::functions::datetime;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

type Result<T> = std::result::Result<T, DataFusionError>;

/// DataFusion's function, given UTC times without their zone.
#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc(Arc<ScalarUDF>);

/// The function, to be registered in the place of DataFusion's.
pub(crate) fn date_trunc() -> ScalarUDF {
    ScalarUDF::new_from_impl(DateTrunc(datetime::date_trunc()))
}

/// The longest unit that is truncated by arithmetic, in microseconds.
const DAY: i64 = 86_400_000_000;

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.0.inner().return_field_from_args(args)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.0.inner().output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(ColumnarValue::Array(times)) = args.args.get_mut(1) else {
            return self.0.inner().invoke_with_args(args);
        };
        let zone = match times.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, zone) if zone.as_deref().is_none_or(is_utc) => zone.clone(),
            _ => return self.0.inner().invoke_with_args(args),
        };
        let micros = times.as_primitive::<TimestampMicrosecondType>();
        if micros.iter().flatten().any(|at| at < i64::MIN + DAY || at == i64::MAX) {
            return exec_err!("a time is out of range");
        }
        *times = Arc::new(micros.clone().with_timezone_opt(None::<Arc<str>>));
        let truncated = self.0.inner().invoke_with_args(args)?;
        Ok(match truncated {
            ColumnarValue::Array(times) => {
                let micros = times.as_primitive::<TimestampMicrosecondType>().clone();
                ColumnarValue::Array(Arc::new(micros.with_timezone_opt(zone)))
            }
            scalar @ ColumnarValue::Scalar(_) => scalar,
        })
    }
}

fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "+00:00")
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
    use datafusion::common::DFSchema;

    use super::*;
    use crate::catalog::session;

    fn truncated(unit: &str, times: TimestampMicrosecondArray) -> Result<ArrayRef> {
        let times: ArrayRef = Arc::new(times);
        let rows = RecordBatch::try_from_iter([("at", times)])?;
        let columns = DFSchema::try_from(rows.schema().as_ref().clone())?;
        let expr = session().create_logical_expr(&format!("date_trunc('{unit}', at)"), &columns)?;
        let expr = session().create_physical_expr(expr, &columns)?;
        expr.evaluate(&rows)?.into_array(rows.num_rows())
    }

    /// Around midnights, before 1970 too, and in a year that nanoseconds do not reach.
    const TIMES: [Option<i64>; 5] = [
        Some(1_735_603_199_000_001),
        Some(-1),
        None,
        Some(1_735_689_600_000_000),
        Some(20_000_000_000_000_123),
    ];

    #[test]
    fn utc_is_truncated_as_the_calendar_does() {
        for unit in [
            "millisecond",
            "second",
            "minute",
            "hour",
            "day",
            "week",
            "month",
            "quarter",
            "year",
        ] {
            let times = || TimestampMicrosecondArray::from(TIMES[..4].to_vec());
            // A zone that is never another than UTC, by another name: DataFusion's own way.
            let by_calendar = truncated(unit, times().with_timezone("Etc/UTC")).unwrap();
            let expected = by_calendar.as_primitive::<TimestampMicrosecondType>();
            let found = truncated(unit, times().with_timezone("UTC")).unwrap();
            assert_eq!(
                found.data_type(),
                &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
            );
            assert_eq!(
                found.as_primitive::<TimestampMicrosecondType>().values(),
                expected.values(),
                "{unit}"
            );
            assert_eq!(found.null_count(), 1);
        }
    }

    #[test]
    fn a_year_beyond_nanoseconds_has_days() {
        let times = TimestampMicrosecondArray::from(TIMES.to_vec()).with_timezone("UTC");
        let found = truncated("day", times).unwrap();
        let last = found.as_primitive::<TimestampMicrosecondType>().value(4);
        assert_eq!((last % DAY, 20_000_000_000_000_123 - last < DAY), (0, true));
    }

    #[test]
    fn infinite_times_are_refused() {
        for infinite in [i64::MIN, i64::MAX] {
            for zone in [None, Some("UTC")] {
                let times = TimestampMicrosecondArray::from(vec![infinite]).with_timezone_opt(zone);
                assert!(truncated("day", times).is_err(), "{infinite} {zone:?}");
            }
        }
    }
}
