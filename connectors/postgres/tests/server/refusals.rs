//! `check` names each publication and replica identity by which the server refuses the users' own
//! statements, and its SQL mends it.

use millstream_core::Finding;
use millstream_testkit::postgres::TestCluster;

use crate::target::{check, config};

/// One way to set up a table `t` and a publication `p` so that a statement is refused.
struct Case {
    name: &'static str,
    since: u32,
    setup: &'static str,
    statement: &'static str,
    code: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "no identity",
        since: 14,
        setup: "CREATE TABLE t (id int, note text); CREATE PUBLICATION p FOR TABLE t",
        statement: "DELETE FROM t",
        code: "PG0018",
    },
    Case {
        name: "identity nothing, though there is a key",
        since: 14,
        setup: "CREATE TABLE t (id int PRIMARY KEY, note text); ALTER TABLE t REPLICA IDENTITY NOTHING; \
                CREATE PUBLICATION p FOR TABLE t WITH (publish = 'insert, update, truncate')",
        statement: "UPDATE t SET note = 'b'",
        code: "PG0018",
    },
    Case {
        name: "deferrable key",
        since: 14,
        setup: "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, note text); CREATE PUBLICATION p FOR TABLE t",
        statement: "UPDATE t SET note = 'b'",
        code: "PG0018",
    },
    Case {
        name: "dropped index",
        since: 14,
        setup: "CREATE TABLE t (id int NOT NULL, note text); CREATE UNIQUE INDEX i ON t (id); \
                ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i; CREATE PUBLICATION p FOR TABLE t",
        statement: "UPDATE t SET note = 'b'",
        code: "PG0064",
    },
    Case {
        name: "filter outside the identity",
        since: 15,
        setup: "CREATE TABLE t (id int PRIMARY KEY, note text, other int); \
                CREATE PUBLICATION p FOR TABLE t WHERE (note = 'a' AND id > 0 AND note <> ':varattno 3')",
        statement: "UPDATE t SET note = 'b'",
        code: "PG0062",
    },
    Case {
        name: "list without the identity",
        since: 15,
        setup: "CREATE TABLE t (id int PRIMARY KEY, note text); \
                CREATE PUBLICATION p FOR TABLE t (note) WHERE (id <> 7)",
        statement: "DELETE FROM t",
        code: "PG0063",
    },
    Case {
        name: "list with full identity",
        since: 15,
        setup: "CREATE TABLE t (id int PRIMARY KEY, note text); ALTER TABLE t REPLICA IDENTITY FULL; \
                CREATE PUBLICATION p FOR TABLE t (id, note)",
        statement: "DELETE FROM t",
        code: "PG0063",
    },
    Case {
        name: "a partition without identity, three levels down",
        since: 14,
        setup: "CREATE TABLE t (id int, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
                CREATE TABLE t_mid PARTITION OF t FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id); \
                CREATE TABLE t_leaf PARTITION OF t_mid FOR VALUES FROM (0) TO (50); \
                CREATE TABLE t_fine PARTITION OF t_mid FOR VALUES FROM (50) TO (100); \
                ALTER TABLE t_leaf REPLICA IDENTITY NOTHING; \
                CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = true)",
        statement: "DELETE FROM t",
        code: "PG0018",
    },
    Case {
        name: "the root's filter, and a partition's identity",
        since: 15,
        setup: "CREATE TABLE t (id int, note text NOT NULL, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
                CREATE TABLE t_1 (note text NOT NULL, id int NOT NULL PRIMARY KEY); \
                ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (0) TO (10); \
                CREATE PUBLICATION p FOR TABLE t WHERE (note = 'a') WITH (publish_via_partition_root = true)",
        statement: "UPDATE t SET note = 'b'",
        code: "PG0062",
    },
    Case {
        name: "generated column in the identity's index",
        since: 18,
        setup: "CREATE TABLE t (id int, note text, g int GENERATED ALWAYS AS (id) STORED NOT NULL UNIQUE); \
                ALTER TABLE t REPLICA IDENTITY USING INDEX t_g_key; CREATE PUBLICATION p FOR TABLE t",
        statement: "UPDATE t SET note = 'b'",
        code: "PG0065",
    },
    Case {
        name: "generated column in a full identity",
        since: 18,
        setup: "CREATE TABLE t (id int PRIMARY KEY, note text, g int GENERATED ALWAYS AS (id) STORED); \
                ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t",
        statement: "DELETE FROM t",
        code: "PG0065",
    },
    Case {
        name: "virtual column in a full identity",
        since: 18,
        setup: "CREATE TABLE t (id int PRIMARY KEY, note text, g int GENERATED ALWAYS AS (id) VIRTUAL); \
                ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t",
        statement: "DELETE FROM t",
        code: "PG0065",
    },
];

