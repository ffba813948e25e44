//! How the columns of a table came to be known, and whether they have to be looked up again.

use millstream_core::Result;

use crate::catalog::{RelationLook, ReplicaIdentity};
use crate::config::SchemaChanges;
use crate::ddl;
use crate::decode::Lsn;
use crate::decode::pgoutput::Relation;
use crate::shape::{Shape, TypeNames};
use crate::shape_looked_up::{Before, identity_of};

/// What a Relation message makes of a table.
pub(super) enum Version {
    /// What is known already.
    Same,
    /// Not to be told without a look at the catalog.
    Unknown,
    /// This.
    New(Result<Shape>),
}

/// What is known of one table's columns besides the messages of the stream.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// What the last message said that was taken.
    told: Option<Told>,
    /// What the log told of the table for the message that comes next, and where that commits.
    ddl: Option<(Lsn, ddl::Told)>,
    /// A look at the catalog for the message that comes next.
    look: Option<RelationLook>,
    /// Up to here the catalog was seen when it was last looked at.
    seen: Lsn,
}

impl Versions {
    /// Judges a message of a transaction that commits at `commit`.
    pub(super) fn shape(
        &mut self,
        mode: SchemaChanges,
        relation: &Relation<'_>,
        commit: Lsn,
        before: Before<'_>,
        types: &TypeNames,
    ) -> Version {
        if mode == SchemaChanges::Stream {
            return Version::New(Shape::from_relation(relation, before.shape, types));
        }
        if let Some((as_of, told)) = self.ddl.take()
            && let Some(live) = told.of(relation)
        {
            self.seen = self.seen.max(as_of);
            let look = RelationLook {
                as_of,
                relation: Some(live),
            };
            // What was known before need not be compared: each column is known by itself.
            let before = Before {
                is_past: false,
                ..before
            };
            return Version::New(Shape::looked_up(relation, before, &look, types));
        }
        if let Some(look) = self.look.take() {
            self.seen = look.as_of;
            return Version::New(Shape::looked_up(relation, before, &look, types));
        }
        // The server repeats itself, as after ANALYZE. What was seen after the transaction is not seen
        // better a second time.
        if commit <= self.seen && self.told.as_ref().is_some_and(|told| *told == Told::of(relation)) {
            return Version::Same;
        }
        Version::Unknown
    }

    /// Takes what a message in the log says of the table, in a transaction that commits at `commit`.
    pub(super) fn told(&mut self, commit: Lsn, told: ddl::Told) {
        self.ddl = Some((commit, told));
    }

    /// Takes a look at the catalog, for the message that comes next.
    pub(super) fn looked_at(&mut self, look: RelationLook) {
        self.look = Some(look);
    }

    /// Notes that the table has the shape that a message told.
    pub(super) fn took(&mut self, relation: &Relation<'_>) {
        self.told = Some(Told::of(relation));
    }
}

/// What a Relation message says of columns.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    identity: ReplicaIdentity,
    /// Key flag, name, type and typmod.
    columns: Vec<(bool, String, u32, i32)>,
}

impl Told {
    fn of(relation: &Relation<'_>) -> Self {
        let columns = relation.columns();
        Self {
            identity: identity_of(relation),
            columns: columns
                .map(|column| {
                    (
                        column.key,
                        column.name.to_owned(),
                        column.type_oid,
                        column.type_modifier,
                    )
                })
                .collect(),
        }
    }
}
