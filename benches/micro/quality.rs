//! Checks of a batch.

use criterion::{BatchSize, Criterion, Throughput};
use millstream_sql::checks::{self, CheckSpec};

use crate::{ROWS, postgres};

const CHECKS: &str = "
- {not_null: [id, account], then: quarantine}
- {accepted_range: {column: amount, min: 0, max: 100000}, then: quarantine}
- {accepted_range: {column: account, min: 0}, then: drop}
- {not_null: [kind], then: warn}
- {accepted_range: {column: id, min: 0}, then: warn}
";

/// Five checks, which all rows pass.
pub fn checks(criterion: &mut Criterion) {
    let batch = postgres::batch();
    let specs: Vec<CheckSpec> = serde_saphyr::from_str(CHECKS).expect("checks");
    let mut checks = checks::plan(&specs, batch.schema()).expect("checks that fit");
    let mut group = criterion.benchmark_group("quality");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("five_checks", |bencher| {
        bencher.iter_batched(
            || batch.clone(),
            |batch| checks.on_batch(batch).expect("checks that run"),
            BatchSize::SmallInput,
        );
    });
}
