//! What the engine makes of what sources say: positions of all forms, gaps, changing columns.

use fail::FailScenario;
use millstream::engine::Outcome;
use millstream_core::{ErrorKind, PartitionId, Position, Result, Source, SourceEvent};
use millstream_testkit::change_log::{Cells, change_rows};
use millstream_testkit::memory_log::{Change, MemoryLog, MemoryRow};
use millstream_testkit::memory_sink::MemoryStore;
use millstream_testkit::memory_source::{MemorySource, MemorySourceOptions};
use tokio::runtime::Runtime;

use super::scripted::{Scripted, boundary, rows, table, urgent};
use super::{model, patient, run, spec};

const COPY: &str = "SELECT id, v FROM s.t";

/// Publishes the table `t` and, with `sql`, the model `m`.
fn read(store: &MemoryStore, columns: &[&str], sql: Option<&str>, events: Vec<SourceEvent>) -> Result<Outcome> {
    let table = table(columns);
    let fails_at = None;
    read_from(
        store,
        Scripted {
            table,
            events,
            fails_at,
        },
        sql,
    )
}

fn read_from(store: &MemoryStore, source: Scripted, sql: Option<&str>) -> Result<Outcome> {
    let _scenario = FailScenario::setup();
    let source: Box<dyn Source> = Box::new(source);
    let models = sql.map(|sql| model("m", sql, &["id"], ""));
    let tables: &[&str] = if sql.is_some() { &["t", "m"] } else { &["t"] };
    run(
        &Runtime::new().unwrap(),
        spec(vec![source], models, store, tables, patient()),
    )
}

/// The committed rows of a table, without their places.
fn cells(store: &MemoryStore, table: &str) -> Vec<Cells> {
    change_rows(&store.table(table).rows)
        .into_iter()
        .map(|row| row.cells)
        .collect()
}

fn row(cells: &[(&str, i64)]) -> Cells {
    cells
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.to_string()))
        .collect()
}

fn held(store: &MemoryStore, partition: &str) -> Position {
    let stored = store.table("t").checkpoint;
    stored.position(&PartitionId::new("s", partition)).clone()
}

#[test]
fn a_skipped_change_halts_and_nothing_of_the_epoch_is_committed() {
    let store = MemoryStore::default();
    let t = table(&["id", "v"]);
    let first = vec![rows(&t, "log", "1", &[&[1, 1]]), boundary("log", "beginning", "at:1")];
    assert_eq!(read(&store, &["id", "v"], None, first).unwrap(), Outcome::Finished);
    let skipping = vec![rows(&t, "log", "3", &[&[3, 3]]), boundary("log", "at:2", "at:3")];
    let error = read(&store, &["id", "v"], None, skipping).unwrap_err();
    assert_eq!((error.kind(), error.error_code()), (ErrorKind::Corrupt, Some("EN0005")));
    assert_eq!(cells(&store, "t"), [row(&[("id", 1), ("v", 1)])]);
    assert_eq!(held(&store, "log"), Position::at("1"));
}

