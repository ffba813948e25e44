use proptest::prelude::*;

use super::super::column_type::TextForm;
use super::*;

const TEXT: Scalar = Scalar::Text(TextForm::Verbatim);

fn lengthy(values: &[Option<&[u8]>]) -> Vec<u8> {
    let value = |value: &Option<&[u8]>| {
        let len = value.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap());
        [&len.to_be_bytes()[..], value.unwrap_or_default()].concat()
    };
    values.iter().flat_map(value).collect()
}

/// An array of `(length, lower bound)`s.
fn array(dimensions: &[(i32, i32)], values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = [i32::try_from(dimensions.len()).unwrap(), 0, 25]
        .map(i32::to_be_bytes)
        .concat();
    for (length, lower) in dimensions {
        out.extend([*length, *lower].map(i32::to_be_bytes).concat());
    }
    out.extend(lengthy(values));
    out
}

fn text(write: impl Fn(&mut String) -> Result<()>) -> Result<String> {
    let mut out = String::new();
    write(&mut out).map(|()| out)
}

fn shown(bytes: &[u8]) -> Result<String> {
    text(|out| write_array(out, &TEXT, ',', bytes))
}

#[test]
fn arrays_show_dimensions_bounds_and_quotes() {
    assert_eq!(shown(&array(&[], &[])).unwrap(), "{}");
    assert_eq!(shown(&array(&[(0, 1)], &[])).unwrap(), "{}");
    let values = ["", "null", "a b", "q\"\\", "{,}", "é"].map(|value| Some(value.as_bytes()));
    assert_eq!(
        shown(&array(&[(6, 1)], &values)).unwrap(),
        r#"{"","null","a b","q\"\\","{,}",é}"#
    );
    let six = [Some(&b"a"[..]), None, Some(b"b"), Some(b"c"), Some(b"d"), Some(b"e")];
    assert_eq!(shown(&array(&[(2, 1), (3, 1)], &six)).unwrap(), "{{a,NULL,b},{c,d,e}}");
    assert_eq!(
        shown(&array(&[(2, 0), (1, 1), (3, -2)], &six)).unwrap(),
        "[0:1][1:1][-2:0]={{{a,NULL,b}},{{c,d,e}}}"
    );
    let delimited = text(|out| write_array(out, &TEXT, ';', &array(&[(2, 1)], &[Some(b"1,2"), Some(b"3;4")])));
    assert_eq!(delimited.unwrap(), r#"{1,2;"3;4"}"#);
    let plain = text(|out| write_plain_vector(out, &TEXT, &array(&[(2, 0)], &[Some(b"1"), Some(b"2")])));
    assert_eq!(plain.unwrap(), "1 2");
}

#[test]
fn composites_and_ranges_double_their_quotes() {
    let parts = Parts::from_iter([(25, TEXT)]);
    let record = |values: &[(u32, Option<&[u8]>)]| {
        let mut bytes = i32::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for (oid, value) in values {
            bytes.extend(oid.to_be_bytes());
            bytes.extend(lengthy(&[*value]));
        }
        text(|out| write_record(out, &parts, &bytes))
    };
    assert_eq!(record(&[]).unwrap(), "()");
    assert_eq!(record(&[(25, None)]).unwrap(), "()");
    let seven = 7i32.to_be_bytes();
    assert_eq!(
        record(&[(25, Some(b"a\"\\")), (25, None), (23, Some(&seven)), (25, Some(b""))]).unwrap(),
        r#"("a""\\",,7,"")"#
    );
    assert!(matches!(record(&[(99_999, Some(b""))]), Err(ValueError::Malformed(_))));

    let range = |flags: u8, bounds: &[Option<&[u8]>]| [&[flags][..], &lengthy(bounds)].concat();
    let show = |bytes: &[u8]| text(|out| write_range(out, &TEXT, bytes));
    assert_eq!(show(&range(1, &[])).unwrap(), "empty");
    assert_eq!(show(&range(2, &[Some(b"a"), Some(b"b c")])).unwrap(), r#"[a,"b c")"#);
    assert_eq!(show(&range(0x18, &[])).unwrap(), "(,)");
    assert_eq!(show(&range(0x0C, &[Some(b"")])).unwrap(), r#"(,""]"#);
    assert_eq!(show(&range(2, &[Some(b"a"), None])), Err(ValueError::Length));
    let (one, other) = (range(0x18, &[]), range(1, &[]));
    let multirange = [&2i32.to_be_bytes()[..], &lengthy(&[Some(&one), Some(&other)])].concat();
    assert_eq!(
        text(|out| write_multirange(out, &TEXT, &multirange)).unwrap(),
        "{(,),empty}"
    );
}

#[test]
fn counts_without_their_values_are_refused() {
    assert!(shown(&array(&[(i32::MAX, 1); 6], &[])).is_err());
    assert!(shown(&array(&[(1, 1); 7], &[Some(b"a")])).is_err());
    assert!(shown(&array(&[(-1, 1)], &[])).is_err());
    assert!(shown(&array(&[(2, 1)], &[Some(b"a")])).is_err());
    assert!(shown(&array(&[(1, 1)], &[Some(b"a"), None])).is_err());
    assert_eq!(
        shown(&array(&[(1, i32::MAX)], &[Some(b"a")])).unwrap(),
        "[2147483647:2147483647]={a}"
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(0u8..30, 0..80)) {
        let parts = Parts::default();
        let _ = shown(&bytes);
        let _ = text(|out| write_plain_vector(out, &TEXT, &bytes));
        let _ = text(|out| write_record(out, &parts, &bytes));
        let _ = text(|out| write_range(out, &TEXT, &bytes));
        let _ = text(|out| write_multirange(out, &TEXT, &bytes));
    }
}
