//! The columns that a Relation message tells, completed by a look at the catalog.

use millstream_core::Result;

use crate::attnums::certain;
use crate::catalog::{CatalogColumn, LiveRelation, RelationLook, ReplicaIdentity};
use crate::ddl::KnownColumn;
use crate::decode::pgoutput::{Relation, RelationColumn};
use crate::shape::{Shape, TypeNames};

/// What was known of the table before the message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before<'a> {
    pub(crate) shape: &'a Shape,
    /// Whether that is how the table was at an earlier moment; not if it was read from the catalog,
    /// which may be ahead of the stream.
    pub(crate) is_past: bool,
}

impl Shape {
    /// The shape that a Relation message tells of whose columns, in its order, the log told the rest.
    ///
    /// # Errors
    /// `SchemaChange` (PG0033) for a table that has lost its key and sends whole rows.
    pub(crate) fn told(
        relation: &Relation<'_>,
        before: &Shape,
        known: &[KnownColumn],
        types: &TypeNames,
    ) -> Result<Self> {
        let identity = identity_of(relation);
        let columns = relation.columns().zip(known).map(|(column, known)| CatalogColumn {
            attnum: Some(known.attnum),
            name: column.name.to_owned(),
            type_oid: column.type_oid,
            typmod: column.type_modifier,
            type_name: types.name_of(&column),
            not_null: known.not_null,
            key: match identity {
                // Of these the message tells no key.
                ReplicaIdentity::Full | ReplicaIdentity::Nothing => known.key,
                ReplicaIdentity::Default | ReplicaIdentity::Index => column.key,
            },
        });
        let shape = Self {
            id: before.id.clone(),
            identity,
            columns: columns.collect(),
            forms: before.forms,
        };
        let has_key = |shape: &Self| shape.columns.iter().any(|column| column.key);
        let is_whole = matches!(identity, ReplicaIdentity::Full | ReplicaIdentity::Nothing);
        if is_whole && has_key(before) && !has_key(&shape) {
            return Err(before.lost_key());
        }
        Ok(shape)
    }

    /// The shape that a Relation message tells after a look at the catalog, which may have moved on.
    ///
    /// Where the catalog has the same columns, names and types in the same order, NOT NULL and the key
    /// are its own. Where it has others, a column is followed by its number if that is
    /// [certain]. What is not is treated as a dropped and an added column, and is not NOT NULL. Of a
    /// relation that is gone the message alone is believed.
    ///
    /// # Errors
    /// `SchemaChange` (PG0033) where neither the message nor all of that says what the key is.
    pub(crate) fn looked_up(
        relation: &Relation<'_>,
        before: Before<'_>,
        look: &RelationLook,
        types: &TypeNames,
    ) -> Result<Self> {
        let Some(live) = &look.relation else {
            return Self::from_relation(relation, before.shape, types);
        };
        let sent: Vec<RelationColumn<'_>> = relation.columns().collect();
        let identity = identity_of(relation);
        let numbers = numbers(&sent, before, live);
        let now = live.columns.as_slice();
        let agrees = live.identity == identity
            && now.len() == sent.len()
            && now.iter().zip(&sent).all(|(now, sent)| is_same(now, sent));
        let settled = |attnum: i16| {
            let mut attributes = live.attributes.iter();
            attributes.any(|one| one.attnum == attnum && one.is_settled)
        };
        let of =
            |columns: &[CatalogColumn], attnum: i16| columns.iter().find(|one| one.attnum == Some(attnum)).cloned();
        let columns = sent.iter().zip(&numbers).enumerate().map(|(index, (column, number))| {
            let source = match number {
                _ if agrees => now.get(index).cloned(),
                Some(attnum) if settled(*attnum) => of(now, *attnum),
                Some(attnum) => of(&before.shape.columns, *attnum),
                None => None,
            };
            CatalogColumn {
                attnum: *number,
                name: column.name.to_owned(),
                type_oid: column.type_oid,
                typmod: column.type_modifier,
                type_name: types.name_of(column),
                not_null: source.is_some_and(|known| known.not_null),
                key: column.key,
            }
        });
        let mut shape = Self {
            id: before.shape.id.clone(),
            identity,
            columns: columns.collect(),
            forms: before.shape.forms,
        };
        if matches!(identity, ReplicaIdentity::Full | ReplicaIdentity::Nothing) {
            let has_key = now.iter().any(|column| column.key);
            let is_sure = live.identity == identity && live.key_is_settled;
            if agrees && has_key {
                for (column, now) in shape.columns.iter_mut().zip(now) {
                    column.key = now.key;
                }
            } else if !(is_sure && has_key && shape.take_key_of(now)) {
                shape.keep_key_of(before)?;
            }
        }
        Ok(shape)
    }

