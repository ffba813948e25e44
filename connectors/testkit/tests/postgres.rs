//! The throw-away cluster itself: starts, authenticates, survives restarts, leaves nothing.

use millstream_testkit::postgres::{ClusterOptions, Shutdown, TestCluster};

#[test]
fn a_cluster_answers_restarts_and_leaves_nothing() {
    let cluster = TestCluster::with_settings(&[("logical_decoding_work_mem", "1MB")]).unwrap();
    assert_eq!(cluster.psql("SHOW wal_level").unwrap(), "logical");
    assert_eq!(cluster.psql("SHOW logical_decoding_work_mem").unwrap(), "1MB");
    cluster
        .psql("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2)")
        .unwrap();
    assert!(
        cluster
            .psql("SELECT * FROM missing")
            .unwrap_err()
            .to_string()
            .contains("missing")
    );

    let (port, pid) = (cluster.port(), cluster.pid());
    cluster.restart(Shutdown::Fast).unwrap();
    cluster.psql("INSERT INTO t VALUES (3)").unwrap();
    cluster.restart(Shutdown::Immediate).unwrap();
    assert_eq!(cluster.port(), port);
    assert_ne!(cluster.pid(), pid);
    assert_eq!(cluster.psql("SELECT count(*) >= 2 FROM t").unwrap(), "t");

    let (folder, pid) = (cluster.socket_dir().to_owned(), cluster.pid().unwrap());
    drop(cluster);
    assert!(!folder.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_bad_setting_is_reported_with_the_servers_log() {
    let error = ClusterOptions::default()
        .setting("shared_buffers", "no size")
        .launch()
        .unwrap_err();
    assert!(format!("{error:#}").contains("shared_buffers"), "{error:#}");
}
