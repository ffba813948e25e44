//! What the catalog says about a type: the input from which a [`ColumnType`] is made.
//!
//! [`ColumnType`]: super::ColumnType

use std::collections::HashMap;

/// The types that the catalog told us about, by OID. Built-in scalars and their arrays need
/// no entry; enums, domains, composites, ranges, extension types and arrays of them do.
pub(crate) type Catalog = HashMap<u32, CatalogType>;

/// Reads one row per [`CatalogType`], for all types that are not PostgreSQL's own, in the order
/// that [`CatalogType::read`] expects. Lists are separated by commas; 0 and NULL stand for none.
///
/// The element is given for true arrays only: `typelem` is also set for types such as `point`
/// that can merely be subscripted. PostgreSQL manual, 53.64 `pg_type`, and 53.42 `pg_range`.
pub(crate) const CATALOG_QUERY: &str = "SELECT t.oid::int8 AS oid, t.typname::text, t.typtype::text, \
     t.typbasetype::int8, t.typtypmod, \
     CASE WHEN t.typcategory = 'A' AND t.typlen = -1 THEN t.typelem::int8 ELSE 0 END, \
     t.typdelim::text, (t.typsend::oid <> 0)::text, \
     (SELECT e.extname::text FROM pg_catalog.pg_depend d \
     JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid \
     WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid AND d.deptype = 'e' \
     AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass), \
     (SELECT pg_catalog.string_agg(a.atttypid::int8::text, ',' ORDER BY a.attnum) \
     FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), \
     (SELECT r.rngsubtype::int8 FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)) \
     FROM pg_catalog.pg_type t WHERE t.oid >= 16384 OR t.typtype IN ('e', 'd')";

/// The types that the type `t` of `pg_type` is made of, one `oid` per row.
pub(crate) const PARTS_QUERY: &str = "SELECT parts.oid FROM pg_catalog.unnest(ARRAY[t.typbasetype, t.typelem]) AS parts(oid) \
     UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
     WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
     UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)";

/// One row of `pg_type`, with what belongs to it.
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
    /// `typdelim`: what stands between the elements of an array of it.
    pub(crate) delimiter: char,
    /// Whether it has a binary output (`typsend`).
    pub(crate) sends: bool,
    /// The extension that it belongs to.
    pub(crate) extension: Option<String>,
    /// For a composite: the types of its attributes.
    pub(crate) attributes: Vec<u32>,
    /// For a range or a multirange: `pg_range.rngsubtype`.
    pub(crate) bound: Option<u32>,
}

impl CatalogType {
    /// A base type of no extension, which is no array and has a binary output.
    pub(crate) fn base(oid: u32, name: &str) -> Self {
        Self {
            oid,
            name: name.to_owned(),
            kind: TypeKind::Base,
            base: None,
            element: None,
            delimiter: ',',
            sends: true,
            extension: None,
            attributes: Vec::new(),
            bound: None,
        }
    }

    /// Reads a row of [`CATALOG_QUERY`] by its columns' texts; `None` if it is none.
    pub(crate) fn read<'r>(column: impl Fn(usize) -> Option<&'r str>) -> Option<Self> {
        let oid = |index| {
            column(index)
                .and_then(|text| text.parse().ok())
                .filter(|oid| *oid != 0u32)
        };
        let base = oid(3).zip(column(4).and_then(|typmod| typmod.parse().ok()));
        let attributes = column(9).unwrap_or_default().split(',');
        Some(Self {
            kind: TypeKind::from_letter(column(2)?),
            base,
            element: oid(5),
            delimiter: column(6).and_then(|text| text.chars().next()).unwrap_or(','),
            sends: column(7) == Some("true"),
            extension: column(8).map(str::to_owned),
            attributes: attributes.filter_map(|oid| oid.parse().ok()).collect(),
            bound: oid(10),
            ..Self::base(oid(0)?, column(1)?)
        })
    }
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
