//! The suite that every source runs.

use async_trait::async_trait;
use millstream_core::{Checkpoint, PartitionId, Position, Source};
use millstream_testkit::postgres::{ClusterOptions, TestCluster};
use millstream_testkit::source_suite::{self, SourceSubject};

use crate::authority::Authority;
use crate::target::{config, source};

struct Subject {
    cluster: TestCluster,
    /// What follows the URL.
    parameters: String,
}

#[async_trait]
impl SourceSubject for Subject {
    async fn source(&self) -> Box<dyn Source> {
        // No reader of the suite confirms anything, so that one slot serves all.
        let mut config = config(&self.cluster, &["orders", "lines"]);
        let url = self.cluster.url().replace("127.0.0.1", "localhost");
        config["url"] = format!("{url}{}", self.parameters).into();
        Box::new(source(&config))
    }

    fn is_complete(&self, read: &Checkpoint) -> bool {
        let copied = |table| *read.position(&PartitionId::new("shop", format!("copy/public.{table}"))) == Position::End;
        copied("orders") && copied("lines")
    }

    fn rows(&self) -> usize {
        700
    }

    fn resumes(&self) -> usize {
        4
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_keeps_its_promises() {
    keep_promises(TestCluster::new().unwrap(), String::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_keeps_its_promises_over_tls() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost", false);
    let Some(cluster) = ClusterOptions::default().launch_tls(certificate, key).unwrap() else {
        return;
    };
    let parameters = format!("?sslmode=verify-full&sslrootcert={}", authority.root());
    keep_promises(cluster, parameters).await;
}

async fn keep_promises(cluster: TestCluster, parameters: String) {
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE TABLE lines (id int PRIMARY KEY); \
             CREATE PUBLICATION p FOR ALL TABLES; \
             SELECT pg_create_logical_replication_slot('millstream_t_shop', 'pgoutput');",
        )
        .unwrap();
    cluster
        .psql("INSERT INTO orders SELECT i, 'n' FROM generate_series(1, 500) i")
        .unwrap();
    cluster
        .psql("INSERT INTO lines SELECT generate_series(1, 200)")
        .unwrap();
    source_suite::run(&Subject { cluster, parameters }).await;
}
