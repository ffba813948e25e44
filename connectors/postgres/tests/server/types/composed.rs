//! Types that are made of others, types of extensions, and arrays.

use super::matrix::{Column, column, edges};
use super::random::{Literal, Random};

fn pair(random: &mut Random) -> String {
    random.record(&[|r| r.integer(32).to_string(), Random::text])
}

fn numrange(random: &mut Random) -> String {
    let bounds = random.integers_in_order();
    random.range(bounds)
}

fn textrange(random: &mut Random) -> String {
    let bounds = random.texts_in_order();
    random.range(bounds)
}

fn nested_record(random: &mut Random) -> String {
    random.record(&[
        pair,
        |r| r.array(2, ",", Random::text),
        |r| ["sad", "so happy", "q\"\\, {}"][r.below(3) as usize].to_owned(),
        numrange,
        Random::timestamp,
        Random::float8,
        |r| format!("\\x{}", r.hex(3)),
        |r| r.decimal(6, 3),
        |r| r.array(1, ",", Random::text),
    ])
}

pub fn nested() -> Vec<Column> {
    let multirange: Literal = |r| {
        let (one, other) = (numrange(r), numrange(r));
        format!("{{{one},{other}}}")
    };
    vec![
        column("pair", &["(,)", "(1,\"\")", "(,\" \")"], pair),
        column("couple", &["(1,x)"], pair),
        column("nested", &["(,,,,,,,,)"], nested_record),
        column("shelf", &["(1,,t)"], |r| {
            r.record(&[|r| r.integer(9).to_string(), Random::text, |_| "f".to_owned()])
        }),
        column("pair[]", &["{}", "[0:1][2:2]={{\"(1,a)\"},{NULL}}"], |r| {
            r.array(3, ",", pair)
        }),
        column("nested[]", &["{}"], |r| r.array(2, ",", nested_record)),
        column("int4range", &["empty", "(,)", "[1,5)"], numrange),
        column("int8range", &["empty", "[,1]"], numrange),
        column("numrange", &["(,1.50]", "[NaN,]"], numrange),
        column("tsrange", &["(\"2024-01-01 00:00:00\",infinity]"], |r| {
            let bounds = r.dates_in_order();
            r.range(bounds)
        }),
        column("tstzrange", &["[-infinity,\"2024-01-01 00:00:00+00\")"], |r| {
            let bounds = r.dates_in_order();
            r.range(bounds)
        }),
        column("daterange", &["[2024-01-01,infinity)"], |r| {
            let bounds = r.dates_in_order();
            r.range(bounds)
        }),
        column("textrange", &["[\"\",\"a b\"]", "(a,)"], textrange),
        column("floatrange", &["[-0,1e23)"], numrange),
        column("span", &["[1,5)"], numrange),
        column("nummultirange", &["{}", "{(,)}"], multirange),
        column("int4multirange", &["{[1,2),[5,7)}"], multirange),
        column("int8multirange", &["{}"], multirange),
        edges("datemultirange", &["{[2024-01-01,2024-02-01),[2025-01-01,infinity)}"]),
        edges("tsmultirange", &["{[\"2024-01-01 00:00:00\",\"2024-02-01 00:00:00\")}"]),
        edges("tstzmultirange", &["{(,\"2024-02-01 00:00:00+00\")}"]),
        column("textmultirange", &["{}"], |r| format!("{{{}}}", textrange(r))),
        column("int4range[]", &["{}"], |r| r.array(2, ",", numrange)),
        column("textrange[]", &["{}"], |r| r.array(2, ",", textrange)),
        column("nummultirange[]", &["{}"], |r| {
            r.array(2, ",", |r| format!("{{{}}}", numrange(r)))
        }),
        column("point[]", &["{}"], |r| r.array(2, ",", Random::point)),
        column("box[]", &["{}"], |r| {
            r.array(2, ";", |r| format!("({},{})", r.point(), r.point()))
        }),
        column("corners[]", &["{}"], |r| {
            r.array(2, ";", |r| format!("({},{})", r.point(), r.point()))
        }),
        column("tags[]", &["{}"], |r| {
            r.array(2, ",", |r| r.array(2, ",", Random::text))
        }),
        edges("tsvector[]", &["{\"'a':1 'b'\",NULL}"]),
        edges("tsquery[]", &["{\"'a' & 'b'\"}"]),
        edges("int2vector[]", &["{\"1 2\",\"\"}"]),
    ]
}

