//! The suite that every sink passes.

use arrow_array::RecordBatch;
use async_trait::async_trait;
use millstream_core::Sink;
use millstream_core::config::Secret;
use millstream_parquet::{ParquetConfig, ParquetSink};
use millstream_testkit::seaweedfs::TestS3;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_conforms_on_s3() {
    let s3 = TestS3::start("lake").expect("SeaweedFS starts");
    sink_suite::run(&Lake::on_s3(&s3).await).await;
}

/// No server for these is at hand, so that only their set-up is tested.
#[test]
fn sinks_on_azure_and_google_are_set_up_without_io() {
    for (url, options) in [
        (
            "az://lake/shop",
            &[
                ("azure_storage_account_name", "shop"),
                ("azure_storage_account_key", "c2VjcmV0"),
            ][..],
        ),
        (
            "abfss://lake@shop.dfs.core.windows.net/orders",
            &[("azure_storage_use_emulator", "false")][..],
        ),
        ("gs://lake/shop", &[("google_skip_signature", "true")][..]),
    ] {
        let mut config = ParquetConfig::new(url);
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Secret::new(*value)));
        config.options = options.collect();
        if let Err(error) = ParquetSink::new(config) {
            panic!("{url}: {}", error.summary());
        }
    }
}
