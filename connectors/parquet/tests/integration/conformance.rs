//! The suite that every sink passes.

use arrow_array::RecordBatch;
use async_trait::async_trait;
use millstream_core::Sink;
use millstream_testkit::sink_suite::{self, SinkSubject};

use crate::lake::Lake;

#[async_trait]
impl SinkSubject for Lake {
    async fn sink(&self) -> Box<dyn Sink> {
        Box::new(Lake::sink(self))
    }

    async fn committed(&self, table: &str) -> Vec<RecordBatch> {
        self.rows(table).await
    }

    async fn quarantined(&self, table: &str) -> Vec<RecordBatch> {
        Lake::quarantined(self, table).await
    }
}

#[tokio::test]
async fn the_sink_conforms_in_a_folder() {
    sink_suite::run(&Lake::in_folder().await).await;
}

#[tokio::test]
async fn the_sink_conforms_on_an_object_store() {
    sink_suite::run(&Lake::in_memory().await).await;
}

#[tokio::test]
async fn the_sink_conforms_where_no_file_holds_more_than_two_rows() {
    let mut lake = Lake::in_memory().await;
    lake.config.file.rows = Some(2);
    lake.config.partition_by = vec!["bucket(3, id)".parse().unwrap()];
    sink_suite::run(&lake).await;
}