    /// Takes the key of `known` by the columns' numbers. Returns whether it could.
    fn take_key_of(&mut self, known: &[CatalogColumn]) -> bool {
        let key: Vec<Option<i16>> = known.iter().filter(|one| one.key).map(|one| one.attnum).collect();
        let is_here = |attnum: &Option<i16>| attnum.is_some() && self.columns.iter().any(|one| one.attnum == *attnum);
        if !key.iter().all(is_here) {
            return false;
        }
        for column in &mut self.columns {
            column.key = column.attnum.is_some() && key.contains(&column.attnum);
        }
        true
    }

    /// Takes the key that the table had before: by the columns' numbers, or where those are not
    /// certain by their names and types. A key that may be a later one counts only where both agree.
    fn keep_key_of(&mut self, Before { shape: before, is_past }: Before<'_>) -> Result<()> {
        if is_past && self.take_key_of(&before.columns) {
            return Ok(());
        }
        for column in &mut self.columns {
            let is_key = |known: &&CatalogColumn| {
                let apart = column.attnum.is_some() && known.attnum.is_some() && column.attnum != known.attnum;
                known.key && !apart && known.name == column.name && known.type_oid == column.type_oid
            };
            column.key = before.columns.iter().any(|known| is_key(&known));
        }
        let keys = |shape: &Self| shape.columns.iter().filter(|column| column.key).count();
        if keys(self) < keys(before) {
            return Err(before.lost_key());
        }
        Ok(())
    }

    /// Whether rows are decoded alike in both shapes: whether all but the numbers is the same.
    pub(crate) fn reads_as(&self, other: &Shape) -> bool {
        let unnumbered = |shape: &Self| {
            let mut shape = shape.clone();
            shape.columns.iter_mut().for_each(|column| column.attnum = None);
            shape
        };
        unnumbered(self) == unnumbered(other)
    }

    /// Logs what became of columns since `before`, as far as their numbers are certain.
    pub(crate) fn tell_what_became_of(&self, before: &Shape) {
        let table = &self.id;
        for (from, to) in self.renamed_since(before) {
            tracing::info!(%table, from, to, "a column was renamed");
        }
        for column in self.under_others_names_of(before) {
            tracing::warn!(
                %table, column,
                "another column has this name now: rows written before keep the former one's values until they change"
            );
        }
    }

    /// The columns of `before` that have another name here, with both names.
    fn renamed_since<'a>(&'a self, before: &'a Shape) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.columns.iter().filter_map(|column| {
            let is_known = |known: &&CatalogColumn| known.attnum.is_some() && known.attnum == column.attnum;
            let known = before.columns.iter().find(is_known)?;
            (known.name != column.name).then_some((known.name.as_str(), column.name.as_str()))
        })
    }

    /// The names that belonged to other columns in `before`.
    pub(crate) fn under_others_names_of<'a>(&'a self, before: &'a Shape) -> impl Iterator<Item = &'a str> {
        let is_another = |column: &&CatalogColumn| {
            let known = before.columns.iter().find(|known| known.name == column.name);
            let known = known.and_then(|known| known.attnum);
            column.attnum.is_some() && known.is_some() && column.attnum != known
        };
        self.columns
            .iter()
            .filter(is_another)
            .map(|column| column.name.as_str())
    }

    /// The numbers of all columns, if all are certain.
    fn all_numbers(&self) -> Option<Vec<i16>> {
        self.columns.iter().map(|column| column.attnum).collect()
    }
}

pub(crate) fn identity_of(relation: &Relation<'_>) -> ReplicaIdentity {
    ReplicaIdentity::from_letter(char::from(relation.replica_identity).encode_utf8(&mut [0; 4]))
}

fn is_same(known: &CatalogColumn, sent: &RelationColumn<'_>) -> bool {
    known.name == sent.name && (known.type_oid, known.typmod) == (sent.type_oid, sent.type_modifier)
}

fn numbers(sent: &[RelationColumn<'_>], before: Before<'_>, live: &LiveRelation) -> Vec<Option<i16>> {
    let known = before.shape.all_numbers().filter(|_| before.is_past);
    let numbers = certain(sent.len(), known.as_deref(), &live.attributes);
    // What is settled was called as it is now.
    let is_sound = |(number, sent): (&Option<i16>, &RelationColumn<'_>)| {
        let is_settled = |attnum: i16| live.attributes.iter().any(|one| one.attnum == attnum && one.is_settled);
        let Some(attnum) = number.filter(|attnum| is_settled(*attnum)) else {
            return true;
        };
        let now = live.columns.iter().find(|column| column.attnum == Some(attnum));
        now.is_some_and(|now| is_same(now, sent))
    };
    if numbers.iter().zip(sent).all(is_sound) {
        numbers
    } else {
        tracing::warn!(table = %before.shape.id, "the catalog contradicts the stream: columns are taken by their names");
        vec![None; sent.len()]
    }
}

#[cfg(test)]
#[path = "shape_looked_up_tests.rs"]
mod tests;