pub fn of_extensions() -> Vec<Column> {
    let hstore: Literal = |r| {
        let escape = |text: String| text.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{}\"=>\"{}\", b=>NULL", escape(r.text()), escape(r.text()))
    };
    let vector: Literal = |r| {
        format!(
            "[{},{},{}]",
            r.integer(20),
            r.integer(30),
            r.float4().replace("NaN", "1").replace("inf", "1")
        )
    };
    let halves: Literal = |r| format!("[{},0.{},{}e-4]", r.integer(12), r.below(10_000), r.integer(10));
    vec![
        column("citext", &["MiXed"], Random::text).of("citext"),
        column("citext[]", &["{}"], |r| r.array(1, ",", Random::text)).of("citext"),
        column("hstore", &["", "a=>1"], hstore).of("hstore"),
        column("hstore[]", &["{}"], |r| r.array(2, ",", |r| format!("{}=>1", r.hex(2)))).of("hstore"),
        column("ltree", &["", "Top.Science"], |r| {
            format!("a{}.b{}", r.hex(2), r.hex(3))
        })
        .of("ltree"),
        edges("lquery", &["*.foo|bar*@%.!baz.*{1,}"]).of("ltree"),
        edges("ltxtquery", &["Europe & Russia*@ & !Transportation"]).of("ltree"),
        edges("ltree[]", &["{a.b,NULL}"]).of("ltree"),
        column("cube", &["()", "(1, 2),(1, 2)", "(1, 2),(3, 4)", "(NaN),(NaN)"], |r| {
            format!(
                "({}, {}),({}, {})",
                r.integer(30),
                r.integer(9),
                r.integer(40),
                r.integer(9)
            )
        })
        .of("cube"),
        edges("cube[]", &["{\"(1, 2)\"}"]).of("cube"),
        edges("seg", &["1 .. 2", "~6.25", "<3"]).of("seg"),
        edges("isbn13", &["978-0-393-04002-9"]).of("isn"),
        column("vector", &["[1,-2.5,3e-45]", "[0]", "[3.4028235e38]"], vector).of("vector"),
        column("vector(3)", &["[1,2,3]"], vector).of("vector"),
        column("halfvec", &["[65504,-0.1,6e-8]"], halves).of("vector"),
        column(
            "sparsevec",
            &["{}/3", "{1:1.5,3:-2}/5", "{1000000000:1}/1000000000"],
            |r| format!("{{{}:{}}}/{}", 1 + r.below(9), 1 + r.below(1 << 20), 10 + r.below(9)),
        )
        .of("vector"),
        edges("vector[]", &["{\"[1,2]\",NULL}"]).of("vector"),
    ]
}

