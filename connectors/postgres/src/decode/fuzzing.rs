//! What fuzz targets call with bytes of their own making. Each function panics if a promise of the
//! decoders is broken; that none panics by itself is one of them.

use std::sync::{Arc, LazyLock};

use arrow_array::Array;
use arrow_schema::{DataType, Schema};
use millstream_core::{PartitionId, TableId, TableSchema};

use super::catalog_type::{Catalog, CatalogType, TypeKind};
use super::column::ColumnBuilder;
use super::forms::{ArrayForm, Forms, NumericForm};
use super::pgoutput::{self, Message};
use super::text_form::write_any;
use super::{ChangeContext, ColumnType, CopyDecoder, TableDecoder};

/// OIDs of a catalog of our own: one of each kind of type that is not built in.
const ENUM: u32 = 20_000;
const PAIR: u32 = 20_001;
const NESTED: u32 = 20_002;
const TEXT_RANGE: u32 = 20_003;
const FIRST_OF_EXTENSIONS: u32 = 20_010;
const OF_EXTENSIONS: &[(&str, &str)] = &[
    ("citext", "citext"),
    ("hstore", "hstore"),
    ("ltree", "ltree"),
    ("cube", "cube"),
    ("vector", "vector"),
    ("vector", "halfvec"),
    ("vector", "sparsevec"),
    ("postgis", "geometry"),
];
const FIRST_ARRAY: u32 = 20_030;

pub(super) fn catalog() -> Catalog {
    let composite = |oid, name, attributes: &[u32]| CatalogType {
        kind: TypeKind::Composite,
        attributes: attributes.to_vec(),
        ..CatalogType::base(oid, name)
    };
    let mut types = vec![
        CatalogType {
            kind: TypeKind::Enum,
            ..CatalogType::base(ENUM, "mood")
        },
        composite(PAIR, "pair", &[23, 25]),
        composite(NESTED, "nested", &[PAIR, 1009, 701, 1184, 3906, FIRST_ARRAY]),
        CatalogType {
            kind: TypeKind::Range,
            bound: Some(25),
            ..CatalogType::base(TEXT_RANGE, "textrange")
        },
    ];
    for (oid, (extension, name)) in (FIRST_OF_EXTENSIONS..).zip(OF_EXTENSIONS) {
        types.push(CatalogType {
            extension: Some((*extension).to_owned()),
            ..CatalogType::base(oid, name)
        });
    }
    let elements = (ENUM..=TEXT_RANGE).chain((FIRST_OF_EXTENSIONS..).take(OF_EXTENSIONS.len()));
    for (oid, element) in (FIRST_ARRAY..).zip([PAIR].into_iter().chain(elements)) {
        types.push(CatalogType {
            element: Some(element),
            ..CatalogType::base(oid, "_array")
        });
    }
    types.into_iter().map(|found| (found.oid, found)).collect()
}

/// A group of value decoders, each with its OID and typmod.
type Group = &'static [(u32, i32)];

const SCALARS: Group = &[
    (16, -1),
    (17, -1),
    (18, -1),
    (19, -1),
    (20, -1),
    (21, -1),
    (23, -1),
    (25, -1),
    (26, -1),
    (27, -1),
    (28, -1),
    (114, -1),
    (700, -1),
    (701, -1),
    (1560, -1),
    (2950, -1),
    (3220, -1),
    (3802, -1),
    (5038, -1),
    (5069, -1),
    (ENUM, -1),
];
const NUMERIC: Group = &[
    (1700, -1),
    (1700, (10 << 16 | 2) + 4),
    (1700, (38 << 16 | 38) + 4),
    (1700, (76 << 16 | 30) + 4),
];
const CALENDAR: Group = &[(1082, -1), (1083, -1), (1114, -1), (1184, -1), (1186, -1), (1266, -1)];
const NETWORK: Group = &[(650, -1), (774, -1), (829, -1), (869, -1)];
const GEOMETRY: Group = &[
    (600, -1),
    (601, -1),
    (602, -1),
    (603, -1),
    (604, -1),
    (628, -1),
    (718, -1),
    (FIRST_OF_EXTENSIONS + 3, -1),
];
const SEARCH: Group = &[(3614, -1), (3615, -1)];
const NESTED_TYPES: Group = &[
    (PAIR, -1),
    (NESTED, -1),
    (TEXT_RANGE, -1),
    (3904, -1),
    (3906, -1),
    (3910, -1),
    (4451, -1),
    (4532, -1),
    (22, -1),
    (30, -1),
    (1017, -1),
    (1020, -1),
    (FIRST_ARRAY, -1),
    (FIRST_ARRAY + 3, -1),
];
const LISTS: Group = &[
    (1000, -1),
    (1001, -1),
    (1007, -1),
    (1009, -1),
    (1022, -1),
    (1231, (10 << 16 | 2) + 4),
    (1231, -1),
    (1182, -1),
    (1185, -1),
    (1187, -1),
    (1041, -1),
    (FIRST_ARRAY + 1, -1),
];
const EXTENSIONS: Group = &[
    (FIRST_OF_EXTENSIONS, -1),
    (FIRST_OF_EXTENSIONS + 1, -1),
    (FIRST_OF_EXTENSIONS + 2, -1),
    (FIRST_OF_EXTENSIONS + 4, -1),
    (FIRST_OF_EXTENSIONS + 5, -1),
    (FIRST_OF_EXTENSIONS + 6, -1),
    (FIRST_OF_EXTENSIONS + 7, -1),
];

