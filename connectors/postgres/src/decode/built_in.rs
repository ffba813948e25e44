//! PostgreSQL's own types, by OID (`src/include/catalog/pg_type.dat`).

use std::sync::Arc;

use arrow_schema::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION};

use super::column_type::{Form, Scalar, TextForm};
use super::geometry::Shape;

/// `(oid, oid of its array, name, how it is read)`. Arrays of these become lists. `numeric` is
/// not here because its typmod decides.
const LISTED: &[(u32, u32, &str, Scalar)] = &[
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

/// As above. Arrays of these stay text.
const UNLISTED: &[(u32, u32, &str, TextForm)] = &[
    (22, 1006, "int2vector", TextForm::Int2Vector),
    (30, 1013, "oidvector", TextForm::OidVector),
    (600, 1017, "point", TextForm::Geometry(Shape::Point)),
    (601, 1018, "lseg", TextForm::Geometry(Shape::Segment)),
    (602, 1019, "path", TextForm::Geometry(Shape::Path)),
    (BOX, 1020, "box", TextForm::Geometry(Shape::Box)),
    (604, 1027, "polygon", TextForm::Geometry(Shape::Polygon)),
    (628, 629, "line", TextForm::Geometry(Shape::Line)),
    (718, 719, "circle", TextForm::Geometry(Shape::Circle)),
    (1033, 1034, "aclitem", TextForm::Unsent),
    (2970, 2949, "txid_snapshot", TextForm::Snapshot),
    (3614, 3643, "tsvector", TextForm::TsVector),
    (3615, 3645, "tsquery", TextForm::TsQuery),
    (5038, 5039, "pg_snapshot", TextForm::Snapshot),
];

/// `(oid, oid of its array, name, the same of its multirange, how a bound is read)`.
type Range = ((u32, u32, &'static str), (u32, u32, &'static str), Scalar);
const RANGES: &[Range] = &[
    ((3904, 3905, "int4range"), (4451, 6150, "int4multirange"), Scalar::Int4),
    (
        (3906, 3907, "numrange"),
        (4532, 6151, "nummultirange"),
        Scalar::Text(TextForm::Numeric),
    ),
    (
        (3908, 3909, "tsrange"),
        (4533, 6152, "tsmultirange"),
        Scalar::Timestamp { utc: false },
    ),
    (
        (3910, 3911, "tstzrange"),
        (4534, 6153, "tstzmultirange"),
        Scalar::Timestamp { utc: true },
    ),
    ((3912, 3913, "daterange"), (4535, 6155, "datemultirange"), Scalar::Date),
    ((3926, 3927, "int8range"), (4536, 6157, "int8multirange"), Scalar::Int8),
];

const NUMERIC: u32 = 1700;
const NUMERIC_ARRAY: u32 = 1231;
const BOX: u32 = 603;

/// The form and the name of a built-in type that is none of its enums or domains.
pub(super) fn form(oid: u32, typmod: i32) -> Option<(Form, String)> {
    match oid {
        NUMERIC => return Some(numeric(typmod)).map(|(scalar, name)| (Form::Scalar(scalar), name)),
        NUMERIC_ARRAY => return Some(numeric(typmod)).map(|(scalar, name)| (Form::List(scalar), format!("{name}[]"))),
        _ => {}
    }
    for (scalar_oid, array_oid, name, scalar) in LISTED {
        if *scalar_oid == oid {
            return Some((Form::Scalar(scalar.clone()), (*name).to_owned()));
        }
        if *array_oid == oid {
            return Some((Form::List(scalar.clone()), format!("{name}[]")));
        }
    }
    let unlisted = UNLISTED
        .iter()
        .find_map(|(scalar_oid, array_oid, name, text)| one_or_array(oid, (*scalar_oid, *array_oid, name), text));
    let range = || {
        RANGES.iter().find_map(|(range, multirange, bound)| {
            let bound = Arc::new(bound.clone());
            one_or_array(oid, *range, &TextForm::Range(bound.clone()))
                .or_else(|| one_or_array(oid, *multirange, &TextForm::Multirange(bound)))
        })
    };
    unlisted.or_else(range)
}

/// The type itself or its array, if `oid` is one of them.
fn one_or_array(oid: u32, (one, array, name): (u32, u32, &str), text: &TextForm) -> Option<(Form, String)> {
    let form = Form::Scalar(Scalar::Text(text.clone()));
    if oid == one {
        Some((form, name.to_owned()))
    } else if oid == array {
        Some((array_of(form, delimiter(one)), format!("{name}[]")))
    } else {
        None
    }
}

/// What an array of values of this form is.
pub(super) fn array_of(element: Form, delimiter: char) -> Form {
    match element {
        Form::Scalar(scalar) if scalar.makes_lists() => Form::List(scalar),
        element => element
            .into_part()
            .map_or_else(Form::unknown, |part| Form::array_text(part, delimiter)),
    }
}

/// What stands between the elements of an array of this type.
pub(super) fn delimiter(element: u32) -> char {
    if element == BOX { ';' } else { ',' }
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
    use super::*;

    #[test]
    fn oids_are_unique() {
        let mut oids: Vec<u32> = LISTED.iter().flat_map(|&(oid, array, ..)| [oid, array]).collect();
        oids.extend(UNLISTED.iter().flat_map(|&(oid, array, ..)| [oid, array]));
        oids.extend(
            RANGES
                .iter()
                .flat_map(|(range, multi, _)| [range.0, range.1, multi.0, multi.1]),
        );
        oids.extend([NUMERIC, NUMERIC_ARRAY]);
        let count = oids.len();
        oids.sort_unstable();
        oids.dedup();
        assert_eq!(oids.len(), count);
    }
}