async fn look(cluster: &TestCluster) -> Vec<Finding> {
    let mut findings = check(&config(cluster, &["t"])).await;
    // Operations that are not sent are another matter.
    findings.retain(|finding| finding.code != Some("PG0016"));
    findings
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_found_before_and_mended() {
    let cluster = TestCluster::new().unwrap();
    for case in CASES {
        let name = case.name;
        if !cluster.has(&format!("case `{name}`"), case.since).unwrap() {
            continue;
        }
        cluster
            .psql(case.setup)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let findings = look(&cluster).await;
        let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, [Some(case.code)], "{name}: {findings:?}");
        // The insert is not what is refused.
        cluster.psql("INSERT INTO t (id, note) VALUES (1, 'a')").unwrap();
        let refusal = cluster.psql(case.statement).unwrap_err().to_string();
        let operation = case.statement.split(' ').next().unwrap();
        assert!(refusal.contains(&operation.to_lowercase()), "{name}: {refusal}");
        assert!(findings[0].message.contains(operation), "{name}: {findings:?}");
        let sql = findings[0].sql.as_ref().unwrap_or_else(|| panic!("{name} has no SQL"));
        cluster
            .psql(sql)
            .unwrap_or_else(|error| panic!("{name}: {sql}: {error}"));
        assert_eq!(look(&cluster).await, [], "{name}, after {sql}");
        cluster
            .psql(case.statement)
            .unwrap_or_else(|error| panic!("{name}, after {sql}: {error}"));
        cluster.psql("DROP PUBLICATION p; DROP TABLE t").unwrap();
    }
}

/// What a publication does not send it does not refuse.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_allows_is_no_finding() {
    let cluster = TestCluster::new().unwrap();
    let mut cases = vec![
        "CREATE TABLE t (id int, note text); CREATE PUBLICATION p FOR TABLE t WITH (publish = 'insert, truncate')",
        "CREATE TABLE t (id int, note text); ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t",
        "CREATE TABLE t (id int, note text NOT NULL); CREATE UNIQUE INDEX i ON t (note); \
         ALTER TABLE t REPLICA IDENTITY USING INDEX i; CREATE PUBLICATION p FOR TABLE t",
    ];
    if cluster.has("row filters and column lists", 15).unwrap() {
        cases.extend([
            "CREATE TABLE t (id int, note text, PRIMARY KEY (id, note)); \
             CREATE PUBLICATION p FOR TABLE t WHERE (note = 'a')",
            "CREATE TABLE t (id int PRIMARY KEY, note text, other int); CREATE PUBLICATION p FOR TABLE t (id, note)",
            "CREATE TABLE t (id int, note text); ALTER TABLE t REPLICA IDENTITY FULL; \
             CREATE PUBLICATION p FOR TABLE t WHERE (note = 'a')",
        ]);
    }
    for setup in cases {
        cluster.psql(setup).unwrap();
        assert_eq!(look(&cluster).await, [], "{setup}");
        cluster
            .psql("INSERT INTO t (id, note) VALUES (1, 'a'); UPDATE t SET note = 'b'; DELETE FROM t")
            .unwrap_or_else(|error| panic!("{setup}: {error}"));
        cluster.psql("DROP PUBLICATION p; DROP TABLE t").unwrap();
    }
}

/// The server lets these pass, but the changes would not say which row they concern.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_identify_rows_in_another_way_are_found() {
    let cluster = TestCluster::new().unwrap();
    let table = "CREATE TABLE t (id int, code int NOT NULL, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
                 CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10); \
                 CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (10) TO (20); \
                 CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = true);";
    let other_index = "CREATE UNIQUE INDEX i ON t_1 (code); ALTER TABLE t_1 REPLICA IDENTITY USING INDEX i";
    let full_root = "ALTER TABLE t REPLICA IDENTITY FULL";
    for (setup, partitions) in [
        (other_index, "partition public.t_1:"),
        (full_root, "partition public.t_1 and 1 more:"),
    ] {
        cluster.psql(&format!("{table} {setup}")).unwrap();
        let findings = look(&cluster).await;
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].code, Some("PG0066"));
        assert!(findings[0].message.starts_with(partitions), "{findings:?}");
        cluster.psql(findings[0].sql.as_ref().unwrap()).unwrap();
        assert_eq!(look(&cluster).await, [], "{setup}");
        cluster.psql("DROP PUBLICATION p; DROP TABLE t").unwrap();
    }
}
