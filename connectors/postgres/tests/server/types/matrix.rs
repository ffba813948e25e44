//! The types, and what is stored of each.

use super::random::{Literal, Random};

const SEED: u64 = 0x6D69_6C6C;

/// Extensions whose types are compared where the server has them.
pub const EXTENSIONS: &[&str] = &["citext", "hstore", "ltree", "cube", "seg", "isn", "vector", "postgis"];

pub const SETUP: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'so happy', 'q"\, {}');
    CREATE DOMAIN price AS numeric(12,3); CREATE DOMAIN fine_price AS price;
    CREATE DOMAIN tags AS text[]; CREATE DOMAIN corners AS box; CREATE DOMAIN span AS int4range;
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE nested AS (p pair, list text[], m mood, r numrange, at timestamptz, f float8, b bytea, c price, d tags);
    CREATE DOMAIN couple AS pair;
    CREATE TABLE shelf (id int, gone text, title text, ok bool); ALTER TABLE shelf DROP COLUMN gone;
    CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
    CREATE TYPE floatrange AS RANGE (subtype = float8);
    CREATE TYPE bill AS (amount money, note text);"#;

/// A type and its values; what is missing is NULL.
pub struct Column {
    pub sql_type: &'static str,
    pub values: Vec<Option<String>>,
    random: Option<Literal>,
    pub from_version: u32,
    pub extension: Option<&'static str>,
}

impl Column {
    fn of(mut self, extension: &'static str) -> Self {
        self.extension = Some(extension);
        self
    }

    fn from(mut self, version: u32) -> Self {
        self.from_version = version;
        self
    }

    /// Adds random values.
    pub fn with_random(mut self, count: usize) -> Self {
        let mut random = Random(
            self.sql_type
                .bytes()
                .fold(SEED, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte))),
        );
        if let Some(literal) = self.random {
            self.values.extend((0..count).map(|_| Some(literal(&mut random))));
        }
        self
    }
}

fn edges(sql_type: &'static str, values: &[&str]) -> Column {
    Column {
        sql_type,
        values: std::iter::once(None)
            .chain(values.iter().map(|value| Some((*value).to_owned())))
            .collect(),
        random: None,
        from_version: 0,
        extension: None,
    }
}

fn column(sql_type: &'static str, values: &[&str], random: Literal) -> Column {
    Column {
        random: Some(random),
        ..edges(sql_type, values)
    }
}

/// What has a binary form that tells all, with arrays as lists.
pub fn listed() -> Vec<Column> {
    let mut columns = numbers();
    columns.extend(times());
    columns.extend(texts());
    columns.extend(others());
    columns.extend(nested());
    columns.extend(of_extensions());
    columns.extend(lists());
    columns
}

fn numbers() -> Vec<Column> {
    let nines = "9".repeat(46);
    let long = format!("{}.{}", "9".repeat(300), "7".repeat(200));
    vec![
        edges("bool", &["t", "f"]),
        column("int2", &["-32768", "32767"], |r| r.integer(16).to_string()),
        column("int4", &["-2147483648", "2147483647"], |r| r.integer(32).to_string()),
        column("int8", &["-9223372036854775808", "9223372036854775807"], |r| {
            r.integer(64).to_string()
        }),
        column("oid", &["0", "4294967295"], |r| r.below(1 << 32).to_string()),
        column(
            "float4",
            &[
                "-0",
                "NaN",
                "Infinity",
                "-Infinity",
                "1e-45",
                "3.4028235e38",
                "1.17549435e-38",
                "16777216",
            ],
            Random::float4,
        ),
        column(
            "float8",
            &[
                "-0",
                "NaN",
                "Infinity",
                "-Infinity",
                "5e-324",
                "1.7976931348623157e308",
                "1e23",
                "9007199254740993",
            ],
            Random::float8,
        ),
        column(
            "numeric",
            &["NaN", "Infinity", "-Infinity", "0.000", "1e-300", "1e300", &long],
            |r| r.decimal(60, 60),
        ),
        column("numeric(10,2)", &["0", "-0.01", "99999999.99"], |r| r.decimal(7, 4)),
        column(
            "numeric(38,10)",
            &["0.0000000001", "-9999999999999999999999999999.9999999999"],
            |r| r.decimal(27, 12),
        ),
        column("numeric(76,30)", &[&nines, "-0.000000000000000000000000000001"], |r| {
            r.decimal(45, 31)
        }),
        column("numeric(100,2)", &[&"9".repeat(98)], |r| r.decimal(97, 3)),
        column("numeric(3,-2)", &["99900", "-100", "0"], |r| r.integer(16).to_string()).from(150_000),
        column("numeric(2,4)", &["0.0099", "-0.0001"], |r| {
            format!("0.00{}", r.below(99))
        })
        .from(150_000),
        column("price", &["1.25"], |r| r.decimal(8, 4)),
        column("fine_price", &["-1.25"], |r| r.decimal(8, 4)),
        column("tid", &["(0,0)", "(4294967295,65535)"], |r| {
            format!("({},{})", r.below(1 << 32), r.below(1 << 16))
        }),
        column("xid", &["4294967295"], |r| r.below(1 << 32).to_string()),
        column("cid", &["0"], |r| r.below(1 << 32).to_string()),
        column("xid8", &["18446744073709551615"], |r| r.bits().to_string()),
        column("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF"], |r| {
            format!("{:X}/{:X}", r.below(1 << 32), r.below(1 << 32))
        }),
        edges(
            "pg_snapshot",
            &[
                "10:20:10,14,15",
                "1:1:",
                "9223372036854775:9223372036854777:9223372036854776",
            ],
        ),
        edges("txid_snapshot", &["10:20:10,14,15", "1:1:"]),
        column("int2vector", &["", "-1"], |r| {
            format!("{} {}", r.integer(16), r.integer(16))
        }),
        column("oidvector", &["", "4294967295"], |r| {
            format!("{} {}", r.below(99), r.below(1 << 32))
        }),
    ]
}

