//! A model over a batch.

use criterion::{Criterion, Throughput};
use millstream_core::ChangeBatch;
use millstream_sql::{Model, ModelSpec};
use tokio::runtime::Runtime;

use crate::{ROWS, postgres};

/// A projection, a filter and five expressions, as in the case `cdc` of the harness.
const SQL: &str = "
SELECT id, account, amount, kind, placed_at, amount * 1.19 AS gross, account % 16 AS shard,
    upper(substr(kind, 2, 4)) AS code, date_trunc('day', placed_at) AS day, amount > 5000 AS is_large
FROM {table} WHERE account >= 0";

/// The model on one batch.
pub fn apply(criterion: &mut Criterion) {
    let (runtime, batch) = (Runtime::new().expect("a runtime"), postgres::batch());
    let model = plan(&runtime, &batch);
    let mut group = criterion.benchmark_group("quality");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("model", |bencher| {
        bencher.iter(|| {
            runtime
                .block_on(model.apply(&batch))
                .expect("rows that can be computed")
        });
    });
}

/// What the model makes of the batch.
pub fn batch() -> ChangeBatch {
    let (runtime, batch) = (Runtime::new().expect("a runtime"), postgres::batch());
    let transformed = runtime.block_on(plan(&runtime, &batch).apply(&batch));
    transformed
        .expect("rows that can be computed")
        .changes
        .expect("rows that pass")
}

fn plan(runtime: &Runtime, batch: &ChangeBatch) -> Model {
    let schema = batch.schema();
    let spec = ModelSpec {
        name: "clean".to_owned(),
        sql: SQL.replace("{table}", &schema.id.to_string()),
        file: None,
        key: Vec::new(),
    };
    runtime
        .block_on(millstream_sql::plan(&spec, std::slice::from_ref(schema)))
        .expect("a model that fits")
}
