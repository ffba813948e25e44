//! Columns that are inferred, over restarts that see another sample.

use super::*;

const INFERRED: &str = "decode: json";

/// A pipeline that decodes as `decode` says.
fn pipeline(decode: &str) -> String {
    let (before, rest) = PIPELINE.split_once("decode:").unwrap();
    let (_, after) = rest.split_once('\n').unwrap();
    format!("{before}{decode}\n{after}")
}

fn send(clicks: &Clicks, payloads: &[&str]) -> Vec<Delivered> {
    let mut producer = clicks.producer();
    for payload in payloads {
        producer.send(Outgoing::to(clicks.topic, 0).payload(*payload)).unwrap();
    }
    producer.flush().unwrap()
}

#[test]
fn another_sample_adds_columns_and_never_changes_one() {
    let clicks = Clicks::new("inferred", 1);
    let Some(kafka) = clicks.broker.real("a sample that changes between two starts") else {
        return;
    };
    clicks.project.write("clicks.yaml", &pipeline(INFERRED));
    let first = send(
        &clicks,
        &[r#"{"id":1,"amount":10,"note":null}"#, r#"{"id":2,"amount":11}"#],
    );
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &first);
    daemon.drain();

    // A field that was null throughout, and has a type by now, is a new column.
    let second = send(&clicks, &[r#"{"id":3,"amount":12,"note":"n"}"#]);
    kafka.delete_records(clicks.topic, 0, 2).unwrap();
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &second);
    daemon.drain();

    // A field of another type halts, rather than be written as something else.
    let third = send(&clicks, &[r#"{"id":4,"amount":10.5}"#]);
    kafka.delete_records(clicks.topic, 0, 3).unwrap();
    let mut daemon = clicks.daemon();
    let error = daemon.wait_halted().last_error.unwrap();
    assert_eq!(error.kind, "schema_change", "{error:?}");
    drop(daemon);

    // Columns that are declared do not depend on a sample.
    let declared = pipeline("decode: {json: {columns: {id: int64, amount: int64, note: utf8}}}");
    clicks.project.write("clicks.yaml", &declared);
    let mut daemon = clicks.daemon();
    clicks.wait_caught_up(&mut daemon, &third);
    daemon.drain();
    let lake = clicks.project.path().join("lake");
    let rows: Vec<_> = Table::read(&lake, clicks.topic)
        .changes()
        .into_iter()
        .map(|row| {
            let cell = |name: &str| row.cells.get(name).cloned().unwrap_or_default();
            [cell("id"), cell("amount"), cell("note"), cell("_extra")]
        })
        .collect();
    assert_eq!(
        rows,
        [
            ["1", "10", "", r#"{"note":null}"#],
            ["2", "11", "", ""],
            ["3", "12", "n", ""]
        ]
    );
    let rejected = Table::read_quarantine(&lake, clicks.topic).changes();
    assert_eq!(rejected.len(), 1);
    assert_eq!(
        rejected[0].cells["raw"],
        hex::encode(third[0].message.payload.as_ref().unwrap())
    );
}