pub fn lists() -> Vec<Column> {
    vec![
        edges("bool[]", &["{}", "{t,NULL,f}"]),
        column("int2[]", &["{}"], |r| r.array(1, ",", |r| r.integer(16).to_string())),
        column("int4[]", &["{}", "{NULL}"], |r| {
            r.array(1, ",", |r| r.integer(32).to_string())
        }),
        column("int8[]", &["{}"], |r| r.array(1, ",", |r| r.integer(64).to_string())),
        column("oid[]", &["{}"], |r| r.array(1, ",", |r| r.below(1 << 32).to_string())),
        column("float4[]", &["{NaN,-0,Infinity}"], |r| r.array(1, ",", Random::float4)),
        column("float8[]", &["{NaN,-0,-Infinity}"], |r| r.array(1, ",", Random::float8)),
        column("numeric[]", &["{1.50,NaN,Infinity}"], |r| {
            r.array(1, ",", |r| r.decimal(40, 40))
        }),
        column("numeric(10,2)[]", &["{1.5,-2}"], |r| {
            r.array(1, ",", |r| r.decimal(6, 2))
        }),
        column("price[]", &["{1.250}"], |r| r.array(1, ",", |r| r.decimal(6, 2))),
        column("text[]", &["{}", "{\"\",NULL,\"NULL\"}"], |r| {
            r.array(1, ",", Random::text)
        }),
        column("tags", &["{x,y}"], |r| r.array(1, ",", Random::text)),
        column("varchar(9)[]", &["{}"], |r| r.array(1, ",", Random::text)),
        column("char(9)[]", &["{\"\"}"], |r| r.array(1, ",", Random::text)),
        edges("name[]", &["{a,b}"]),
        edges("\"char\"[]", &["{a,\"\",b}"]),
        edges("mood[]", &["{sad,\"so happy\",NULL,\"q\\\"\\\\, {}\"}"]),
        column("bytea[]", &["{\"\\\\x\"}"], |r| {
            r.array(1, ",", |r| format!("\\x{}", r.hex(3)))
        }),
        column("date[]", &["{infinity,-infinity}"], |r| r.array(1, ",", Random::date)),
        column("time[]", &["{24:00:00}"], |r| r.array(1, ",", Random::time)),
        edges("timetz[]", &["{24:00:00+00}"]),
        column("timestamp[]", &["{infinity}"], |r| r.array(1, ",", Random::timestamp)),
        column("timestamptz[]", &["{-infinity}"], |r| {
            r.array(1, ",", Random::timestamp)
        }),
        column("interval[]", &["{\"1 day 00:00:01\"}"], |r| {
            r.array(1, ",", Random::interval)
        }),
        edges("jsonb[]", &["{\"{\\\"a\\\": 1}\",null}"]),
        edges("json[]", &["{\"[1,  2]\"}"]),
        edges("jsonpath[]", &["{\"$.a\"}"]),
        edges("xml[]", &["{<a/>}"]).of("xml"),
        column("uuid[]", &["{}"], |r| r.array(1, ",", |r| r.hex(16))),
        edges("inet[]", &["{10.0.0.1/8,::1}"]),
        edges("cidr[]", &["{10.0.0.0/8}"]),
        edges("macaddr[]", &["{08:00:2b:01:02:ff}"]),
        edges("macaddr8[]", &["{08:00:2b:01:02:03:04:ff}"]),
        edges("bit(3)[]", &["{101,NULL}"]),
        edges("varbit[]", &["{101,\"\"}"]),
        edges("pg_lsn[]", &["{16/B374D848}"]),
        edges("tid[]", &["{\"(1,2)\"}"]),
        edges("xid[]", &["{7}"]),
        edges("xid8[]", &["{7}"]),
        edges("cid[]", &["{7}"]),
        edges("refcursor[]", &["{c}"]),
    ]
}

