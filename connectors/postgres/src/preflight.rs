//! Everything that would stop the source, found without changing anything, with the statement
//! that mends it.

use millstream_core::envelope;
use millstream_core::{Finding, Severity, TableId};
use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::catalog::{self, CatalogTable, Partition, Slot};
use crate::config::{SchemaChanges, Settings, Unchanged};
use crate::ddl;
use crate::recopy::Recopy;
use crate::refusals::{self, Coverage, Rules};
use crate::standby;
use crate::wire::{Connection, Session, WireError};
use crate::{fault, selection};

/// The oldest server that pgoutput's binary mode and our catalog queries work with.
const OLDEST_SERVER: u32 = 140_000;

/// Looks at the server; being unable to is a finding too.
pub(crate) async fn preflight(settings: &Settings) -> Vec<Finding> {
    let mut sql = match Connection::open(&settings.connect, Session::Sql).await {
        Ok(sql) => sql,
        Err(error) => return vec![fault::finding(error, "cannot connect", &settings.connect)],
    };
    if sql.server_version() < OLDEST_SERVER {
        let version = sql.server_version();
        let message = format!("PostgreSQL {}.{} is older than 14", version / 10_000, version % 10_000);
        return vec![
            Finding::new(Severity::Error, settings.connect.place(), message)
                .code("PG0010")
                .hint("upgrade the server, or read from a newer one"),
        ];
    }
    let too_old = crate::run::refuse_old_server(settings, sql.server_version()).err();
    let findings = match look(&mut sql, settings).await {
        Ok(facts) => {
            let mut findings = facts.findings(settings);
            let (place, failover) = (settings.connect.place(), settings.care.failover);
            let refused = standby::finding(&place, sql.server_version(), facts.in_recovery, failover);
            let (held_back, standbys) = (facts.held_back.as_deref(), facts.standbys.as_deref());
            findings.extend(refused);
            findings.extend(standby::unguarded(&place, failover, held_back, standbys));
            match unseen(&mut sql, settings).await {
                Ok(unseen) => findings.extend(unseen),
                Err(error) => findings.push(fault::finding(error, "cannot read the catalog", &settings.connect)),
            }
            findings.extend(too_old.map(|error| fault::refusal(&error, &settings.connect)));
            findings
        }
        Err(error) => vec![fault::finding(error, "cannot read the catalog", &settings.connect)],
    };
    sql.close().await;
    findings
}

/// What the way in which changes of columns are followed does not see.
async fn unseen(sql: &mut Connection, settings: &Settings) -> Result<Vec<Finding>, WireError> {
    let found = |severity, message: &str| Finding::new(severity, "schema_changes", message);
    Ok(match settings.schema_changes {
        SchemaChanges::Catalog => vec![
            found(
                Severity::Info,
                "`catalog`: which column is which is looked up when a change of columns is read: what was changed once \
                 more by then may have to be told by names and places",
            )
            .hint("`trigger` has the database tell it in the log"),
        ],
        SchemaChanges::Stream => vec![
            found(
                Severity::Info,
                "`stream`: which column has a new name is told by its place alone, and a name that passes to another \
                 column is not noticed",
            )
            .hint("`catalog` knows columns by their numbers"),
        ],
        SchemaChanges::Trigger => {
            let rows = sql.query(&ddl::look()).await?;
            let lacks = rows.first().and_then(|row| {
                let reasons = [
                    "the event triggers that it needs are not there",
                    "the event triggers that it needs are disabled, or not enabled for everyone",
                    "the event triggers that it needs are another version's",
                    "the event triggers that it needs have a function of another role",
                ];
                (0..)
                    .zip(reasons)
                    .find(|(index, _)| !row.is_true(*index))
                    .map(|(_, reason)| reason)
            });
            let mut findings = vec![found(
                Severity::Info,
                "`trigger`: what a table was like before the first command that is told is looked up in the catalog, \
                 and so is what was changed while the event triggers were not there; DROP INDEX and changes of types \
                 are not told",
            )];
            findings.extend(lacks.map(|lacks| {
                let message = format!("`trigger`: {lacks}");
                found(Severity::Error, &message)
                    .code("PG0055")
                    .sql(ddl::install())
                    .hint("a superuser runs it in the database that is read; `catalog` needs no trigger")
            }));
            findings
        }
    })
}

