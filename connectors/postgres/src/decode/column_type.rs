//! Which Arrow type a PostgreSQL column becomes, and how its values are read.
//!
//! | PostgreSQL | Arrow |
//! |---|---|
//! | `bool`, `int2`, `int4`, `int8`, `float4`, `float8` | Boolean, Int16, Int32, Int64, Float32, Float64 |
//! | `oid` | Int64 |
//! | `bytea` | Binary |
//! | `date` | Date32; `infinity` is `i32::MAX`, `-infinity` is `i32::MIN` |
//! | `time` | Time64(µs); `24:00:00` is 86,400,000,000 |
//! | `timestamp`, `timestamptz` | Timestamp(µs), Timestamp(µs, UTC); infinities are `i64::MAX` and `i64::MIN` |
//! | `numeric(p,s)` | Decimal128 up to 38 digits, Decimal256 up to 76, else Utf8 |
//! | `numeric` | Utf8: exact, with its trailing zeros |
//! | a one-dimensional array of any type above or below but *others* | List |
//! | enums, `text`, `varchar`, `char(n)`, `json`, `jsonb`, `xml`, `uuid`, `interval`, `timetz`, `inet`, … | Utf8: PostgreSQL's text output |
//! | others: `money`, ranges, composites, geometry, `tsvector`, unknown extension types | Utf8, read as text only |
//!
//! The infinities are PostgreSQL's own sentinels, so nothing is lost and order is kept.
//! A finite timestamp after the year 294246 does not fit microseconds from 1970 in 64 bits
//! and is quarantined, as are NaN in `numeric(p,s)`, which has no place in a decimal, and arrays
//! of more dimensions than one or of another lower bound than 1, which a list cannot tell;
//! [`Forms`] names the forms that hold them. A domain is read as the type it is over.
//!
//! The typmods are those of `numerictypmodin`: precision in the upper half, a signed scale of
//! 11 bits below. PostgreSQL manual, 8 "Data Types" and 55.9; `src/include/catalog/pg_type.dat`.

use std::sync::Arc;

use arrow_schema::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, TimeUnit};

use super::catalog_type::{Catalog, TypeKind};
use super::forms::{ArrayForm, Forms, NumericForm};

/// How the values of one column are read, and what they become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnType {
    /// The type as a user would write it, for reasons and findings: `numeric(10,2)`, `mood[]`.
    name: String,
    pub(super) form: Form,
}

/// A scalar or a list of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Scalar(Scalar),
    List(Scalar),
}

/// How one value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Bytea,
    Date,
    Time,
    Timestamp { utc: bool },
    Decimal128 { precision: u8, scale: u8 },
    Decimal256 { precision: u8, scale: u8 },
    Text(TextForm),
}

/// How the text output of a type is made from its binary output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextForm {
    /// They are the same.
    Verbatim,
    /// `"char"`: one byte.
    Char,
    /// `jsonb` and `jsonpath`: a version byte, then the text.
    Versioned,
    Uuid,
    TimeTz,
    Interval,
    Numeric,
    /// `inet` and `cidr`; the value says which it is.
    Inet,
    MacAddr,
    Bits,
    Lsn,
    Tid,
    /// `xid` and `cid`.
    Unsigned32,
    /// `xid8`
    Unsigned64,
    /// It cannot be: the type is not known to us, or the text is that of an array.
    Unknown,
}