fn times() -> Vec<Column> {
    vec![
        column(
            "date",
            &[
                "infinity",
                "-infinity",
                "4713-01-01 BC",
                "0001-01-01 BC",
                "0001-01-01",
                "5874897-12-31",
                "1970-01-01",
            ],
            Random::date,
        ),
        column("time", &["00:00:00", "24:00:00", "23:59:59.999999"], Random::time),
        column("time(2)", &["00:00:00.99"], Random::time),
        column("timetz", &["24:00:00+00", "00:00:00-15:59:59", "12:00:00+15:59"], |r| {
            format!(
                "{}{}{:02}:{:02}",
                r.time(),
                ["+", "-"][r.below(2) as usize],
                r.below(15),
                r.below(60)
            )
        }),
        column(
            "timestamp",
            &[
                "infinity",
                "-infinity",
                "4713-01-01 00:00:00 BC",
                "294246-12-31 23:59:59.999999",
                "1969-12-31 23:59:59.999999",
            ],
            Random::timestamp,
        ),
        column(
            "timestamptz",
            &[
                "infinity",
                "-infinity",
                "4713-01-02 00:00:00+00 BC",
                "294246-12-31 23:59:59.999999+00",
                "2024-02-29 12:00:00+05:30",
            ],
            Random::timestamp,
        ),
        column(
            "interval",
            &[
                "0",
                "178000000 years",
                "-178000000 years",
                "2147483647 months -2147483648 days",
                "-2147483648 months 2147483647 days",
                "2562047788:00:54.775807",
                "-2562047788:00:54.775807",
                "-1 mons 1 day -00:00:00.000001",
            ],
            Random::interval,
        ),
        edges("interval year to month", &["1 year 2 mons"]),
        // As columns of their own: before version 17 they are no intervals.
        edges("interval second", &["infinity", "-infinity"]).from(170_000),
    ]
}

fn texts() -> Vec<Column> {
    const LONG: &str = "a long text ";
    vec![
        column("text", &["", "NULL", &LONG.repeat(2000)], Random::text),
        column("varchar", &[""], Random::text),
        column("varchar(10)", &["abc"], |r| r.text()),
        column("char(12)", &["", "ab"], Random::text),
        edges("\"char\"", &["", "x", " ", "\\"]),
        edges("\"char\"", &["\\351", "\\200"]).from(160_000),
        column("name", &["a_name"], Random::text),
        edges("json", &["{\"a\" :  [1, 2.50, \"é\"]}", "null", "\"\\u00e9\""]),
        column(
            "jsonb",
            &["{\"b\" :  [1, 2.50, 1e3], \"a\": null}", "null", "[]"],
            |r| format!("{{\"k\": [\"{}\", {}.{}]}}", r.hex(3), r.integer(60), r.below(1 << 40)),
        ),
        edges("jsonpath", &["$.a[*] ? (@ > 1)", "strict $.\"b c\".size()"]),
        edges(
            "xml",
            &[
                "<a b=\"1\">é</a>",
                "<?xml version=\"1.0\" standalone=\"yes\"?><a/>",
                "text",
            ],
        )
        .of("xml"),
        edges("mood", &["sad", "so happy", "q\"\\, {}"]),
        column("bytea", &["\\x", "\\x00ff"], |r| format!("\\x{}", r.hex(9))),
        column(
            "uuid",
            &[
                "00000000-0000-0000-0000-000000000000",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
            ],
            |r| r.hex(16),
        ),
        edges("refcursor", &["c1"]),
        edges("aclitem", &["postgres=r*w/postgres"]),
        edges("tsvector", &["", "a:1A,2B,3C,4D,16383 'b c' 'd''e' 'f\\\\g'"]),
        column("tsvector", &["é"], |r| {
            format!("'{}':{} z", r.hex(2), 1 + r.below(16383))
        }),
        edges(
            "tsquery",
            &[
                "",
                "a",
                "'b c':*AD",
                "!a",
                "!(a & b)",
                "a & (b | c) & !d",
                "(a | b) <-> c",
                "a <-> (b <-> c)",
                "(a <-> b) <3> c",
                "!(!a)",
                "!a <-> !b",
                "a <-> (b & c)",
                "'it''s' & 'back\\\\slash'",
                "a | b & c",
                "(a | b) & (c | d)",
            ],
        ),
    ]
}

