use super::super::CatalogType;
use super::super::catalog_type::TypeKind;
use super::*;

fn arrow(oid: u32, typmod: i32) -> DataType {
    ColumnType::resolve(oid, typmod, &Catalog::new()).arrow()
}

/// As `numerictypmodin` packs it.
fn typmod(precision: i32, scale: i32) -> i32 {
    (precision << 16 | scale & 0x7FF) + 4
}

fn catalog(types: &[CatalogType]) -> Catalog {
    types.iter().map(|found| (found.oid, found.clone())).collect()
}

fn of_kind(oid: u32, name: &str, kind: TypeKind) -> CatalogType {
    CatalogType {
        kind,
        ..CatalogType::base(oid, name)
    }
}

fn domain(oid: u32, name: &str, base: u32, typmod: i32) -> CatalogType {
    CatalogType {
        base: Some((base, typmod)),
        ..of_kind(oid, name, TypeKind::Domain)
    }
}

fn array(oid: u32, name: &str, element: u32) -> CatalogType {
    CatalogType {
        element: Some(element),
        ..CatalogType::base(oid, name)
    }
}

fn of_extension(oid: u32, name: &str, extension: &str) -> CatalogType {
    CatalogType {
        extension: Some(extension.to_owned()),
        ..CatalogType::base(oid, name)
    }
}

fn composite(oid: u32, name: &str, attributes: &[u32]) -> CatalogType {
    CatalogType {
        attributes: attributes.to_vec(),
        ..of_kind(oid, name, TypeKind::Composite)
    }
}

fn list(of: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(of, true)))
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
    assert_eq!(arrow(1231, typmod(10, 2)), list(DataType::Decimal128(10, 2)));
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
    assert_eq!(resolve(1231, numeric).arrow(), list(DataType::Utf8));
    assert_eq!(resolve(1231, arrays).arrow(), DataType::Utf8);
    assert!(!resolve(1231, arrays).needs_text(), "so is an array's");
    assert_eq!(resolve(23, numeric).arrow(), DataType::Int32);
}

#[test]
fn domains_enums_and_arrays_are_followed() {
    let catalog = catalog(&[
        of_kind(20000, "mood", TypeKind::Enum),
        array(20001, "_mood", 20000),
        domain(20002, "price", 1700, typmod(12, 3)),
        domain(20003, "fine_price", 20002, -1),
        array(20004, "_price", 20002),
        domain(20005, "tags", 1009, -1),
        array(20006, "_tags", 20005),
        of_extension(20009, "citext", "citext"),
    ]);
    let resolve = |oid| ColumnType::resolve(oid, -1, &catalog);
    assert_eq!(resolve(20000).arrow(), DataType::Utf8);
    assert_eq!(resolve(20001).arrow(), list(DataType::Utf8));
    assert_eq!(resolve(20003).arrow(), DataType::Decimal128(12, 3));
    assert_eq!(resolve(20003).name(), "fine_price");
    assert_eq!(resolve(20004).arrow(), list(DataType::Decimal128(12, 3)));
    assert_eq!(resolve(20005).arrow(), list(DataType::Utf8));
    assert_eq!(
        resolve(20006).arrow(),
        DataType::Utf8,
        "a list of lists is the text of the array"
    );
    for oid in [20000, 20001, 20003, 20005, 20006, 20009, 600, 1017, 3904, 22, 30] {
        assert!(!resolve(oid).needs_text(), "{oid}");
    }
}

#[test]
fn what_a_type_is_made_of_decides_whether_it_is_read_in_binary() {
    let mut ltree = of_extension(20010, "ltree", "ltree");
    let catalog_of = |ltree: &CatalogType| {
        catalog(&[
            ltree.clone(),
            array(20011, "_ltree", 20010),
            composite(20012, "labelled", &[23, 20010]),
            array(20013, "_labelled", 20012),
            composite(20014, "priced", &[23, 790]),
            domain(20015, "label", 20010, -1),
            CatalogType {
                bound: Some(20015),
                ..of_kind(20016, "labels", TypeKind::Range)
            },
        ])
    };
    let sent = catalog_of(&ltree);
    ltree.sends = false;
    let unsent = catalog_of(&ltree);
    let needs = |oid, catalog: &Catalog| {
        let resolved = ColumnType::resolve(oid, -1, catalog);
        assert_eq!(resolved.arrow(), DataType::Utf8, "{oid}");
        (resolved.needs_text(), resolved.needs_text_stream())
    };
    for oid in [20010, 20011, 20012, 20013, 20015, 20016] {
        assert_eq!(needs(oid, &sent), (false, false), "{oid}");
    }
    // By itself it comes as text, as a part of another the server would fail to send it.
    for oid in [20010, 20015, 1033] {
        assert_eq!(needs(oid, &unsent), (true, false), "{oid}");
    }
    for oid in [20011, 20012, 20013, 20014, 20016, 1034, 790, 791, 2205, 99999] {
        assert_eq!(needs(oid, &unsent), (true, true), "{oid}");
    }
}

#[test]
fn types_that_contain_themselves_or_too_much_are_text() {
    let deep = (0..100).map(|level| domain(20100 + level, "deep", 20101 + level, -1));
    // Each has two of the next, so that the last is there 2^25 times.
    let wide = (0..25).flat_map(|level| {
        [20300, 20400].map(|first| composite(first + level, "wide", &[20301 + level, 20401 + level]))
    });
    let last = [composite(20325, "last", &[23]), composite(20425, "last", &[23])];
    let mut types: Vec<_> = deep.chain(wide).chain(last).collect();
    types.push(domain(20050, "loop", 20050, -1));
    let catalog = catalog(&types);
    for oid in [20050, 20100, 20300] {
        assert!(ColumnType::resolve(oid, -1, &catalog).needs_text_stream(), "{oid}");
    }
}

#[test]
fn types_of_extensions_are_known_by_their_extension() {
    let catalog = catalog(&[
        of_extension(20000, "geometry", "postgis"),
        of_extension(20001, "vector", "vector"),
        of_extension(20002, "halfvec", "vector"),
        array(20003, "_geometry", 20000),
        of_extension(20004, "geometry", "another"),
        CatalogType::base(20005, "vector"),
    ]);
    let resolve = |oid| ColumnType::resolve(oid, -1, &catalog);
    assert_eq!(resolve(20000).arrow(), DataType::Binary);
    assert_eq!(resolve(20001).arrow(), list(DataType::Float32));
    assert_eq!(resolve(20002).arrow(), list(DataType::Float32));
    assert_eq!(
        (resolve(20003).arrow(), resolve(20003).needs_text()),
        (DataType::Utf8, false)
    );
    assert!(resolve(20004).needs_text_stream() && resolve(20005).needs_text_stream());
}