/// What is run, and what it is called.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, for the test that runs their seeds.
pub const TARGETS: &[Target] = &[
    ("pgoutput", pgoutput),
    ("tuple", tuple),
    ("copy", copy),
    ("scalars", scalars),
    ("numeric", numeric),
    ("calendar", calendar),
    ("network", network),
    ("geometry", geometry),
    ("search", search),
    ("nested", nested),
    ("lists", lists),
    ("extensions", extensions),
];

/// Values of types that need no more than a few lines each.
pub fn scalars(data: &[u8]) {
    value(SCALARS, data);
}

/// `numeric`, as text and as both widths of decimals.
pub fn numeric(data: &[u8]) {
    value(NUMERIC, data);
}

/// Dates, times and intervals.
pub fn calendar(data: &[u8]) {
    value(CALENDAR, data);
}

/// Network addresses.
pub fn network(data: &[u8]) {
    value(NETWORK, data);
}

/// Geometric types and `cube`.
pub fn geometry(data: &[u8]) {
    value(GEOMETRY, data);
}

/// `tsvector` and `tsquery`.
pub fn search(data: &[u8]) {
    value(SEARCH, data);
}

/// Composites, ranges, multiranges, and arrays as their text.
pub fn nested(data: &[u8]) {
    value(NESTED_TYPES, data);
}

/// Arrays as lists.
pub fn lists(data: &[u8]) {
    value(LISTS, data);
}

/// Types of extensions.
pub fn extensions(data: &[u8]) {
    value(EXTENSIONS, data);
}