/// `(oid, oid of its array, name, how it is read)`, from `pg_type.dat`. `numeric` is not here
/// because its typmod decides.
const BUILT_IN: &[(u32, u32, &str, Scalar)] = &[
    (16, 1000, "bool", Scalar::Bool),
    (17, 1001, "bytea", Scalar::Bytea),
    (18, 1002, "\"char\"", Scalar::Text(TextForm::Char)),
    (19, 1003, "name", Scalar::Text(TextForm::Verbatim)),
    (20, 1016, "int8", Scalar::Int8),
    (21, 1005, "int2", Scalar::Int2),
    (23, 1007, "int4", Scalar::Int4),
    (25, 1009, "text", Scalar::Text(TextForm::Verbatim)),
    (26, 1028, "oid", Scalar::Oid),
    (27, 1010, "tid", Scalar::Text(TextForm::Tid)),
    (28, 1011, "xid", Scalar::Text(TextForm::Unsigned32)),
    (29, 1012, "cid", Scalar::Text(TextForm::Unsigned32)),
    (114, 199, "json", Scalar::Text(TextForm::Verbatim)),
    (142, 143, "xml", Scalar::Text(TextForm::Verbatim)),
    (650, 651, "cidr", Scalar::Text(TextForm::Inet)),
    (700, 1021, "float4", Scalar::Float4),
    (701, 1022, "float8", Scalar::Float8),
    (774, 775, "macaddr8", Scalar::Text(TextForm::MacAddr)),
    (829, 1040, "macaddr", Scalar::Text(TextForm::MacAddr)),
    (869, 1041, "inet", Scalar::Text(TextForm::Inet)),
    (1042, 1014, "bpchar", Scalar::Text(TextForm::Verbatim)),
    (1043, 1015, "varchar", Scalar::Text(TextForm::Verbatim)),
    (1082, 1182, "date", Scalar::Date),
    (1083, 1183, "time", Scalar::Time),
    (1114, 1115, "timestamp", Scalar::Timestamp { utc: false }),
    (1184, 1185, "timestamptz", Scalar::Timestamp { utc: true }),
    (1186, 1187, "interval", Scalar::Text(TextForm::Interval)),
    (1266, 1270, "timetz", Scalar::Text(TextForm::TimeTz)),
    (1560, 1561, "bit", Scalar::Text(TextForm::Bits)),
    (1562, 1563, "varbit", Scalar::Text(TextForm::Bits)),
    (1790, 2201, "refcursor", Scalar::Text(TextForm::Verbatim)),
    (2950, 2951, "uuid", Scalar::Text(TextForm::Uuid)),
    (3220, 3221, "pg_lsn", Scalar::Text(TextForm::Lsn)),
    (3802, 3807, "jsonb", Scalar::Text(TextForm::Versioned)),
    (4072, 4073, "jsonpath", Scalar::Text(TextForm::Versioned)),
    (5069, 271, "xid8", Scalar::Text(TextForm::Unsigned64)),
];
const NUMERIC: u32 = 1700;
const NUMERIC_ARRAY: u32 = 1231;
/// Domains over domains are followed this far; a longer chain is read as text.
const MAX_DOMAIN_DEPTH: usize = 64;

impl ColumnType {
    /// The type of a column declared with `oid` and `type_modifier` (-1 for none). What
    /// neither we nor `catalog` know is read as text.
    pub(crate) fn resolve(oid: u32, type_modifier: i32, catalog: &Catalog) -> Self {
        let declared = catalog.get(&oid).map(|found| found.name.clone());
        let (form, name) = resolve_form(oid, type_modifier, catalog, MAX_DOMAIN_DEPTH)
            .unwrap_or_else(|| (Form::Scalar(Scalar::Text(TextForm::Unknown)), format!("type {oid}")));
        Self {
            name: declared.unwrap_or(name),
            form,
        }
    }

    /// The same type, stored in the forms that a source was configured with.
    pub(crate) fn stored_as(mut self, forms: Forms) -> Self {
        self.form = match self.form {
            Form::List(_) if forms.arrays == ArrayForm::Text => Form::Scalar(Scalar::Text(TextForm::Unknown)),
            Form::List(element) => Form::List(element.stored_as(forms)),
            Form::Scalar(scalar) => Form::Scalar(scalar.stored_as(forms)),
        };
        self
    }

    /// The column's Arrow type.
    pub(crate) fn arrow(&self) -> DataType {
        match self.form {
            Form::Scalar(scalar) => scalar.arrow(),
            Form::List(element) => DataType::List(element_field(element)),
        }
    }

    /// A nullable Arrow field of this type.
    pub(crate) fn field(&self, column: &str) -> Field {
        Field::new(column, self.arrow(), true)
    }

    /// The type as a user would write it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether values must be asked for as text: `binary 'false'` for a stream that has such a
    /// column, `column::text` in the query of a first copy.
    pub(crate) fn needs_text(&self) -> bool {
        self.form == Form::Scalar(Scalar::Text(TextForm::Unknown))
    }
}

/// The field of a list's elements, named as Parquet readers expect it.
pub(super) fn element_field(element: Scalar) -> Arc<Field> {
    Arc::new(Field::new_list_field(element.arrow(), true))
}

impl Scalar {
    fn stored_as(self, forms: Forms) -> Self {
        match self {
            Self::Decimal128 { .. } | Self::Decimal256 { .. } if forms.numeric == NumericForm::Text => {
                Self::Text(TextForm::Numeric)
            }
            other => other,
        }
    }

