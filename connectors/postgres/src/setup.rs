//! What an administrator has to run on the server before the source can read it: the least role,
//! grants and publication.

use millstream_core::{Finding, Severity, TableId};
use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::catalog;
use crate::config::{SchemaChanges, Settings};
use crate::ddl;
use crate::preflight;
use crate::wire::{Connection, Session};

/// The statements, and what is known of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Why the server could not be looked at; the statements are then those of a server that has
    /// nothing yet.
    pub unreachable: Option<String>,
    /// In the order to run them, each in the `sql` of a finding. An `Error` must be run; others
    /// are for the reader to decide on.
    pub statements: Vec<Finding>,
}

/// What the server lacks, if our own role can log in; else everything.
pub(crate) async fn setup(settings: &Settings) -> Setup {
    match Connection::open(&settings.connect, Session::Sql).await {
        Ok(sql) => {
            sql.close().await;
            Setup {
                unreachable: None,
                statements: missing(settings, preflight::preflight(settings).await),
            }
        }
        Err(error) => Setup {
            unreachable: Some(error.to_string()),
            statements: everything(settings),
        },
    }
}

/// Codes of findings whose statement does no more than a reader needs. The rest changes tables
/// and settings of others, or has a choice in it.
const RUN: [&str; 7] = ["PG0012", "PG0036", "PG0013", "PG0014", "PG0015", "PG0023", "PG0055"];

fn missing(settings: &Settings, findings: Vec<Finding>) -> Vec<Finding> {
    let mut statements: Vec<Finding> = findings
        .into_iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|mut finding| {
            let run = finding.sql.is_some() && finding.code.is_some_and(|code| RUN.contains(&code));
            if !run {
                finding.severity = Severity::Warning;
            }
            finding
        })
        .collect();
    let rank = |finding: &Finding| {
        let place = RUN.iter().position(|code| Some(*code) == finding.code);
        place.unwrap_or(RUN.len())
    };
    statements.sort_by_key(rank);
    // A grant on a schema is missing once, though each of its tables says so.
    let mut told: Vec<String> = Vec::new();
    statements.retain(|statement| match &statement.sql {
        Some(sql) if told.contains(sql) => false,
        Some(sql) => {
            told.push(sql.clone());
            true
        }
        None => true,
    });
    statements.extend(slot(settings));
    statements
}

fn everything(settings: &Settings) -> Vec<Finding> {
    let role = escape_identifier(&settings.connect.user);
    let selection = &settings.selection;
    let present: Vec<&TableId> = selection.named.iter().map(|table| selection.present(table)).collect();
    let tables: Vec<String> = present.iter().copied().map(catalog::quoted).collect();
    let run = |subject: String, message: &str, sql: String| Finding::new(Severity::Error, subject, message).sql(sql);
    let note = |subject: String, message: &str, sql: String| Finding::new(Severity::Warning, subject, message).sql(sql);
    let role_subject = format!("role {}", settings.connect.user);
    // The password is never printed: psql fills it in, and stops where it was not given.
    let password = match settings.connect.password {
        Some(_) => " PASSWORD :'password'",
        None => "",
    };
    let mut statements = vec![
        run(
            role_subject.clone(),
            "reads the log; it needs no other attribute",
            format!("CREATE ROLE {role} LOGIN REPLICATION{password};"),
        ),
        run(
            role_subject.clone(),
            "may connect",
            format!(
                "GRANT CONNECT ON DATABASE {} TO {role};",
                escape_identifier(&settings.connect.database)
            ),
        ),
    ];
    let mut schemas: Vec<String> = Vec::new();
    for table in present {
        let schema = escape_identifier(table.namespace.as_deref().unwrap_or("public"));
        if !schemas.contains(&schema) {
            schemas.push(schema);
        }
    }
    if !tables.is_empty() {
        statements.push(run(
            role_subject.clone(),
            "finds the tables",
            format!("GRANT USAGE ON SCHEMA {} TO {role};", schemas.join(", ")),
        ));
        statements.push(run(
            role_subject,
            "reads them for the first copy",
            format!("GRANT SELECT ON {} TO {role};", tables.join(", ")),
        ));
    }
    for (number, name) in settings.publications.iter().enumerate() {
        let mut list = String::new();
        if number == 0 && !tables.is_empty() {
            list = format!(" FOR TABLE {}", tables.join(", "));
        }
        // Without effect on tables that are not partitioned.
        statements.push(run(
            format!("publication {name}"),
            "sends the tables",
            format!(
                "CREATE PUBLICATION {}{list} WITH (publish_via_partition_root = true);",
                escape_identifier(name)
            ),
        ));
    }
    if settings.schema_changes == SchemaChanges::Trigger {
        statements.push(run(
            "schema_changes".to_owned(),
            "tells changes of columns in the log",
            ddl::install(),
        ));
    }
    for pattern in &settings.selection.patterns {
        statements.push(Finding::new(
            Severity::Warning,
            format!("tables {pattern}"),
            "not known without the server: publish them and grant SELECT on them, or ask again once the role can log in",
        ));
    }
    statements.push(note(
        settings.connect.place(),
        "needed unless SHOW wal_level says `logical`; restart the server after it",
        "ALTER SYSTEM SET wal_level = 'logical';".to_owned(),
    ));
    statements.extend(slot(settings));
    statements
}