async fn look(sql: &mut Connection, settings: &Settings) -> Result<Facts, WireError> {
    let rows = sql.query(SERVER_QUERY).await?;
    let server = rows
        .first()
        .ok_or_else(|| WireError::Protocol("no answer to a catalog query".to_owned()))?;
    let publications = sql
        .query("SELECT pubname, pubviaroot FROM pg_catalog.pg_publication")
        .await?;
    let publications = publications
        .iter()
        .map(|row| (row.get(0).unwrap_or_default().to_owned(), row.is_true(1)));
    let publications: Vec<(String, bool)> = publications
        .filter(|(name, _)| settings.publications.contains(name))
        .collect();
    let (mut wanted, idle) = selection::published(sql, settings).await?;
    if publications.is_empty() || !idle.is_empty() {
        // What could be published, so that it can be said how.
        let candidates = selection::candidates(sql, settings).await?;
        let new = candidates.into_iter().filter(|id| {
            let meant = publications.is_empty() || idle.iter().any(|pattern| pattern.matches_table(id));
            meant && !wanted.contains(id)
        });
        let new: Vec<TableId> = new.collect();
        wanted.extend(new);
    }
    let tables = catalog::read_tables(sql, settings, &wanted).await?;
    Ok(Facts {
        wal_level: server.get(0).unwrap_or_default().to_owned(),
        may_replicate: server.is_true(1),
        max_slots: server.parse(2)?,
        used_slots: server.parse(3)?,
        max_senders: server.parse(4)?,
        used_senders: server.parse(5)?,
        role: server.get(6).unwrap_or_default().to_owned(),
        database: server.get(7).unwrap_or_default().to_owned(),
        encoding: server.get(8).unwrap_or_default().to_owned(),
        in_recovery: catalog::read_log_end(sql).await?.is_none(),
        publications,
        idle: idle.iter().map(ToString::to_string).collect(),
        held_back: server.get(9).map(str::to_owned),
        standbys: server.get(10).map(str::to_owned),
        slot: catalog::read_slot(sql, &settings.slot).await?,
        rules: refusals::read(sql, &settings.publications, &tables).await?,
        partitions: catalog::read_partitions(sql, &tables, &settings.slot).await?.partitions,
        wanted,
        tables,
    })
}

/// `rds_replication` is how Amazon RDS grants what is an attribute of the role elsewhere.
const SERVER_QUERY: &str = "SELECT current_setting('wal_level'), \
    COALESCE((SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles WHERE rolname = current_user), false) \
    OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'rds_replication' \
    AND pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER')), \
    current_setting('max_replication_slots'), (SELECT count(*) FROM pg_catalog.pg_replication_slots), \
    current_setting('max_wal_senders'), (SELECT count(*) FROM pg_catalog.pg_stat_replication), \
    current_user, current_database(), current_setting('server_encoding'), \
    current_setting('synchronized_standby_slots', true), \
    (SELECT string_agg(slot_name, ', ') FROM pg_catalog.pg_replication_slots \
    WHERE slot_type = 'physical' AND NOT temporary)";

struct Facts {
    wal_level: String,
    may_replicate: bool,
    max_slots: u32,
    used_slots: u32,
    max_senders: u32,
    used_senders: u32,
    role: String,
    database: String,
    encoding: String,
    in_recovery: bool,
    /// Those of the configured ones that exist, each with its `publish_via_partition_root`.
    publications: Vec<(String, bool)>,
    /// `synchronized_standby_slots`, where there is such a setting.
    held_back: Option<String>,
    /// The names of the physical slots.
    standbys: Option<String>,
    slot: Option<Slot>,
    /// Patterns that match nothing.
    idle: Vec<String>,
    wanted: Vec<TableId>,
    tables: Vec<CatalogTable>,
    rules: Rules,
    partitions: Vec<Partition>,
}

