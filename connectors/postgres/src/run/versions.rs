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

/// How the log described the table.
#[derive(Debug)]
struct Described {
    form: ddl::Told,
    /// Whether a message was taken that has this form.
    is_taken: bool,
}

/// What is known of one table's columns besides the messages of the stream.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// What the last message said that was taken.
    told: Option<Told>,
    /// What the log told of the table last, until a message contradicts it.
    ddl: Option<Described>,
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
        if let Some(described) = &self.ddl {
            let is_known = self.told.as_ref().is_some_and(|told| *told == Told::of(relation));
            match described.form.of(relation) {
                Some(_) if described.is_taken && is_known => return Version::Same,
                Some(known) => return Version::New(Shape::told(relation, before.shape, &known, types)),
                // Something was changed and not told.
                None => self.ddl = None,
            }
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

    /// Takes what a message in the log says of the table. Who describes it holds a lock on it until the end
    /// of its transaction, so that descriptions commit in the order in which they were made.
    pub(super) fn told(&mut self, form: ddl::Told) {
        if form.has_columns() {
            self.ddl = Some(Described { form, is_taken: false });
        }
    }

    /// Takes a look at the catalog, for the message that comes next.
    pub(super) fn looked_at(&mut self, look: RelationLook) {
        self.look = Some(look);
    }

    /// Notes that the table has the shape that a message told.
    pub(super) fn took(&mut self, relation: &Relation<'_>) {
        self.told = Some(Told::of(relation));
        if let Some(described) = &mut self.ddl {
            described.is_taken = true;
        }
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
