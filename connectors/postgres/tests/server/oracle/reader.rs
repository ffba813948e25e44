//! A source that reads all tables of a database, planned anew whenever they are others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millstream_core::{Source, TableId};
use serde_json::Value;
use tokio::time::timeout;

use super::follower::{Name, new_target};
use super::rows::{self, Columns, Rows};
use crate::replaced::{behind_truncations, is_whole};
use crate::target::{Held, Running, Target, source, table, wal};

/// How long it may take until all that is committed has come, and how often the source may be
/// started for it.
const PATIENCE: Duration = Duration::from_secs(25);
const STARTS: usize = 30;

/// The source and its target.
pub struct Reader {
    config: Value,
    run: Option<Running>,
    /// What is held while the source does not run.
    target: Target,
    /// The tables that the run was planned with.
    planned: BTreeSet<TableId>,
    /// How many changes came of tables that are gone.
    of_gone: usize,
}

impl Reader {
    /// Reads nothing before it is asked to [settle](Self::settle).
    pub fn new(config: Value) -> Self {
        Self {
            config,
            run: None,
            target: new_target(),
            planned: BTreeSet::new(),
            of_gone: 0,
        }
    }

    fn target(&self) -> &Target {
        self.run.as_ref().map_or(&self.target, |run| &run.target)
    }

    /// How many changes have come, without rows of copies.
    pub fn changes(&self) -> usize {
        self.of_gone + changes(self.target().tables.values())
    }

    /// Takes what comes, until the source has planned for the tables that are `there`, each with its
    /// OID, and the target has all rows, as of the position `committed`, of those that are to be `whole`.
    ///
    /// # Panics
    /// If that does not come to pass.
    pub async fn settle(
        &mut self,
        committed: &str,
        there: &BTreeMap<Name, String>,
        whole: impl Fn(&Name, Option<&Held>) -> bool,
    ) {
        let wanted: BTreeSet<TableId> = there.keys().map(|(_, name)| table(name)).collect();
        let lacks = |target: &Target| -> Option<String> {
            let mut names = there.iter().filter(|(name, oid)| {
                let held = target.tables.get(&table(&name.1));
                let has_all = |held: &Held| {
                    let reached = held.checkpoint.position(&wal());
                    is_whole(held, &name.1, oid) && reached.ordered() >= Some(committed)
                };
                whole(name, held) && !held.is_some_and(has_all)
            });
            let (name, oid) = names.next()?;
            let held = target.tables.get(&table(&name.1)).map(|held| &held.checkpoint);
            Some(format!("{committed}: {name:?}, {oid}, of which it has {held:?}"))
        };
        for _ in 0..STARTS {
            let mut run = match self.run.take() {
                Some(run) => run,
                None => self.start().await,
            };
            let is_planned = self.planned == wanted;
            let done = |target: &Target| is_planned && lacks(target).is_none();
            let came = timeout(PATIENCE, run.until_or_anew(done)).await;
            let came = came.unwrap_or_else(|_| {
                let (planned, lacks) = (&self.planned, lacks(&run.target));
                panic!("{planned:?} were planned, {wanted:?} are there; it lacks {lacks:?}")
            });
            if came {
                self.run = Some(run);
                return;
            }
            self.target = run.kill();
        }
        panic!("the source is started anew for ever");
    }

    /// Plans as a pipeline does, and forgets tables that are gone.
    async fn start(&mut self) -> Running {
        let mut planned = source(&self.config);
        let tables = planned.tables().await;
        let tables = tables.unwrap_or_else(|error| panic!("it cannot be planned: {error:?}"));
        self.planned = tables.iter().map(|schema| schema.id.clone()).collect();
        let mut target = std::mem::replace(&mut self.target, new_target());
        let mut held = std::mem::take(&mut target.tables);
        let of = |id: &TableId| (id.clone(), held.remove(id).unwrap_or_default());
        target.tables = self.planned.iter().map(of).collect();
        self.of_gone += changes(held.values());
        Running::start(planned, target)
    }

    /// What the target holds of a table.
    pub fn held(&self, (_, name): &Name) -> Option<&Held> {
        self.target().tables.get(&table(name))
    }

    /// The rows that its changes fold to.
    pub fn rows(&self, (_, name): &Name, columns: &Columns) -> Rows {
        let (target, id) = (self.target(), table(name));
        let changes = &target.tables[&id].rows;
        let places: BTreeSet<_> = changes.iter().map(|row| row.place()).collect();
        assert_eq!(places.len(), changes.len(), "a change of {name} was taken twice");
        // The last schema tells the key; none came of a table that was empty.
        let last = target.batches.iter().rfind(|(schema, _)| schema.id == id);
        let key = last.map_or(&[][..], |(schema, _)| &schema.key);
        rows::folded(key, &behind_truncations(changes), columns)
    }
}

fn changes<'a>(tables: impl Iterator<Item = &'a Held>) -> usize {
    let of = |held: &Held| held.rows.iter().filter(|row| row.op != "r").count();
    tables.map(of).sum()
}