fn others() -> Vec<Column> {
    vec![
        edges(
            "inet",
            &[
                "10.0.0.1",
                "10.0.0.1/8",
                "::1",
                "::",
                "::ffff:1.2.3.4",
                "::1.2.3.4",
                "1:0:0:2::",
                "0.0.0.0/0",
                "::/0",
            ],
        ),
        column("inet", &["::2:3:4:5:6:7:8"], |r| {
            format!(
                "{:x}::{:x}:{:x}/{}",
                r.below(9),
                r.below(2),
                r.below(1 << 16),
                r.below(129)
            )
        }),
        edges(
            "cidr",
            &[
                "10.0.0.0/8",
                "192.168.1.1/32",
                "2001:db8::/32",
                "::ffff:0:0/96",
                "::1/128",
                "0.0.0.0/0",
            ],
        ),
        column("macaddr", &["00:00:00:00:00:00"], |r| r.hex(6)),
        column("macaddr8", &["ff:ff:ff:ff:ff:ff:ff:ff"], |r| r.hex(8)),
        column("bit(10)", &["1010000001"], |r| format!("{:010b}", r.below(1024))),
        column("varbit", &["", "1", "101010101"], |r| format!("{:b}", r.bits())),
        column("point", &["(NaN,-0)", "(Infinity,-Infinity)"], Random::point),
        column("line", &["{1,2,3}"], |r| {
            format!("{{{},1,{}}}", r.integer(40), r.integer(9))
        }),
        column("lseg", &["[(1,2),(3,4)]"], |r| format!("[{},{}]", r.point(), r.point())),
        column("box", &["(1,2),(3,4)"], |r| format!("({},{})", r.point(), r.point())),
        column("corners", &["(1,2),(3,4)"], |r| {
            format!("({},{})", r.point(), r.point())
        }),
        column("path", &["[(1,2)]"], |r| {
            if r.below(2) == 0 {
                format!("[{}]", r.points())
            } else {
                format!("({})", r.points())
            }
        }),
        column("polygon", &["((1,2))"], |r| format!("({})", r.points())),
        column("circle", &["<(1,2),0>"], |r| format!("<{},{}>", r.point(), r.below(99))),
    ]
}

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

fn nested() -> Vec<Column> {
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

fn of_extensions() -> Vec<Column> {
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
        edges(
            "geometry",
            &[
                "POINT(1 2)",
                "SRID=4326;LINESTRING(0 0, 1 1)",
                "POLYGON Z((0 0 1,1 0 1,1 1 1,0 0 1))",
                "GEOMETRYCOLLECTION EMPTY",
            ],
        )
        .of("postgis"),
        edges("geometry(Point,4326)", &["SRID=4326;POINT(13.4 52.5)"]).of("postgis"),
        edges("geography", &["POINT(13.4 52.5)", "SRID=4326;MULTIPOINT(1 2, 3 4)"]).of("postgis"),
    ]
}

fn lists() -> Vec<Column> {
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

/// What is read as text only, and puts a stream into text mode.
pub fn text_only() -> Vec<Column> {
    vec![
        edges("money", &["12.34", "-92233720368547758.08"]),
        edges("money[]", &["{12.34,NULL}"]),
        edges("bill", &["(12.34,\"a b\")"]),
        edges("regclass", &["pg_class", "0"]),
        edges("regclass[]", &["{pg_class}"]),
        edges("regtype", &["integer"]),
        edges("regproc", &["now"]),
        edges("regprocedure", &["abs(integer)"]),
        edges("regnamespace", &["pg_catalog"]),
        edges("regrole", &["postgres"]),
        edges("regcollation", &["\"C\""]),
        edges("regconfig", &["simple"]),
        edges("regdictionary", &["simple"]),
        edges("regoperator", &["+(integer,integer)"]),
        edges("aclitem[]", &["{postgres=r/postgres}"]),
    ]
}