fn slot(settings: &Settings) -> Option<Finding> {
    let name = &settings.slot;
    let mut options = String::new();
    if settings.two_phase {
        options.push_str(", twophase => true");
    }
    if settings.care.failover {
        options.push_str(", failover => true");
    }
    Some(
        Finding::new(
            Severity::Info,
            format!("slot {name}"),
            "millstream makes it when it starts; made before, it holds back WAL from now on",
        )
        .sql(format!(
            "SELECT pg_create_logical_replication_slot({}, 'pgoutput'{options});",
            escape_literal(name).trim_start()
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_server_everything_is_printed_but_no_password() {
        let config = serde_json::from_value(serde_json::json!({
            "url": "postgres://o'me:hunter2@db/shop", "publications": ["p", "q"],
            "tables": ["orders", "lines", "sales.tmp_*"], "renamed": {"lines": "Sales.lines"}, "slot": "s",
            "two_phase": true, "failover": true,
        }))
        .unwrap();
        let settings = Settings::read("orders", "shop", &config).unwrap();
        let statements = everything(&settings);
        let run: Vec<&str> = statements
            .iter()
            .filter(|statement| statement.severity == Severity::Error)
            .map(|statement| statement.sql.as_deref().unwrap())
            .collect();
        assert_eq!(
            run,
            [
                "CREATE ROLE \"o'me\" LOGIN REPLICATION PASSWORD :'password';",
                "GRANT CONNECT ON DATABASE \"shop\" TO \"o'me\";",
                "GRANT USAGE ON SCHEMA \"public\", \"Sales\" TO \"o'me\";",
                "GRANT SELECT ON \"public\".\"orders\", \"Sales\".\"lines\" TO \"o'me\";",
                "CREATE PUBLICATION \"p\" FOR TABLE \"public\".\"orders\", \"Sales\".\"lines\" \
                 WITH (publish_via_partition_root = true);",
                "CREATE PUBLICATION \"q\" WITH (publish_via_partition_root = true);",
            ]
        );
        let slot = "SELECT pg_create_logical_replication_slot('s', 'pgoutput', twophase => true, failover => true);";
        assert_eq!(statements.last().unwrap().sql.as_deref(), Some(slot));
        assert!(!format!("{statements:?}").contains("hunter2"));
        assert!(
            statements
                .iter()
                .any(|statement| statement.subject == "tables sales.tmp_*")
        );
    }
}
