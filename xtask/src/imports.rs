//! Who may depend on whom, read from the manifests.

use cargo_metadata::{DependencyKind, Metadata, Package};

const CORE: &str = "millstream-core";
const SQL: &str = "millstream-sql";
const TESTKIT: &str = "millstream-testkit";
const ROOT: &str = "millstream";
const BENCHES: &str = "millstream-benches";

/// What `core` may use of Arrow: the types, not the compute kernels.
const ARROW_OF_CORE: [&str; 2] = ["arrow-array", "arrow-schema"];

/// One line for each dependency that breaks a rule.
pub fn faults(metadata: &Metadata) -> Vec<String> {
    let packages = metadata.workspace_packages();
    packages.iter().flat_map(|package| package_faults(package)).collect()
}

fn package_faults(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let broken = package.dependencies.iter().filter_map(|dependency| {
        let reason = broken_rule(name, &dependency.name, dependency.kind == DependencyKind::Development)?;
        Some(format!("{name} depends on {}: {reason}", dependency.name))
    });
    broken.collect()
}

/// The rule that `from` breaks by depending on `to`, if any.
fn broken_rule(from: &str, to: &str, in_tests: bool) -> Option<&'static str> {
    let ours = to.starts_with("millstream");
    if to == TESTKIT {
        return (!in_tests && from != TESTKIT).then_some("the testkit is a dev-dependency only");
    }
    if to.starts_with("datafusion") && ![ROOT, SQL].contains(&from) {
        return Some("DataFusion is most of the build, and belongs to `sql` and the daemon alone");
    }
    match from {
        ROOT => None,
        // What it measures.
        BENCHES => None,
        "xtask" => ours.then_some("the repository's checks stand apart from what they check"),
        CORE if ours => Some("the contract depends on no other crate of the workspace"),
        CORE if to.starts_with("arrow") && !ARROW_OF_CORE.contains(&to) => {
            Some("the contract holds Arrow's types, and computes nothing")
        }
        SQL if ours && to != CORE => Some("`sql` knows the contract, and no connector"),
        _ if ours && to != CORE && from != SQL => Some("a connector depends on the contract alone"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_refuses_what_it_names_and_no_more() {
        for (from, to, in_tests, allowed) in [
            ("millstream-core", "millstream-sql", false, false),
            ("millstream-core", "arrow-array", false, true),
            ("millstream-core", "arrow-select", false, false),
            ("millstream-core", "datafusion", true, false),
            ("millstream-kafka", "millstream-core", false, true),
            ("millstream-kafka", "millstream-postgres", false, false),
            ("millstream-kafka", "datafusion-common", false, false),
            ("millstream-kafka", "millstream-testkit", false, false),
            ("millstream-kafka", "millstream-testkit", true, true),
            ("millstream-sql", "datafusion", false, true),
            ("millstream-sql", "millstream-parquet", false, false),
            ("millstream", "millstream-testkit", false, false),
            ("millstream", "millstream-sql", false, true),
            ("millstream-benches", "millstream-postgres", false, true),
            ("millstream-benches", "datafusion", false, false),
            ("xtask", "millstream-core", false, false),
        ] {
            let broken = broken_rule(from, to, in_tests);
            assert_eq!(broken.is_none(), allowed, "{from} -> {to}: {broken:?}");
        }
    }
}