impl Facts {
    fn findings(&self, settings: &Settings) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.judge_server(settings, &mut findings);
        self.judge_slot(settings, &mut findings);
        self.judge_publication(settings, &mut findings);
        for id in &self.wanted {
            match self.tables.iter().find(|table| table.id == *id) {
                Some(table) => self.judge_table(settings, table, &mut findings),
                None => findings.push(
                    Finding::new(Severity::Error, id.within_source(), "there is no such table")
                        .code("PG0017")
                        .hint(selection::missing_hint(settings.selection.renamed(id))),
                ),
            }
        }
        findings
    }

    fn judge_server(&self, settings: &Settings, findings: &mut Vec<Finding>) {
        let place = settings.connect.place();
        if self.wal_level != "logical" {
            let message = format!("wal_level is `{}`, logical replication needs `logical`", self.wal_level);
            findings.push(
                Finding::new(Severity::Error, place.clone(), message)
                    .code("PG0011")
                    .sql("ALTER SYSTEM SET wal_level = 'logical';")
                    .hint("takes effect when the server is restarted"),
            );
        }
        if !self.may_replicate {
            let message = format!("role `{}` lacks the REPLICATION attribute", self.role);
            findings.push(
                Finding::new(Severity::Error, place.clone(), message)
                    .code("PG0012")
                    .sql(format!("ALTER ROLE {} REPLICATION;", escape_identifier(&self.role)))
                    .hint("on Amazon RDS: GRANT rds_replication TO the role"),
            );
        }
        if self.slot.is_none() && self.used_slots >= self.max_slots {
            let message = format!("all {} replication slots are taken", self.max_slots);
            findings.push(
                Finding::new(Severity::Error, place.clone(), message)
                    .code("PG0019")
                    .sql(format!(
                        "ALTER SYSTEM SET max_replication_slots = {};",
                        self.max_slots + 4
                    ))
                    .hint("takes effect when the server is restarted; or drop a slot that nobody reads"),
            );
        }
        if self.encoding == "SQL_ASCII" {
            let message = "the database does not know the encoding of its texts (SQL_ASCII)";
            findings.push(
                Finding::new(Severity::Warning, place.clone(), message)
                    .code("PG0037")
                    .hint("a text that is not UTF-8 stops the pipeline when it is read"),
            );
        }
        let our_own = u32::from(self.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some()));
        if self.used_senders.saturating_sub(our_own) >= self.max_senders {
            let message = format!("all {} WAL senders are taken", self.max_senders);
            findings.push(
                Finding::new(Severity::Error, place, message)
                    .code("PG0019")
                    .sql(format!("ALTER SYSTEM SET max_wal_senders = {};", self.max_senders + 4))
                    .hint("takes effect when the server is restarted"),
            );
        }
    }

    fn judge_slot(&self, settings: &Settings, findings: &mut Vec<Finding>) {
        let Some(slot) = &self.slot else { return };
        let name = &settings.slot;
        let mut error = |code, message: String| {
            findings.push(
                Finding::new(Severity::Error, format!("slot {name}"), message)
                    .code(code)
                    .sql(format!("SELECT pg_drop_replication_slot({});", escape_literal(name)))
                    .hint("drop it if nobody needs it, or give this source another with `slot:`"),
            );
        };
        if slot.plugin.as_deref() != Some("pgoutput") {
            let plugin = slot.plugin.as_deref().unwrap_or("physical replication");
            error(
                "PG0021",
                format!("the slot exists, but for `{plugin}` and not for `pgoutput`"),
            );
        } else if slot.database.as_deref() != Some(&self.database) {
            let database = slot.database.as_deref().unwrap_or_default();
            error("PG0021", format!("the slot exists, but in database `{database}`"));
        }
        if slot.wal_status.as_deref() == Some("lost") {
            let reason = slot.invalidation.iter().map(|reason| format!(" ({reason})"));
            error("PG0022", format!("{}{}", slot.loss(), reason.collect::<String>()));
        }
        if let Some(pid) = slot.active_pid {
            findings.push(
                Finding::new(
                    Severity::Warning,
                    format!("slot {name}"),
                    format!("process {pid} is reading the slot"),
                )
                .code("PG0020")
                .hint("expected if this pipeline runs already; otherwise find out who reads it before you end it")
                .sql(format!("SELECT * FROM pg_stat_replication WHERE pid = {pid};")),
            );
        }
    }

    fn judge_publication(&self, settings: &Settings, findings: &mut Vec<Finding>) {
        for name in &settings.publications {
            if self.publications.iter().any(|(known, _)| known == name) {
                self.judge_operations(name, findings);
                continue;
            }
            let uncovered = self.tables.iter().filter(|table| !table.published);
            let tables: Vec<String> = if self.publications.is_empty() {
                self.wanted
                    .iter()
                    .map(|id| {
                        let found = self.tables.iter().find(|table| table.id == *id);
                        catalog::quoted(found.map_or(settings.selection.present(id), |table| &table.present))
                    })
                    .collect()
            } else {
                uncovered.map(|table| catalog::quoted(&table.present)).collect()
            };
            let mut tables = if tables.is_empty() {
                String::new()
            } else {
                format!(" FOR TABLE {}", tables.join(", "))
            };
            if self.tables.iter().any(|table| table.kind == "p") {
                tables.push_str(" WITH (publish_via_partition_root = true)");
            }
            let create = format!("CREATE PUBLICATION {}{tables};", escape_identifier(name));
            findings.push(
                Finding::new(
                    Severity::Error,
                    format!("publication {name}"),
                    "there is no such publication",
                )
                .code("PG0014")
                .sql(create),
            );
        }
        if !self.publications.is_empty() {
            findings.extend(self.idle.iter().map(|pattern| {
                Finding::new(Severity::Error, format!("tables {pattern}"), selection::NO_MATCH)
                    .code("PG0060")
                    .hint(selection::NO_MATCH_HINT)
            }));
        }
    }

    /// What the publication does not send of its tables, and none of the others does either.
    fn judge_operations(&self, name: &str, findings: &mut Vec<Finding>) {
        let coverage = &self.rules.coverage;
        // Whether there is a table of this publication that no publication sends the operation of.
        let lacks = |sent: &dyn Fn(&Coverage) -> bool| {
            let mut covered = coverage.iter().filter(|one| one.publication == name);
            covered.any(|one| !coverage.iter().any(|other| other.table == one.table && sent(other)))
        };
        let operations = [
            ("insert", lacks(&|one| one.insert)),
            ("update", lacks(&|one| one.update)),
            ("delete", lacks(&|one| one.delete)),
            ("truncate", lacks(&|one| one.truncate)),
        ];
        let missing: Vec<&str> = operations
            .iter()
            .filter(|(_, lacking)| *lacking)
            .map(|(operation, _)| *operation)
            .collect();
        if missing.is_empty() {
            return;
        }
        let message = format!(
            "it does not publish {}; the target will not see them",
            missing.join(", ")
        );
        findings.push(
            Finding::new(Severity::Warning, format!("publication {name}"), message)
                .code("PG0016")
                .sql(format!(
                    "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');",
                    escape_identifier(name)
                )),
        );
    }

    fn judge_table(&self, settings: &Settings, table: &CatalogTable, findings: &mut Vec<Finding>) {
        let (subject, quoted) = (table.id.within_source(), catalog::quoted(&table.present));
        let found = |severity, code, message: String| Finding::new(severity, subject.clone(), message).code(code);
        if !matches!(table.kind.as_str(), "r" | "p") {
            let message = "it is not a table: views, foreign tables and the like are not replicated".to_owned();
            findings.push(found(Severity::Error, "PG0017", message));
            return;
        }
        if let Some(now) = settings
            .selection
            .renamed(&table.id)
            .filter(|_| table.present == table.id)
        {
            let now = now.within_source();
            let message = format!("nothing is called `{now}` yet: it is read under the name that it had");
            findings.push(Finding::new(Severity::Info, subject.clone(), message));
        }
        if !table.schema_usable {
            let schema = escape_identifier(table.present.namespace.as_deref().unwrap_or("public"));
            let grant = format!("GRANT USAGE ON SCHEMA {schema} TO {};", escape_identifier(&self.role));
            let message = format!("role `{}` may not use its schema", self.role);
            findings.push(found(Severity::Error, "PG0013", message).sql(grant));
        }
        if !table.readable {
            let columns = self.rules.columns_to_read(table).map_or(String::new(), |columns| {
                let columns: Vec<String> = columns.iter().map(|name| escape_identifier(name)).collect();
                format!(" ({})", columns.join(", "))
            });
            let role = escape_identifier(&self.role);
            let grant = format!("GRANT SELECT{columns} ON {quoted} TO {role};");
            let need = match settings.unchanged {
                Unchanged::Mark => "which the first copy needs",
                Unchanged::Reread => "which the first copy and `unchanged: reread` need",
            };
            let message = format!("role `{}` may not read it, {need}", self.role);
            findings.push(found(Severity::Error, "PG0013", message).sql(grant));
        }
        if table.row_security {
            let role = escape_identifier(&self.role);
            let message = format!("row-level security hides rows of it from role `{}`", self.role);
            findings.push(
                found(Severity::Error, "PG0036", message)
                    .sql(format!("ALTER ROLE {role} BYPASSRLS;"))
                    .hint("the first copy needs all rows; the stream has them in any case"),
            );
        }
        for column in table
            .columns
            .iter()
            .filter(|column| envelope::is_reserved(&column.name))
        {
            let message = format!("column `{}` begins with `__`, which is reserved", column.name);
            findings.push(
                found(Severity::Error, "PG0030", message)
                    .hint("rename it, or leave it out with a column list in the publication"),
            );
        }
        if self.publications.is_empty() {
            return;
        }
        if table.published {
            findings.extend(self.rules.judge(table));
            let partitions = self
                .partitions
                .iter()
                .filter(|one| one.root == table.oid && one.is_leaf && one.was_a_table && one.is_recent)
                .filter(|_| settings.recopy == Recopy::Never);
            findings.extend(partitions.map(|partition| {
                let message = format!(
                    "partition {} was attached with the rows that it may have had",
                    partition.name
                );
                let name = partition.name.replace('\'', "''");
                found(Severity::Warning, "PG0053", message).hint(format!(
                    "if it had any and the table was copied before: millstream backfill PIPELINE {} --where \
                     \"tableoid = '{name}'::regclass\"",
                    table.id.within_source()
                ))
            }));
        } else {
            findings.push(self.not_published(settings, table, found));
        }
    }

    fn not_published(
        &self,
        settings: &Settings,
        table: &CatalogTable,
        found: impl Fn(Severity, &'static str, String) -> Finding,
    ) -> Finding {
        let names = settings.publications.join("`, `");
        if let Some(root) = self.rules.root(table) {
            let message =
                format!("its changes come under the name of {root}, which publishes its partitions as its own");
            return found(Severity::Error, "PG0023", message)
                .hint("name the partitioned table in `tables`, or set publish_via_partition_root = false");
        }
        // The first that could have it.
        let (name, via_root) = &self.publications[0];
        if table.kind == "p" && !via_root {
            return found(
                Severity::Error,
                "PG0023",
                "it is partitioned, and the publication sends its changes under the names of its partitions".to_owned(),
            )
            .sql(format!(
                "ALTER PUBLICATION {} SET (publish_via_partition_root = true);",
                escape_identifier(name)
            ))
            .hint("then make sure that the publication lists the table; or name its partitions in `tables`");
        }
        found(
            Severity::Error,
            "PG0015",
            format!("publication `{names}` does not cover it"),
        )
        .sql(format!(
            "ALTER PUBLICATION {} ADD TABLE {};",
            escape_identifier(name),
            catalog::quoted(&table.present)
        ))
    }
}