/// What a decimal or a list cannot hold, for `numeric: text` and `arrays: text`.
pub fn as_text() -> Vec<Column> {
    // Ties between two floats, where the fewest digits are in dispute, lie at powers of two and ten.
    let powers_of_two = (1u64..2047).map(|exponent| format!("{:e}", f64::from_bits(exponent << 52)));
    let denormals = (0..52).map(|bit| format!("{:e}", f64::from_bits(1 << bit)));
    let powers_of_ten =
        (-307..309).flat_map(|exponent| ["1", "2", "5", "9"].map(|digit| format!("{digit}e{exponent}")));
    let doubles: Vec<_> = powers_of_two
        .chain(denormals)
        .chain(powers_of_ten.filter(|text| text != "2e308" && text != "5e308" && text != "9e308"))
        .collect();
    let singles = (1u32..255).map(|exponent| format!("{:e}", f32::from_bits(exponent << 23)));
    let single_tens = (-44..39).map(|exponent| format!("1e{exponent}"));
    let singles: Vec<_> = singles.chain(single_tens).collect();
    let (doubles, singles) = (
        format!("{{{}}}", doubles.join(",")),
        format!("{{{}}}", singles.join(",")),
    );
    vec![
        column("numeric(5,2)", &["NaN", "-0.10"], |r| r.decimal(3, 2)),
        column("numeric(60,2)", &["NaN"], |r| r.decimal(50, 2)),
        edges("numeric(5,2)[]", &["{NaN,1}", "{{1},{2}}"]),
        column("bool[]", &["{{t},{f}}"], |r| r.array(3, ",", |_| "t".to_owned())),
        column("int2[]", &["{}"], |r| r.array(3, ",", |r| r.integer(16).to_string())),
        column(
            "int4[]",
            &[
                "{}",
                "[-2147483648:-2147483648]={1}",
                "[2147483646:2147483646]={1}",
                "{{{{{{1}}}}}}",
            ],
            |r| r.array(6, ",", |r| r.integer(32).to_string()),
        ),
        column("int8[]", &["{}"], |r| r.array(2, ",", |r| r.integer(64).to_string())),
        column("oid[]", &["{}"], |r| r.array(2, ",", |r| r.below(1 << 32).to_string())),
        column("float4[]", &[&singles], |r| r.array(2, ",", Random::float4)),
        column("float8[]", &[&doubles], |r| r.array(2, ",", Random::float8)),
        column("numeric[]", &["{}"], |r| r.array(2, ",", |r| r.decimal(40, 40))),
        column("text[]", &["{\"\",NULL,\"NULL\",nUll}"], |r| {
            r.array(3, ",", Random::text)
        }),
        column("tags", &["{}"], |r| r.array(2, ",", Random::text)),
        column("char(9)[]", &["{}"], |r| r.array(2, ",", Random::text)),
        column("name[]", &["{}"], |r| r.array(2, ",", Random::text)),
        edges("\"char\"[]", &["{a,\"\",\" \",\"\\\\\"}"]),
        edges("mood[]", &["[0:1]={sad,\"q\\\"\\\\, {}\"}"]),
        column("price[]", &["{}"], |r| r.array(2, ",", |r| r.decimal(6, 3))),
        column("bytea[]", &["{}"], |r| r.array(2, ",", |r| format!("\\x{}", r.hex(3)))),
        column("date[]", &["{infinity}"], |r| r.array(2, ",", Random::date)),
        column("time[]", &["{24:00:00}"], |r| r.array(2, ",", Random::time)),
        edges("timetz[]", &["[0:0]={24:00:00-00:30}"]),
        column("timestamp[]", &["{infinity}"], |r| r.array(2, ",", Random::timestamp)),
        // Microseconds from 1970 do not reach it, but the text does.
        edges("timestamp[]", &["{294276-12-31 23:59:59.999999}"]),
        column("timestamptz[]", &["{-infinity}"], |r| {
            r.array(2, ",", Random::timestamp)
        }),
        column("interval[]", &["{0}"], |r| r.array(2, ",", Random::interval)),
        column("uuid[]", &["{}"], |r| r.array(2, ",", |r| r.hex(16))),
        edges("jsonb[]", &["{{\"{\\\"a\\\": 1}\"}}"]),
        edges("jsonpath[]", &["{{\"$.\\\"a b\\\"\"}}"]),
        edges("xml[]", &["{{<a/>}}"]).of("xml"),
        edges("inet[]", &["{{10.0.0.1/8}}"]),
        edges("macaddr[]", &["{{08:00:2b:01:02:ff}}"]),
        edges("varbit[]", &["{{101,\"\"}}"]),
        edges("pg_lsn[]", &["{{16/B374D848}}"]),
        edges("tid[]", &["{{\"(1,2)\"}}"]),
        edges("xid8[]", &["{{7}}"]),
        column("citext[]", &["{}"], |r| r.array(2, ",", Random::text)).of("citext"),
    ]
}
