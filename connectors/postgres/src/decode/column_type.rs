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
//! | a one-dimensional array of any type above or of the next row | List |
//! | enums, `text`, `varchar`, `char(n)`, `json`, `jsonb`, `xml`, `uuid`, `interval`, `timetz`, `inet`, … | Utf8: PostgreSQL's text output |
//! | `vector`, `halfvec` | List of Float32 |
//! | `geometry`, `geography` of PostGIS | Binary: EWKB |
//! | ranges, composites, geometric types, `tsvector`, `hstore`, …, and arrays of these | Utf8, made from the binary form |
//! | others: `money`, `regclass` and its like, types of unknown extensions | Utf8, read as text only |
//!
//! `money` is a count whose text depends on a setting (`lc_monetary`), `regclass` an OID whose
//! text is in the catalog: what is sent in binary does not tell their text.
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

use arrow_schema::{DataType, Field, TimeUnit};

use super::built_in;
use super::catalog_type::Catalog;
use super::extension::Width;
use super::forms::{ArrayForm, Forms, NumericForm};
use super::geometry::Shape;
use super::resolve::Resolver;

/// How the values of one column are read, and what they become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnType {
    /// The type as a user would write it, for reasons and findings: `numeric(10,2)`, `mood[]`.
    name: String,
    pub(super) form: Form,
}

/// A scalar or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    Scalar(Scalar),
    /// An array.
    List(Scalar),
    /// A vector of pgvector, which is a list of Float32.
    Vector(Width),
}

/// How one value is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Bytea,
    /// `geometry` and `geography`: the binary form is EWKB, the text is its hex.
    Ewkb,
    Date,
    Time,
    Timestamp {
        utc: bool,
    },
    Decimal128 {
        precision: u8,
        scale: u8,
    },
    Decimal256 {
        precision: u8,
        scale: u8,
    },
    Text(TextForm),
}

/// How the text output of a type is made from its binary output.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// `pg_snapshot`
    Snapshot,
    /// `int2vector`
    Int2Vector,
    /// `oidvector`
    OidVector,
    Geometry(Shape),
    TsVector,
    TsQuery,
    Hstore,
    /// `ltree`, `lquery` and `ltxtquery`: as `Versioned`.
    Ltree,
    /// `vector` and `halfvec`, where they are part of another value.
    Vector(Width),
    SparseVector,
    Array(Arc<ArrayText>),
    Record(Parts),
    /// Of bounds of this type.
    Range(Arc<Scalar>),
    Multirange(Arc<Scalar>),
    /// It need not be: the type has no binary output, and is sent as text whatever was asked for.
    Unsent,
    /// It cannot be: the binary output is not known to us, or does not tell the text.
    Unknown,
}

/// What the text of an array is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArrayText {
    pub(super) element: Scalar,
    /// `pg_type.typdelim`
    pub(super) delimiter: char,
}

/// The types of a composite's attributes, by OID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parts(Arc<[(u32, Scalar)]>);

impl Parts {
    pub(super) fn get(&self, oid: u32) -> Option<&Scalar> {
        let found = self.0.iter().find(|(known, _)| *known == oid);
        found.map(|(_, scalar)| scalar)
    }
}

impl FromIterator<(u32, Scalar)> for Parts {
    fn from_iter<I: IntoIterator<Item = (u32, Scalar)>>(parts: I) -> Self {
        Self(parts.into_iter().collect())
    }
}

impl ColumnType {
    /// The type of a column declared with `oid` and `type_modifier` (-1 for none). What
    /// neither we nor `catalog` know is read as text.
    pub(crate) fn resolve(oid: u32, type_modifier: i32, catalog: &Catalog) -> Self {
        let declared = catalog.get(&oid).map(|found| found.name.clone());
        let (form, name) = Resolver::new(catalog)
            .form(oid, type_modifier)
            .unwrap_or_else(|| (Form::unknown(), format!("type {oid}")));
        Self {
            name: declared.unwrap_or(name),
            form,
        }
    }