/// The first byte chooses the type, the second the format and the forms, the rest is the value.
fn value(group: Group, data: &[u8]) {
    let [which, how, bytes @ ..] = data else { return };
    let (oid, typmod) = group[usize::from(*which) % group.len()];
    let forms = Forms {
        numeric: if how & 2 == 0 {
            NumericForm::Decimal
        } else {
            NumericForm::Text
        },
        arrays: if how & 4 == 0 { ArrayForm::List } else { ArrayForm::Text },
    };
    static CATALOG: LazyLock<Catalog> = LazyLock::new(catalog);
    let r#type = ColumnType::resolve(oid, typmod, &CATALOG).stored_as(forms);
    let mut builder = ColumnBuilder::new(&r#type);
    let is_binary = how & 1 == 0;
    let taken = if is_binary {
        builder.append_binary(bytes)
    } else {
        builder.append_text(bytes)
    };
    let mut expected = usize::from(taken.is_ok());
    assert_eq!(builder.len(), expected, "a refused value appends nothing");
    builder.append_null();
    expected += 1;
    let mut shown = String::new();
    // What is written of a value reads back as the value.
    if is_binary && taken.is_ok() && write_any(&mut shown, &r#type.form, bytes).is_ok() {
        match builder.append_text(shown.as_bytes()) {
            Ok(()) => {}
            Err(error) => panic!("{}: the text of a value is refused: {error}", r#type.name()),
        }
        expected += 1;
    }
    let array = builder.finish();
    assert_eq!(array.len(), expected);
    assert_eq!(*array.data_type(), r#type.arrow());
    array.to_data().validate_full().expect("a sound array");
    // A NaN comes in many bit patterns, and a binary numeric may have digits beyond the scale that it
    // says it is shown with; the server sends none such.
    let is_loose =
        shown.contains("NaN") || matches!(array.data_type(), DataType::Decimal128(..) | DataType::Decimal256(..));
    if expected == 3 && !is_loose {
        assert_eq!(
            array.slice(0, 1).as_ref(),
            array.slice(2, 1).as_ref(),
            "{}",
            r#type.name()
        );
    }
}

/// Messages of the stream.
pub fn pgoutput(data: &[u8]) {
    let Ok(message) = pgoutput::parse(data) else { return };
    match message {
        Message::Relation(relation) => {
            let names = relation.columns().map(|column| column.name.len());
            assert!(names.sum::<usize>() <= data.len());
        }
        Message::Truncate { relations } => assert!(relations.iter().count() * 4 <= data.len()),
        Message::Insert { new, .. } => assert_eq!(new.iter().count(), new.len()),
        Message::Update { new, .. } => assert_eq!(new.iter().count(), new.len()),
        _ => {}
    }
}

/// Rows of the stream into batches: the first byte says whether the table has a before-image, each
/// message comes behind two bytes of its length.
pub fn tuple(data: &[u8]) {
    let Some((before_image, mut rest)) = data.split_first() else {
        return;
    };
    let mut decoder = table(before_image & 1 == 1);
    let (mut ordinal, mut rows) = (0, 0);
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let (message, after) = after.split_at(usize::from(u16::from_be_bytes(*len)).min(after.len()));
        rest = after;
        let context = ChangeContext {
            position: "0000000000000001",
            ordinal,
            committed_at: None,
        };
        let taken = match pgoutput::parse(message) {
            Ok(Message::Insert { new, .. }) => decoder.insert(&context, &new),
            Ok(Message::Update { old, new, .. }) => decoder.update(&context, old.as_ref(), &new),
            Ok(Message::Delete { old, .. }) => decoder.delete(&context, &old),
            Ok(Message::Truncate { .. }) => decoder.truncate(&context),
            _ => continue,
        };
        if let Ok(taken) = taken {
            ordinal += taken;
            rows += taken;
        }
    }
    assert_eq!(finished(&mut decoder), rows, "each row is in the batch or rejected");
}

/// A copy stream, whole and in pieces whose length is the first byte, one by one and several at once.
pub fn copy(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else {
        return;
    };
    let fed = |pieces: &[&[u8]], at_once: usize| {
        let (mut decoder, mut rows) = (table(false), 0);
        let mut copy = CopyDecoder::new(decoder.types().len());
        let fed = pieces.chunks(at_once).try_for_each(|some| {
            copy.feed(some.iter().copied(), |found| {
                rows += found.len() as i64;
                decoder.copy("0000000000000001", &vec![0; found.len()], &found)
            })
        });
        assert_eq!(finished(&mut decoder), rows, "each row is in the batch or rejected");
        // How many rows in front of a failure are given is left open.
        fed.is_ok().then(|| (rows, copy.is_complete()))
    };
    let pieces: Vec<_> = stream.chunks(usize::from(*piece).max(1)).collect();
    let whole = fed(&[stream], 1);
    assert_eq!(whole, fed(&pieces, 1), "it does not matter how a stream is cut");
    assert_eq!(whole, fed(&pieces, 7), "nor how much of it comes at once");
}

/// The rows of the batch and those that were rejected.
fn finished(decoder: &mut TableDecoder) -> i64 {
    let batch = decoder.finish().expect("the columns fit the schema");
    let rejects = decoder.finish_rejects().expect("rejected rows have their schema");
    [batch, rejects]
        .into_iter()
        .flatten()
        .map(|batch| batch.num_rows() as i64)
        .sum()
}

fn table(before_image: bool) -> TableDecoder {
    let columns = [
        ("id", 23, -1),
        ("note", 25, -1),
        ("amount", 1700, (10 << 16 | 2) + 4),
        ("tags", 1009, -1),
        ("at", 1184, -1),
        ("place", 600, -1),
    ];
    let catalog = Catalog::new();
    let types = columns.map(|(_, oid, typmod)| ColumnType::resolve(oid, typmod, &catalog));
    let fields = columns
        .iter()
        .zip(&types)
        .map(|((name, ..), r#type)| r#type.field(name));
    let schema = TableSchema {
        id: TableId::new("shop", Some("public"), "fuzzed"),
        columns: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        key: vec!["id".to_owned()],
        not_null: Vec::new(),
        before_image,
    };
    debug_assert!(*schema.columns.field(0).data_type() == DataType::Int32);
    TableDecoder::new(Arc::new(schema), types.into(), PartitionId::new("shop", "wal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The folder of the seeds, read when the test runs.
    fn seeds() -> std::path::PathBuf {
        let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        std::path::PathBuf::from(crate_folder).join("../../fuzz/seeds")
    }

    #[test]
    fn every_seed_passes_its_target() {
        for (name, run) in TARGETS {
            let mut count = 0;
            for seed in std::fs::read_dir(seeds().join(name)).unwrap_or_else(|error| panic!("{name}: {error}")) {
                run(&std::fs::read(seed.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{name} has no seeds");
        }
    }

    #[test]
    fn every_target_has_its_program() {
        let programs = seeds().join("../fuzz_targets");
        let mut found: Vec<_> = std::fs::read_dir(programs)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        assert_eq!(found, names);
    }

    #[test]
    fn every_type_of_a_group_is_read_in_binary() {
        let groups = [
            SCALARS,
            NUMERIC,
            CALENDAR,
            NETWORK,
            GEOMETRY,
            SEARCH,
            NESTED_TYPES,
            LISTS,
            EXTENSIONS,
        ];
        for (oid, typmod) in groups.into_iter().flatten() {
            let found = ColumnType::resolve(*oid, *typmod, &catalog());
            assert!(!found.needs_text(), "{oid}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_a_promise(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            for (_, run) in TARGETS {
                run(&data);
            }
        }
    }
}