#[test]
fn an_urgent_position_is_durable_before_anything_else_comes() {
    let store = MemoryStore::default();
    let announced = urgent(boundary("log", "beginning", "at:7"));
    let source = Scripted {
        table: table(&["id", "v"]),
        events: vec![announced],
        fails_at: Some((PartitionId::new("s", "log"), Position::at("7"))),
    };
    // The sink's own interval is an hour.
    assert_eq!(
        read_from(&store, source, None).unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(held(&store, "log"), Position::at("7"));
}

#[test]
fn pages_are_taken_once_however_far_back_a_source_begins() {
    let store = MemoryStore::default();
    let t = table(&["id", "v"]);
    let page = |number: i64| rows(&t, "pages", &format!("{number:020}"), &[&[number, 0]]);
    let upto = |from: &str, to: &str| boundary("pages", from, to);
    let first = vec![
        page(1),
        upto("beginning", "token:1:b"),
        page(2),
        upto("token:1:b", "token:2:c"),
    ];
    read(&store, &["id", "v"], None, first).unwrap();
    let again = vec![
        page(2),
        upto("token:1:b", "token:2:c"),
        page(3),
        upto("token:2:c", "token:3:d"),
    ];
    read(&store, &["id", "v"], None, again).unwrap();
    let expected = [1, 2, 3].map(|id| row(&[("id", id), ("v", 0)]));
    assert_eq!(cells(&store, "t"), expected);
    // The listing was begun anew, and page 3 is another one now: nobody knows what was missed.
    let other = vec![page(4), upto("token:3:x", "token:4:y")];
    assert_eq!(
        read(&store, &["id", "v"], None, other).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn chunks_of_a_copy_may_end_out_of_order() {
    let store = MemoryStore::default();
    let t = table(&["id", "v"]);
    let chunk = |number: i64| rows(&t, &format!("copy/{number}"), "5", &[&[number, 0]]);
    let done = |number: i64| boundary(&format!("copy/{number}"), "beginning", "end");
    read(&store, &["id", "v"], None, vec![chunk(2), done(2), chunk(0), done(0)]).unwrap();
    assert_eq!(
        (held(&store, "copy/0"), held(&store, "copy/1")),
        (Position::End, Position::Beginning)
    );
    // A source that reads all of them again gets in what is missing.
    let again = vec![chunk(0), done(0), chunk(1), done(1), chunk(2), done(2)];
    read(&store, &["id", "v"], None, again).unwrap();
    let expected = [2, 0, 1].map(|id| row(&[("id", id), ("v", 0)]));
    assert_eq!(cells(&store, "t"), expected);
}

#[test]
fn a_column_that_a_model_uses_is_renamed_and_what_came_before_is_committed() {
    let store = MemoryStore::default();
    let (before, after) = (table(&["id", "v"]), table(&["id", "w"]));
    let events = || {
        vec![
            rows(&before, "log", "1", &[&[1, 10]]),
            boundary("log", "beginning", "at:1"),
            rows(&after, "log", "2", &[&[2, 20]]),
            boundary("log", "at:1", "at:2"),
        ]
    };
    let error = read(&store, &["id", "v"], Some(COPY), events()).unwrap_err();
    assert_eq!(
        (error.kind(), error.error_code()),
        (ErrorKind::SchemaChange, Some("EN0002"))
    );
    assert!(
        error.summary().contains("`v`") || error.summary().contains(" v"),
        "{}",
        error.summary()
    );
    assert_eq!(cells(&store, "m"), [row(&[("id", 1), ("v", 10)])]);
    assert_eq!(held(&store, "log"), Position::at("1"));
    // With the SQL adapted it goes on from there.
    let renamed = "SELECT id, w AS v FROM s.t";
    let rest = events().split_off(2);
    read(&store, &["id", "w"], Some(renamed), rest).unwrap();
    assert_eq!(
        cells(&store, "m"),
        [row(&[("id", 1), ("v", 10)]), row(&[("id", 2), ("v", 20)])]
    );
    // The table that passes through keeps both columns.
    assert_eq!(
        cells(&store, "t"),
        [row(&[("id", 1), ("v", 10)]), row(&[("id", 2), ("w", 20)])]
    );
}

#[test]
fn rows_from_before_a_column_was_added_have_it_as_null() {
    let store = MemoryStore::default();
    let (before, after) = (table(&["id", "v"]), table(&["id", "v", "w"]));
    // The model is written for the new column, and the log still holds rows without it.
    let events = vec![
        rows(&before, "log", "1", &[&[1, 10]]),
        boundary("log", "beginning", "at:1"),
        rows(&after, "log", "2", &[&[2, 20, 200]]),
        boundary("log", "at:1", "at:2"),
    ];
    read(&store, &["id", "v", "w"], Some("SELECT id, v, w FROM s.t"), events).unwrap();
    let expected = [row(&[("id", 1), ("v", 10)]), row(&[("id", 2), ("v", 20), ("w", 200)])];
    assert_eq!(cells(&store, "m"), expected);
}

/// A model that was made anew after a rename, beside a table that still reads what came before.
#[test]
fn rows_that_a_model_holds_already_need_not_fit_it() {
    let store = MemoryStore::default();
    let (before, after) = (table(&["id", "v"]), table(&["id", "w"]));
    let read = |tables: &[&str], events: Vec<SourceEvent>| {
        let _scenario = FailScenario::setup();
        let source: Box<dyn Source> = Box::new(Scripted {
            table: after.clone(),
            events,
            fails_at: None,
        });
        let models = [model("m", "SELECT id, w FROM s.t", &["id"], "")];
        let spec = spec(vec![source], models, &store, tables, patient());
        run(&Runtime::new().unwrap(), spec).unwrap();
    };
    let newer = || vec![rows(&after, "log", "5", &[&[5, 50]]), boundary("log", "at:2", "at:5")];
    let mut copied = vec![boundary("log", "beginning", "at:2")];
    copied.extend(newer());
    read(&["m"], copied);
    let mut all = vec![
        rows(&before, "log", "2", &[&[2, 20]]),
        boundary("log", "beginning", "at:2"),
    ];
    all.extend(newer());
    read(&["t", "m"], all);
    assert_eq!(cells(&store, "m"), [row(&[("id", 5), ("w", 50)])]);
    assert_eq!(
        cells(&store, "t"),
        [row(&[("id", 2), ("v", 20)]), row(&[("id", 5), ("w", 50)])]
    );
}

#[test]
fn a_column_that_is_dropped_after_it_was_seen_halts_the_model_that_uses_it() {
    let store = MemoryStore::default();
    let (before, after) = (table(&["id", "v"]), table(&["id"]));
    let events = vec![
        rows(&before, "log", "1", &[&[1, 10]]),
        boundary("log", "beginning", "at:1"),
        rows(&after, "log", "2", &[&[2]]),
        boundary("log", "at:1", "at:2"),
    ];
    let error = read(&store, &["id", "v"], Some(COPY), events).unwrap_err();
    assert_eq!(error.error_code(), Some("EN0002"));
    assert_eq!(cells(&store, "m"), [row(&[("id", 1), ("v", 10)])]);
}

#[test]
fn a_column_that_is_added_while_it_runs_does_not_disturb_a_model() {
    let store = MemoryStore::default();
    let (before, after) = (table(&["id", "v"]), table(&["id", "v", "w"]));
    let events = vec![
        rows(&before, "log", "1", &[&[1, 10]]),
        rows(&after, "log", "2", &[&[2, 20, 200]]),
        boundary("log", "beginning", "at:2"),
    ];
    read(&store, &["id", "v"], Some(COPY), events).unwrap();
    assert_eq!(
        cells(&store, "m"),
        [row(&[("id", 1), ("v", 10)]), row(&[("id", 2), ("v", 20)])]
    );
    let passed = [row(&[("id", 1), ("v", 10)]), row(&[("id", 2), ("v", 20), ("w", 200)])];
    assert_eq!(cells(&store, "t"), passed);
}

/// A union of two tables without a key, of which the second is copied at a later position: its
/// changes in between come with the copy and again in the log.
#[test]
fn a_table_that_joins_a_union_later_repeats_no_row() {
    let _scenario = FailScenario::setup();
    let runtime = Runtime::new().unwrap();
    let log = MemoryLog::new("log", &["a", "b"]);
    let store = MemoryStore::default();
    let create = |table, id| {
        let row = MemoryRow {
            id,
            value: None,
            label: None,
        };
        vec![Change::Create(table, row)]
    };
    let read = |sql: &str| {
        let options = MemorySourceOptions {
            copy_chunk: Some(10),
            ends: true,
            ..MemorySourceOptions::default()
        };
        let source: Box<dyn Source> = Box::new(MemorySource::new(log.clone(), options));
        let models = [model("both", sql, &["origin", "id"], "")];
        run(&runtime, spec(vec![source], models, &store, &["both"], patient())).unwrap();
    };
    log.commit(create(0, 1));
    read("SELECT 'a' AS origin, id FROM log.a");
    for id in 2..5 {
        log.commit(create(0, id));
        log.commit(create(1, id));
    }
    read("SELECT 'a' AS origin, id FROM log.a UNION ALL SELECT 'b', id FROM log.b");
    log.commit(create(1, 9));
    read("SELECT 'a' AS origin, id FROM log.a UNION ALL SELECT 'b', id FROM log.b");
    let mut found = cells(&store, "both");
    found.sort();
    let named = |origin: &str, id: i64| {
        let mut cells = row(&[("id", id)]);
        cells.insert("origin".to_owned(), origin.to_owned());
        cells
    };
    let mut expected: Vec<_> = (1..5).map(|id| named("a", id)).collect();
    expected.extend([2, 3, 4, 9].map(|id| named("b", id)));
    expected.sort();
    assert_eq!(found, expected);
}
