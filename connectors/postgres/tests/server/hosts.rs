//! Which server a login reaches, and by what it proves itself.

use millstream_postgres::wire::{ConnectOptions, Connection, Session, WireError};
use millstream_testkit::postgres::{ClusterOptions, PASSWORD, Shutdown, TestCluster};

use crate::authority::Authority;

async fn open(url: &str) -> Result<Connection, WireError> {
    Connection::open(&ConnectOptions::parse(url).unwrap(), Session::Sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_hosts_the_one_that_is_asked_for_is_taken() {
    let primary = TestCluster::new().unwrap();
    let Some(standby) = primary.standby(&[]).unwrap() else {
        return;
    };
    let url = |first: &TestCluster, second: &TestCluster, attrs: &str| {
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", first.port(), second.port());
        format!("postgres://postgres:{PASSWORD}@{hosts}/postgres?target_session_attrs={attrs}")
    };
    let port = async |url: String| {
        let mut connection = open(&url).await?;
        let rows = connection.query("SHOW port").await?;
        rows[0].parse::<u16>(0)
    };
    for (attrs, expected) in [
        ("any", &standby),
        ("primary", &primary),
        ("read-write", &primary),
        ("standby", &standby),
        ("read-only", &standby),
        ("prefer-standby", &standby),
    ] {
        let taken = port(url(&standby, &primary, attrs)).await.unwrap();
        assert_eq!(taken, expected.port(), "{attrs}");
    }
    let first = port(url(&primary, &standby, "prefer-standby")).await.unwrap();
    assert_eq!(first, standby.port());
    // A primary that is read only by default is still the primary.
    let read_only = |on: &str| {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
        primary.psql(&set).unwrap();
        primary.psql("SELECT pg_reload_conf()").unwrap();
    };
    read_only("on");
    crate::target::eventually("the setting is read", || {
        primary.psql("SHOW default_transaction_read_only").unwrap() == "on"
    })
    .await;
    assert_eq!(port(url(&standby, &primary, "primary")).await.unwrap(), primary.port());
    let none = port(url(&standby, &primary, "read-write")).await.unwrap_err();
    assert!(matches!(none, WireError::NotWanted { .. }), "{none}");
    primary.stop(Shutdown::Fast).unwrap();
    let none = port(url(&primary, &standby, "primary")).await.unwrap_err();
    assert!(matches!(none, WireError::NotWanted { .. }), "{none}");
    standby.promote().unwrap();
    assert_eq!(port(url(&primary, &standby, "primary")).await.unwrap(), standby.port());
    let any = port(url(&primary, &standby, "prefer-standby")).await.unwrap();
    assert_eq!(any, standby.port(), "no standby is left");
}

/// `None` where the server has no TLS.
fn with_tls(authority: &Authority) -> Option<TestCluster> {
    let (certificate, key) = authority.sign("localhost", false);
    ClusterOptions::default().launch_tls(certificate, key).unwrap()
}

fn admit(cluster: &TestCluster, lines: &str) {
    let hba = format!("local all all trust\n{lines}");
    std::fs::write(cluster.data_dir().join("pg_hba.conf"), hba).unwrap();
    cluster.psql("SELECT pg_reload_conf()").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_must_be_bound_to_the_channel_sends_no_password_elsewhere() {
    let authority = Authority::new();
    let Some(cluster) = with_tls(&authority) else { return };
    cluster
        .psql(
            "CREATE ROLE plain LOGIN PASSWORD 'p'; CREATE ROLE trusted LOGIN; \
             SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD 'p'",
        )
        .unwrap();
    admit(
        &cluster,
        "host all plain all password\nhost all hashed all md5\nhost all trusted all trust\n\
         host all all all scram-sha-256\n",
    );
    let url = |role: &str, mode: &str, binding: &str| {
        let url = cluster.url_as(role, if role == "postgres" { PASSWORD } else { "p" }, "postgres");
        format!("{url}?sslmode={mode}&channel_binding={binding}")
    };
    assert!(
        open(&url("postgres", "require", "require"))
            .await
            .unwrap()
            .is_channel_bound()
    );
    assert!(
        !open(&url("postgres", "require", "disable"))
            .await
            .unwrap()
            .is_channel_bound()
    );
    for (role, mode) in [
        ("postgres", "disable"),
        ("plain", "require"),
        ("hashed", "require"),
        ("trusted", "require"),
    ] {
        let refused = open(&url(role, mode, "require")).await.err().unwrap();
        assert!(matches!(refused, WireError::NotBound(_)), "{role} {mode}: {refused}");
        assert!(open(&url(role, mode, "prefer")).await.is_ok(), "{role} {mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_a_login() {
    let authority = Authority::new();
    let Some(cluster) = with_tls(&authority) else { return };
    let root = std::fs::read(authority.root()).unwrap();
    std::fs::write(cluster.data_dir().join("clients.pem"), root).unwrap();
    cluster
        .psql("CREATE ROLE reader LOGIN; ALTER SYSTEM SET ssl_ca_file = 'clients.pem'")
        .unwrap();
    admit(&cluster, "hostssl all all all cert\n");
    let url = |parameters: &str| {
        format!(
            "postgres://reader@localhost:{}/postgres?sslmode=verify-full&sslrootcert={}{parameters}",
            cluster.port(),
            authority.root()
        )
    };
    let with = |(certificate, key): (std::path::PathBuf, std::path::PathBuf)| {
        url(&format!("&sslcert={}&sslkey={}", certificate.display(), key.display()))
    };
    let ours = with(authority.sign_client("reader"));
    // The server reads its settings again a moment after it was told to.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut connection = loop {
        match open(&ours).await {
            Ok(connection) => break connection,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let rows = connection.query("SELECT current_user").await.unwrap();
    assert_eq!(rows[0].get(0), Some("reader"));
    let strangers = [
        with(authority.sign_client("other")),
        with(Authority::new().sign_client("reader")),
        url(""),
    ];
    for stranger in strangers {
        assert!(open(&stranger).await.is_err(), "{stranger}");
    }
}
