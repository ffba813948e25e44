//! The types, and what is stored of each.

use super::composed;
use super::random::{Literal, Random};
use super::spatial;

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
    pub fn of(mut self, extension: &'static str) -> Self {
        self.extension = Some(extension);
        self
    }

    pub fn from(mut self, version: u32) -> Self {
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

pub fn edges(sql_type: &'static str, values: &[&str]) -> Column {
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

pub fn column(sql_type: &'static str, values: &[&str], random: Literal) -> Column {
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
    columns.extend(composed::nested());
    columns.extend(composed::of_extensions());
    columns.extend(spatial::listed());
    columns.extend(composed::lists());
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
