//! Names of column types in YAML and messages: `int64`, `decimal(12,2)`, `string`.

use arrow_schema::DataType;

/// The name of a type; two types that hold the same values share a name.
pub(super) fn of(r#type: &DataType) -> String {
    match r#type {
        DataType::Boolean => "bool".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        DataType::FixedSizeBinary(size) => format!("binary({size})"),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Timestamp(_, None) => "timestamp".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamptz".to_owned(),
        DataType::Interval(_) => "interval".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            format!("list({})", of(item.data_type()))
        }
        DataType::Struct(_) => "struct".to_owned(),
        DataType::Map(..) => "map".to_owned(),
        DataType::Dictionary(_, values) => of(values),
        other => other.to_string().to_lowercase(),
    }
}

/// The name in the form of [`of`] that `written` stands for; SQL's names are understood too.
/// `None` if it names no type.
pub(super) fn canonical(written: &str) -> Option<String> {
    let compact: String = written.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let name = match compact.as_str() {
        "bool" | "boolean" => "bool",
        "smallint" | "int2" => "int16",
        "int" | "integer" | "int4" => "int32",
        "bigint" => "int64",
        "real" | "float4" => "float32",
        "double" | "double precision" | "float8" => "float64",
        "string" | "text" | "varchar" | "utf8" => "string",
        "binary" | "bytea" | "bytes" => "binary",
        "timestamp" | "timestamp without time zone" => "timestamp",
        "timestamptz" | "timestamp with time zone" => "timestamptz",
        "numeric" | "decimal" => "decimal",
        exact @ ("int8" | "int16" | "int32" | "int64" | "uint8" | "uint16" | "uint32" | "uint64" | "float16"
        | "float32" | "float64" | "date" | "time" | "interval" | "struct" | "map") => exact,
        other => return parametric(other),
    };
    Some(name.to_owned())
}

fn parametric(written: &str) -> Option<String> {
    let (name, inner) = written.strip_suffix(')')?.split_once('(')?;
    match name.trim() {
        "list" | "array" => canonical(inner).map(|item| format!("list({item})")),
        "binary" => inner.trim().parse::<u32>().ok().map(|size| format!("binary({size})")),
        "decimal" | "numeric" => {
            let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
            let precision: u8 = precision.trim().parse().ok()?;
            let scale: i8 = scale.trim().parse().ok()?;
            Some(format!("decimal({precision},{scale})"))
        }
        _ => None,
    }
}

/// Whether a column of type `found` is what the canonical name `expected` asks for. `decimal`
/// alone admits any precision.
pub(super) fn admits(expected: &str, found: &DataType) -> bool {
    let found = of(found);
    found == expected || (expected == "decimal" && found.starts_with("decimal("))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_names_and_arrow_names_meet() {
        assert_eq!(canonical("BIGINT").as_deref(), Some("int64"));
        assert_eq!(canonical("numeric( 12 , 2 )").as_deref(), Some("decimal(12,2)"));
        assert_eq!(canonical("list(text)").as_deref(), Some("list(string)"));
        assert_eq!(canonical("varint"), None);
        assert!(admits("decimal", &DataType::Decimal128(9, 1)));
        assert!(!admits("decimal(9,2)", &DataType::Decimal128(9, 1)));
        assert!(admits(
            "string",
            &DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
        ));
    }
}