    /// The same type, stored in the forms that a source was configured with.
    pub(crate) fn stored_as(mut self, forms: Forms) -> Self {
        self.form = match self.form {
            Form::List(element) if forms.arrays == ArrayForm::Text => Form::array_text(element, ','),
            Form::List(element) => Form::List(element.stored_as(forms)),
            Form::Scalar(scalar) => Form::Scalar(scalar.stored_as(forms)),
            Form::Vector(width) => Form::Vector(width),
        };
        self
    }

    /// The column's Arrow type.
    pub(crate) fn arrow(&self) -> DataType {
        match &self.form {
            Form::Scalar(scalar) => scalar.arrow(),
            Form::List(element) => DataType::List(element_field(element)),
            Form::Vector(_) => DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true))),
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

    /// Whether the query of a first copy must ask for `column::text`.
    pub(crate) fn needs_text(&self) -> bool {
        matches!(
            self.form,
            Form::Scalar(Scalar::Text(TextForm::Unknown | TextForm::Unsent))
        )
    }

    /// Whether a stream that has such a column must be asked for with `binary 'false'`. What has
    /// no binary output comes as text in a binary stream too.
    pub(crate) fn needs_text_stream(&self) -> bool {
        self.form == Form::unknown()
    }
}

impl Form {
    /// What is read as text only.
    pub(super) fn unknown() -> Self {
        Self::Scalar(Scalar::Text(TextForm::Unknown))
    }

    /// An array as its text.
    pub(super) fn array_text(element: Scalar, delimiter: char) -> Self {
        Self::Scalar(Scalar::Text(TextForm::Array(Arc::new(ArrayText {
            element,
            delimiter,
        }))))
    }

    /// How a value of this form is written where it is part of a text; `None` if that is not known.
    pub(super) fn into_part(self) -> Option<Scalar> {
        match self {
            // A part without a binary output makes the server refuse the whole value.
            Self::Scalar(Scalar::Text(TextForm::Unknown | TextForm::Unsent)) => None,
            Self::Scalar(scalar) => Some(scalar),
            Self::List(element) => Self::array_text(element, ',').into_part(),
            Self::Vector(width) => Some(Scalar::Text(TextForm::Vector(width))),
        }
    }
}

/// How a built-in type that can be a part of another is written, for parts that no catalog told of.
pub(super) fn built_in(oid: u32) -> Option<Scalar> {
    built_in::form(oid, -1).and_then(|(form, _)| form.into_part())
}

/// The field of a list's elements, named as Parquet readers expect it.
pub(super) fn element_field(element: &Scalar) -> Arc<Field> {
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

    /// Whether arrays of it become lists; others stay the text of the array.
    pub(super) fn makes_lists(&self) -> bool {
        use TextForm::*;
        match self {
            Self::Ewkb => false,
            Self::Text(form) => matches!(
                form,
                Verbatim
                    | Char
                    | Versioned
                    | Uuid
                    | TimeTz
                    | Interval
                    | Numeric
                    | Inet
                    | MacAddr
                    | Bits
                    | Lsn
                    | Tid
                    | Unsigned32
                    | Unsigned64
            ),
            _ => true,
        }
    }

    /// The Arrow type of one value.
    pub(super) fn arrow(&self) -> DataType {
        match *self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 | Self::Oid => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Bytea | Self::Ewkb => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp { utc } => DataType::Timestamp(TimeUnit::Microsecond, utc.then(|| "UTC".into())),
            Self::Decimal128 { precision, scale } => DataType::Decimal128(precision, scale as i8),
            Self::Decimal256 { precision, scale } => DataType::Decimal256(precision, scale as i8),
            Self::Text(_) => DataType::Utf8,
        }
    }
}

#[cfg(test)]
#[path = "column_type_tests.rs"]
mod tests;
