//! Logging in: TLS, channel binding, passwords, and what is said when it fails.

use std::path::{Path, PathBuf};

use millstream_postgres::wire::{ConnectOptions, Connection, Session, WireError};
use millstream_testkit::postgres::{ClusterOptions, PASSWORD, TestCluster};

use crate::authority::Authority;
use crate::target::{Running, Target, check, config, source};

/// `None` where the server has no TLS.
fn with_tls((certificate, key): (PathBuf, PathBuf)) -> Option<TestCluster> {
    ClusterOptions::default().launch_tls(certificate, key).unwrap()
}

async fn open(url: &str) -> Result<Connection, WireError> {
    Connection::open(&ConnectOptions::parse(url).unwrap(), Session::Sql).await
}

/// The code and message of the one finding of a preflight.
async fn finding(cluster: &TestCluster, url: String) -> (String, String) {
    let mut config = config(cluster, &["t"]);
    config["url"] = url.into();
    let findings = check(&config).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].hint.is_some(), "{findings:?}");
    let shown = format!("{findings:?}");
    assert!(
        !shown.contains(PASSWORD) && !shown.contains("guessed"),
        "a secret is shown: {shown}"
    );
    (findings[0].code.unwrap().to_owned(), findings[0].message.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_as_asked_and_binds_the_login() {
    let authority = Authority::new();
    let Some(cluster) = with_tls(authority.sign("localhost", false)) else {
        return;
    };
    let url = |mode: &str| format!("{}?sslmode={mode}", cluster.url().replace("127.0.0.1", "localhost"));
    let root = authority.root();
    for mode in [
        "prefer",
        "require",
        &format!("verify-ca&sslrootcert={root}"),
        &format!("verify-full&sslrootcert={root}"),
    ] {
        let mut connection = open(&url(mode)).await.unwrap();
        assert!(connection.is_encrypted() && connection.is_channel_bound(), "{mode}");
        let rows = connection
            .query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            .await
            .unwrap();
        assert!(rows[0].is_true(0), "{mode}");
    }
    assert!(!open(&url("disable")).await.unwrap().is_encrypted());

    let by_address = format!("{}?sslmode=verify-full&sslrootcert={root}", cluster.url());
    assert_eq!(finding(&cluster, by_address).await.0, "PG0007");
    let unnamed = format!("{}?sslmode=verify-ca&sslrootcert={root}", cluster.url());
    assert!(open(&unnamed).await.unwrap().is_encrypted());
    let stranger = Authority::new();
    let other_root = url(&format!("verify-full&sslrootcert={}", stranger.root()));
    assert_eq!(finding(&cluster, other_root).await.0, "PG0005");
    let missing = url("verify-full&sslrootcert=/nowhere/ca.pem");
    assert_eq!(finding(&cluster, missing).await.0, "PG0008");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_and_stream_are_encrypted() {
    let authority = Authority::new();
    let Some(cluster) = with_tls(authority.sign("localhost", false)) else {
        return;
    };
    cluster
        .psql(
            "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1); \
             CREATE PUBLICATION p FOR ALL TABLES",
        )
        .unwrap();
    // Nobody gets in without TLS.
    let hba = "local all all trust\nhostssl all all all scram-sha-256\n";
    std::fs::write(cluster.data_dir().join("pg_hba.conf"), hba).unwrap();
    cluster.psql("SELECT pg_reload_conf()").unwrap();
    let mut config = config(&cluster, &["orders"]);
    let url = cluster.url().replace("127.0.0.1", "localhost");
    config["url"] = format!("{url}?sslmode=verify-full&sslrootcert={}", authority.root()).into();
    let mut run = Running::start(source(&config), Target::of(&["orders"]));
    run.until_streaming(&cluster).await;
    let ssl = cluster
        .psql("SELECT ssl FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)")
        .unwrap();
    assert_eq!(ssl, "t");
    cluster.psql("INSERT INTO orders VALUES (2)").unwrap();
    run.catch_up(&cluster).await;
    assert_eq!(run.stop().await.folded("orders", "id").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_named_as_such() {
    let authority = Authority::new();
    let Some(cluster) = with_tls(authority.sign("localhost", true)) else {
        return;
    };
    let url = cluster.url().replace("127.0.0.1", "localhost");
    let (code, message) = finding(
        &cluster,
        format!("{url}?sslmode=verify-full&sslrootcert={}", authority.root()),
    )
    .await;
    assert_eq!(code, "PG0006", "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_to_connect_has_its_own_finding() {
    let cluster = TestCluster::new().unwrap();
    let (code, message) = finding(&cluster, cluster.url_as("postgres", "guessed", "postgres")).await;
    assert_eq!(
        (code.as_str(), message.contains("28P01")),
        ("PG0002", true),
        "{message}"
    );
    assert_eq!(
        finding(
            &cluster,
            format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port())
        )
        .await
        .0,
        "PG0002"
    );
    assert_eq!(
        finding(&cluster, cluster.url_as("postgres", PASSWORD, "nowhere"))
            .await
            .0,
        "PG0003"
    );
    assert_eq!(
        finding(&cluster, format!("{}?sslmode=require", cluster.url())).await.0,
        "PG0004"
    );
    let closed = millstream_testkit::ports::free_port();
    assert_eq!(
        finding(&cluster, format!("postgres://a@127.0.0.1:{closed}/b")).await.0,
        "PG0001"
    );
    assert_eq!(
        finding(&cluster, "postgres://a@nowhere.invalid/b".to_owned()).await.0,
        "PG0001"
    );
    // A listener that says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    assert_eq!(
        finding(&cluster, format!("postgres://a@127.0.0.1:{port}/b?connect_timeout=1"))
            .await
            .0,
        "PG0001"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_authentication_and_the_unix_socket_work() {
    let cluster = TestCluster::new().unwrap();
    cluster
        .psql(
            "SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD 'p/ä%'; \
             SET password_encryption = 'scram-sha-256'; CREATE ROLE plain LOGIN PASSWORD 'p'; CREATE DATABASE hashed;",
        )
        .unwrap();
    let hba = cluster.data_dir().join("pg_hba.conf");
    let lines =
        "local all all trust\nhost all hashed all md5\nhost all plain all password\nhost all all all scram-sha-256\n";
    std::fs::write(Path::new(&hba), lines).unwrap();
    cluster.psql("SELECT pg_reload_conf()").unwrap();
    for url in [
        cluster.url_as("hashed", "p%2F%C3%A4%25", "hashed"),
        cluster.url_as("plain", "p", "postgres"),
        cluster.url(),
        format!(
            "postgres://postgres@/postgres?host={}&port={}",
            cluster.socket_dir().display(),
            cluster.port()
        ),
        format!(
            "postgres://postgres:{PASSWORD}@127.0.0.1:1,127.0.0.1:{}/postgres",
            cluster.port()
        ),
    ] {
        let mut connection = open(&url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(
            connection.query("SELECT 1; SELECT 2").await.unwrap()[0].get(0),
            Some("2")
        );
        assert!(connection.query("SELECT nonsense").await.is_err());
        for (setting, value) in [("TimeZone", "UTC"), ("row_security", "off"), ("jit", "off")] {
            let found = connection.query(&format!("SHOW {setting}")).await.unwrap();
            assert_eq!(found[0].get(0), Some(value), "{setting}");
        }
        assert!(connection.server_version() >= 140_000);
    }
}
