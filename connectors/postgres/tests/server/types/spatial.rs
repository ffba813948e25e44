//! PostGIS: every kind of geometry, in each number of dimensions, with and without SRID.

use super::matrix::{Column, column, edges};
use super::random::Random;

const GEOMETRIES: &[&str] = &[
    "POINT(1 2)",
    "POINT(-0 1e300)",
    "POINT EMPTY",
    "POINT Z EMPTY",
    "POINT M (1 2 3)",
    "POINT ZM (1 2 3 4)",
    "SRID=4326;POINT(13.4 52.5)",
    "SRID=4326;POINT Z (13.4 52.5 -7)",
    "SRID=3857;POINT EMPTY",
    "SRID=999999;POINT(1 1)",
    "SRID=4326;LINESTRING(0 0, 1 1)",
    "LINESTRING ZM (0 0 1 2, 1 1 3 4, 2 0 5 6)",
    "LINESTRING EMPTY",
    "POLYGON((0 0,4 0,4 4,0 4,0 0),(1 1,1 2,2 2,2 1,1 1))",
    "POLYGON Z((0 0 1,1 0 1,1 1 1,0 0 1))",
    "POLYGON EMPTY",
    "MULTIPOINT((0 0),(1 1))",
    "MULTIPOINT M (0 0 5, 1 1 6)",
    "MULTILINESTRING((0 0,1 1),(2 2,3 3))",
    "SRID=25832;MULTIPOLYGON(((0 0,1 0,1 1,0 0)),((5 5,6 5,6 6,5 5)))",
    "GEOMETRYCOLLECTION EMPTY",
    "GEOMETRYCOLLECTION(POINT(1 2),GEOMETRYCOLLECTION(LINESTRING(0 0,1 1),POINT EMPTY))",
    "SRID=4326;GEOMETRYCOLLECTION Z(POINT Z(1 2 3),POLYGON Z EMPTY)",
    "CIRCULARSTRING(0 0,1 1,2 0)",
    "COMPOUNDCURVE(CIRCULARSTRING(0 0,1 1,2 0),(2 0,3 0))",
    "CURVEPOLYGON(CIRCULARSTRING(0 0,4 0,4 4,0 4,0 0))",
    "MULTICURVE((0 0,5 5),CIRCULARSTRING(4 0,4 4,8 4))",
    "MULTISURFACE(CURVEPOLYGON(CIRCULARSTRING(0 0,4 0,4 4,0 4,0 0)),((10 10,11 11,12 10,10 10)))",
    "TRIANGLE((0 0,0 9,9 0,0 0))",
    "TIN Z(((0 0 0,0 0 1,0 1 0,0 0 0)),((0 0 0,0 1 0,1 1 0,0 0 0)))",
    "POLYHEDRALSURFACE Z(((0 0 0,0 0 1,0 1 1,0 1 0,0 0 0)),((0 0 0,0 1 0,1 1 0,1 0 0,0 0 0)))",
];

const GEOGRAPHIES: &[&str] = &[
    "POINT(13.4 52.5)",
    "POINT Z (13.4 52.5 100)",
    "POINT M (13.4 52.5 100)",
    "POINT EMPTY",
    "SRID=4326;MULTIPOINT(1 2, 3 4)",
    "SRID=4258;LINESTRING(0 0, 1 1, 179.9 -89.9)",
    "POLYGON((0 0,1 0,1 1,0 0))",
    "GEOMETRYCOLLECTION(POINT(1 2),LINESTRING(0 0,1 1))",
    "GEOMETRYCOLLECTION EMPTY",
];

fn coordinates(random: &mut Random, dimensions: u64) -> String {
    let numbers: Vec<String> = (0..dimensions)
        .map(|_| random.float8().replace("NaN", "1").replace("inf", "1"))
        .collect();
    numbers.join(" ")
}

/// A point or a line in two to four dimensions, perhaps with an SRID.
fn geometry(random: &mut Random) -> String {
    let (flag, dimensions) = [("", 2), (" Z", 3), (" M", 3), (" ZM", 4)][random.below(4) as usize];
    let srid = ["", "SRID=4326;", "SRID=2056;"][random.below(3) as usize];
    if random.below(2) == 0 {
        return format!("{srid}POINT{flag} ({})", coordinates(random, dimensions));
    }
    let count = 2 + random.below(5);
    let points: Vec<String> = (0..count).map(|_| coordinates(random, dimensions)).collect();
    format!("{srid}LINESTRING{flag} ({})", points.join(", "))
}

fn place(random: &mut Random) -> String {
    let (longitude, latitude) = (random.below(360_000), random.below(180_000));
    format!(
        "POINT({} {})",
        longitude as f64 / 1000.0 - 180.0,
        latitude as f64 / 1000.0 - 90.0
    )
}

/// What is stored as EWKB, and lists of it. PostGIS parts the elements of an array by `:`.
pub fn listed() -> Vec<Column> {
    let columns = vec![
        column("geometry", GEOMETRIES, geometry),
        edges(
            "geometry(Point,4326)",
            &["SRID=4326;POINT(13.4 52.5)", "SRID=4326;POINT EMPTY"],
        ),
        edges("geometry(PointZ)", &["POINT Z (1 2 3)"]),
        edges("geometry(LineStringM,3857)", &["SRID=3857;LINESTRING M (0 0 1, 1 1 2)"]),
        edges(
            "geometry(GeometryZM)",
            &["POINT ZM (1 2 3 4)", "GEOMETRYCOLLECTION ZM (POINT ZM (1 2 3 4))"],
        ),
        column("geography", GEOGRAPHIES, place),
        edges("geography(PointZ,4326)", &["POINT Z (13.4 52.5 100)"]),
        column("geometry[]", &["{}", "{NULL}", "{POINT(1 2):NULL:POINT EMPTY}"], |r| {
            r.array(1, ":", geometry)
        }),
        column("geometry(Point,4326)[]", &["{SRID=4326;POINT(1 2)}"], |r| {
            r.array(1, ":", |r| format!("SRID=4326;{}", place(r)))
        }),
        column("geography[]", &["{}", "{POINT(1 2):NULL}"], |r| r.array(1, ":", place)),
    ];
    columns.into_iter().map(|column| column.of("postgis")).collect()
}

/// Arrays of any shape, for `arrays: text`.
pub fn as_text() -> Vec<Column> {
    let columns = vec![
        column(
            "geometry[]",
            &[
                "{}",
                "{{POINT(1 2):NULL}:{POINT(3 4):POINT EMPTY}}",
                "[0:0]={POINT(1 2)}",
            ],
            |r| r.array(2, ":", geometry),
        ),
        column("geography[]", &["{{POINT(1 2)}}"], |r| r.array(2, ":", place)),
    ];
    columns.into_iter().map(|column| column.of("postgis")).collect()
}