    /// The Arrow type of one value.
    pub(super) fn arrow(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 | Self::Oid => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Bytea => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp { utc } => DataType::Timestamp(TimeUnit::Microsecond, utc.then(|| "UTC".into())),
            Self::Decimal128 { precision, scale } => DataType::Decimal128(precision, scale as i8),
            Self::Decimal256 { precision, scale } => DataType::Decimal256(precision, scale as i8),
            Self::Text(_) => DataType::Utf8,
        }
    }
}

fn resolve_form(oid: u32, typmod: i32, catalog: &Catalog, depth: usize) -> Option<(Form, String)> {
    let array_of = |(scalar, name): (Scalar, String)| (Form::List(scalar), format!("{name}[]"));
    match oid {
        NUMERIC => return Some(numeric(typmod)).map(|(scalar, name)| (Form::Scalar(scalar), name)),
        NUMERIC_ARRAY => return Some(array_of(numeric(typmod))),
        _ => {}
    }
    for &(scalar_oid, array_oid, name, scalar) in BUILT_IN {
        if scalar_oid == oid {
            return Some((Form::Scalar(scalar), name.to_owned()));
        }
        if array_oid == oid {
            return Some(array_of((scalar, name.to_owned())));
        }
    }
    let depth = depth.checked_sub(1)?;
    let found = catalog.get(&oid)?;
    match (found.kind, found.base, found.element) {
        (TypeKind::Domain, Some((base, base_typmod)), _) => resolve_form(base, base_typmod, catalog, depth),
        (TypeKind::Enum, ..) => Some((Form::Scalar(Scalar::Text(TextForm::Verbatim)), found.name.clone())),
        (TypeKind::Base, _, Some(element)) => match resolve_form(element, typmod, catalog, depth)? {
            // A list of lists, or of what has no binary form, stays the text of the array.
            (Form::List(_) | Form::Scalar(Scalar::Text(TextForm::Unknown)), _) => None,
            (Form::Scalar(scalar), name) => Some(array_of((scalar, name))),
        },
        // `citext` is an extension's type, whose binary functions are those of `text`.
        (TypeKind::Base, ..) if found.name == "citext" => {
            Some((Form::Scalar(Scalar::Text(TextForm::Verbatim)), found.name.clone()))
        }
        _ => None,
    }
}

/// `numeric` with its typmod. Arrow wants `0 <= scale <= precision`, PostgreSQL 15 allows any
/// scale from -1000 to 1000: a negative scale adds integer digits, one above the precision
/// adds leading zeros.
fn numeric(typmod: i32) -> (Scalar, String) {
    let Some(packed) = typmod.checked_sub(4).filter(|packed| *packed >= 0) else {
        return (Scalar::Text(TextForm::Numeric), "numeric".to_owned());
    };
    let precision = packed >> 16 & 0xFFFF;
    let scale = ((packed & 0x7FF) ^ 1024) - 1024;
    let digits = if scale < 0 {
        precision - scale
    } else {
        precision.max(scale)
    };
    let fraction = scale.max(0);
    let scalar = match (u8::try_from(digits), u8::try_from(fraction)) {
        (Ok(precision @ 1..=DECIMAL128_MAX_PRECISION), Ok(scale)) => Scalar::Decimal128 { precision, scale },
        (Ok(precision @ 1..=DECIMAL256_MAX_PRECISION), Ok(scale)) => Scalar::Decimal256 { precision, scale },
        _ => Scalar::Text(TextForm::Numeric),
    };
    (scalar, format!("numeric({precision},{scale})"))
}

#[cfg(test)]
mod tests {
    use super::super::CatalogType;
    use super::*;

    fn arrow(oid: u32, typmod: i32) -> DataType {
        ColumnType::resolve(oid, typmod, &Catalog::new()).arrow()
    }

    /// As `numerictypmodin` packs it.
    fn typmod(precision: i32, scale: i32) -> i32 {
        (precision << 16 | scale & 0x7FF) + 4
    }

