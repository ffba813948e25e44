//! What the catalog says about a type: the input from which a [`ColumnType`] is made.
//!
//! [`ColumnType`]: super::ColumnType

use std::collections::HashMap;

/// The types that the catalog told us about, by OID. Built-in scalars and their arrays need
/// no entry; enums, domains, extension types and arrays of them do.
pub(crate) type Catalog = HashMap<u32, CatalogType>;

/// Reads one row per [`CatalogType`], for all types that are not PostgreSQL's own:
/// `oid, typname, typtype, base oid (0 = none), base typmod, element oid (0 = not an array)`.
///
/// The element is given for true arrays only: `typelem` is also set for types such as `point`
/// that can merely be subscripted. PostgreSQL manual, 53.64 `pg_type`.
pub(crate) const CATALOG_QUERY: &str = "SELECT oid::int8, typname::text, typtype::text, typbasetype::int8, typtypmod, \
     CASE WHEN typcategory = 'A' AND typlen = -1 THEN typelem::int8 ELSE 0 END \
     FROM pg_catalog.pg_type WHERE oid >= 16384 OR typtype IN ('e', 'd')";

/// One row of `pg_type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CatalogType {
    /// `oid`
    pub(crate) oid: u32,
    /// `typname`, without its schema.
    pub(crate) name: String,
    /// `typtype`
    pub(crate) kind: TypeKind,
    /// For a domain: the type it is over, and the typmod it gives to it (`typbasetype`, `typtypmod`).
    pub(crate) base: Option<(u32, i32)>,
    /// For a true array (`typcategory = 'A'` and `typlen = -1`): `typelem`.
    pub(crate) element: Option<u32>,
}

/// `typtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TypeKind {
    /// `b`; arrays are base types too.
    Base,
    /// `c`
    Composite,
    /// `d`
    Domain,
    /// `e`
    Enum,
    /// `p`
    Pseudo,
    /// `r`
    Range,
    /// `m`
    Multirange,
}

impl TypeKind {
    /// The kind of a `typtype` letter; a letter of a later version counts as a base type,
    /// which is read as text.
    pub(crate) fn from_letter(letter: &str) -> Self {
        match letter {
            "c" => Self::Composite,
            "d" => Self::Domain,
            "e" => Self::Enum,
            "p" => Self::Pseudo,
            "r" => Self::Range,
            "m" => Self::Multirange,
            _ => Self::Base,
        }
    }
}
