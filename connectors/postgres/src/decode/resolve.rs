//! From a type's OID to how its values are read, following what the catalog says it is made of.

use std::sync::Arc;

use super::built_in;
use super::catalog_type::{Catalog, CatalogType, TypeKind};
use super::column_type::{Form, Parts, Scalar, TextForm};
use super::extension::Width;
use super::geometry::Shape;

/// Types inside types are followed this far down; what goes deeper is read as text. It bounds the
/// depth to which values are decoded, too.
const MOST_DEPTH: usize = 32;
/// And so many of them in all, for one type may be a part of many others.
const MOST_TYPES: usize = 4096;

/// Follows the types of one column.
pub(super) struct Resolver<'a> {
    catalog: &'a Catalog,
    /// How many more types may be looked at.
    left: usize,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        let left = MOST_TYPES;
        Self { catalog, left }
    }

    /// The form of a type and its name; `None` if it is to be read as text.
    pub(super) fn form(&mut self, oid: u32, typmod: i32) -> Option<(Form, String)> {
        self.at_depth(oid, typmod, MOST_DEPTH)
    }

    fn at_depth(&mut self, oid: u32, typmod: i32, depth: usize) -> Option<(Form, String)> {
        if let Some(found) = built_in::form(oid, typmod) {
            return Some(found);
        }
        let depth = depth.checked_sub(1)?;
        self.left = self.left.checked_sub(1)?;
        let found = self.catalog.get(&oid)?;
        let text = |form| Form::Scalar(Scalar::Text(form));
        let form = match found.kind {
            TypeKind::Domain => {
                let (base, typmod) = found.base?;
                return self.at_depth(base, typmod, depth);
            }
            _ if !found.sends => text(TextForm::Unsent),
            TypeKind::Enum => text(TextForm::Verbatim),
            TypeKind::Composite => text(TextForm::Record(self.parts(found, depth)?)),
            TypeKind::Range => text(TextForm::Range(Arc::new(self.part(found.bound?, depth)?))),
            TypeKind::Multirange => text(TextForm::Multirange(Arc::new(self.part(found.bound?, depth)?))),
            TypeKind::Base => match found.element {
                Some(element) => {
                    let (form, name) = self.at_depth(element, typmod, depth)?;
                    return Some((built_in::array_of(form, self.delimiter(element)), format!("{name}[]")));
                }
                None => of_extension(found)?,
            },
            TypeKind::Pseudo => return None,
        };
        Some((form, found.name.clone()))
    }

    /// How a value of this type is written where it is part of a text.
    fn part(&mut self, oid: u32, depth: usize) -> Option<Scalar> {
        self.at_depth(oid, -1, depth).and_then(|(form, _)| form.into_part())
    }

    fn parts(&mut self, composite: &CatalogType, depth: usize) -> Option<Parts> {
        let mut oids = composite.attributes.clone();
        oids.sort_unstable();
        oids.dedup();
        oids.into_iter()
            .map(|oid| self.part(oid, depth).map(|scalar| (oid, scalar)))
            .collect()
    }

    /// What stands between the elements of an array.
    fn delimiter(&self, element: u32) -> char {
        let found = self.catalog.get(&element);
        found.map_or_else(|| built_in::delimiter(element), |found| found.delimiter)
    }
}

/// The form of an extension's type; `None` if it is not known to us.
fn of_extension(found: &CatalogType) -> Option<Form> {
    let text = |form| Some(Form::Scalar(Scalar::Text(form)));
    match (found.extension.as_deref()?, found.name.as_str()) {
        ("citext", "citext") => text(TextForm::Verbatim),
        ("hstore", "hstore") => text(TextForm::Hstore),
        ("ltree", "ltree" | "lquery" | "ltxtquery") => text(TextForm::Ltree),
        ("cube", "cube") => text(TextForm::Geometry(Shape::Cube)),
        ("vector", "vector") => Some(Form::Vector(Width::Single)),
        ("vector", "halfvec") => Some(Form::Vector(Width::Half)),
        ("vector", "sparsevec") => text(TextForm::SparseVector),
        ("postgis", "geometry" | "geography") => Some(Form::Scalar(Scalar::Ewkb)),
        _ => None,
    }
}