    /// OID, name, kind, base with its typmod, element.
    type Entry = (u32, &'static str, TypeKind, Option<(u32, i32)>, Option<u32>);

    fn catalog(types: &[Entry]) -> Catalog {
        let entry = |&(oid, name, kind, base, element): &Entry| {
            (
                oid,
                CatalogType {
                    oid,
                    name: name.to_owned(),
                    kind,
                    base,
                    element,
                },
            )
        };
        types.iter().map(entry).collect()
    }

    #[test]
    fn numerics_keep_every_digit() {
        assert_eq!(arrow(1700, typmod(10, 2)), DataType::Decimal128(10, 2));
        assert_eq!(arrow(1700, typmod(38, 38)), DataType::Decimal128(38, 38));
        assert_eq!(arrow(1700, typmod(39, 0)), DataType::Decimal256(39, 0));
        assert_eq!(arrow(1700, typmod(76, 10)), DataType::Decimal256(76, 10));
        assert_eq!(arrow(1700, typmod(77, 0)), DataType::Utf8);
        assert_eq!(arrow(1700, typmod(1000, 1000)), DataType::Utf8);
        assert_eq!(arrow(1700, -1), DataType::Utf8);
        assert_eq!(arrow(1700, typmod(3, -2)), DataType::Decimal128(5, 0));
        assert_eq!(arrow(1700, typmod(2, 4)), DataType::Decimal128(4, 4));
        assert_eq!(
            ColumnType::resolve(1700, typmod(3, -2), &Catalog::new()).name(),
            "numeric(3,-2)"
        );
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Decimal128(10, 2), true)));
        assert_eq!(arrow(1231, typmod(10, 2)), list);
    }

    #[test]
    fn text_forms_are_chosen_per_source() {
        let numeric = Forms {
            numeric: NumericForm::Text,
            ..Forms::default()
        };
        let arrays = Forms {
            arrays: ArrayForm::Text,
            ..Forms::default()
        };
        let resolve = |oid, forms| ColumnType::resolve(oid, typmod(10, 2), &Catalog::new()).stored_as(forms);
        assert_eq!(resolve(1700, numeric).arrow(), DataType::Utf8);
        assert!(!resolve(1700, numeric).needs_text(), "its binary form is known");
        assert_eq!(resolve(1700, arrays).arrow(), DataType::Decimal128(10, 2));
        let texts = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        assert_eq!(resolve(1231, numeric).arrow(), texts);
        assert_eq!(resolve(1231, arrays).arrow(), DataType::Utf8);
        assert!(resolve(1231, arrays).needs_text());
        assert_eq!(resolve(23, numeric).arrow(), DataType::Int32);
    }

    #[test]
    fn domains_enums_and_arrays_are_followed() {
        let catalog = catalog(&[
            (20000, "mood", TypeKind::Enum, None, None),
            (20001, "_mood", TypeKind::Base, None, Some(20000)),
            (20002, "price", TypeKind::Domain, Some((1700, typmod(12, 3))), None),
            (20003, "fine_price", TypeKind::Domain, Some((20002, -1)), None),
            (20004, "_price", TypeKind::Base, None, Some(20002)),
            (20005, "tags", TypeKind::Domain, Some((1009, -1)), None),
            (20006, "_tags", TypeKind::Base, None, Some(20005)),
            (20007, "pair", TypeKind::Composite, None, None),
            (20008, "_pair", TypeKind::Base, None, Some(20007)),
            (20009, "citext", TypeKind::Base, None, None),
            (20010, "loop", TypeKind::Domain, Some((20010, -1)), None),
        ]);
        let resolve = |oid| ColumnType::resolve(oid, -1, &catalog);
        let list = |of| DataType::List(Arc::new(Field::new_list_field(of, true)));
        assert_eq!(
            (resolve(20000).arrow(), resolve(20000).needs_text()),
            (DataType::Utf8, false)
        );
        assert_eq!(resolve(20001).arrow(), list(DataType::Utf8));
        assert_eq!(resolve(20003).arrow(), DataType::Decimal128(12, 3));
        assert_eq!(resolve(20003).name(), "fine_price");
        assert_eq!(resolve(20004).arrow(), list(DataType::Decimal128(12, 3)));
        assert_eq!(resolve(20005).arrow(), list(DataType::Utf8));
        assert!(!resolve(20009).needs_text());
        for as_text in [20006, 20007, 20008, 20010, 790, 600, 1017, 3904, 22, 30, 24, 99999] {
            assert!(resolve(as_text).needs_text(), "{as_text}");
            assert_eq!(resolve(as_text).arrow(), DataType::Utf8);
        }
    }

    #[test]
    fn built_in_oids_are_unique() {
        let mut oids: Vec<u32> = BUILT_IN.iter().flat_map(|&(oid, array, ..)| [oid, array]).collect();
        oids.extend([NUMERIC, NUMERIC_ARRAY]);
        let count = oids.len();
        oids.sort_unstable();
        oids.dedup();
        assert_eq!(oids.len(), count);
    }
}
