use millstream_core::{Checkpoint, SourceEvent};

use super::*;
use crate::mock::KafkaMock;

fn run_over(kafka: &KafkaMock, topics: &[&str]) -> (Run, mpsc::Receiver<Round>) {
    let yaml = format!(
        "brokers: {}\ntopics: [a, b]\ndecode: bytes\nbatch: {{linger: 20ms}}",
        kafka.brokers()
    );
    let config: KafkaConfig = serde_saphyr::from_str(&yaml).unwrap();
    let layouts: Vec<_> = topics
        .iter()
        .map(|topic| Layout::new("s", topic, &config, Vec::new()))
        .collect();
    let resume = layouts
        .iter()
        .map(|layout| (layout.schema.id.clone(), Checkpoint::default()))
        .collect();
    let (rounds, gathered) = mpsc::channel(64);
    let reader = Reader {
        pipeline: "p".into(),
        source: "s".into(),
        config,
        layouts,
        resume,
        rounds,
        cancel: CancellationToken::new(),
    };
    let client = Client::new(&reader.config).unwrap();
    (Run::new(reader, client), gathered)
}

/// Rows by topic that come within half a minute.
async fn rows_of(run: &mut Run, gathered: &mut mpsc::Receiver<Round>, wanted: usize) -> Vec<(String, i64)> {
    let mut found = Vec::new();
    while found.len() < wanted {
        let round = tokio::select! {
            outcome = run.read() => panic!("the reading ended: {outcome:?}"),
            round = tokio::time::timeout(Duration::from_secs(30), gathered.recv()) => round,
        };
        let round = round.expect("rows come in time").expect("the reader goes on");
        for item in round {
            item.decode(&mut |event| {
                if let SourceEvent::Changes(batch) = event {
                    let positions = batch.positions().iter().flatten();
                    let offsets = positions.map(|text| text.parse::<i64>().unwrap());
                    found.extend(offsets.map(|offset| (batch.schema().id.name.to_string(), offset)));
                }
                true
            })
            .unwrap();
        }
    }
    found
}

// The mock cannot add partitions to a topic, but a topic that is not assigned yet is the same
// to the discovery: all of its partitions are new.
#[tokio::test]
async fn new_partitions_are_read_from_their_beginning_beside_the_others() {
    let kafka = KafkaMock::start(1).unwrap();
    kafka.create_topic("a", 2).unwrap();
    kafka.create_topic("b", 3).unwrap();
    for n in 0..60 {
        let topic = if n % 2 == 0 { "a" } else { "b" };
        kafka
            .send(topic, Some(n % if topic == "a" { 2 } else { 3 }), None, Some(b"x"))
            .unwrap();
    }
    kafka.flush().unwrap();
    let (mut run, mut gathered) = run_over(&kafka, &["a"]);
    run.start().await.unwrap();
    assert_eq!(rows_of(&mut run, &mut gathered, 30).await.len(), 30);
    let both = run_over(&kafka, &["a", "b"]).0.reader;
    (run.reader.layouts, run.reader.resume) = (both.layouts, both.resume);
    run.discover().await.unwrap();
    let found = rows_of(&mut run, &mut gathered, 30).await;
    assert_eq!(found.len(), 30);
    assert!(
        found.iter().all(|(topic, _)| topic == "b"),
        "what was read already came again: {found:?}"
    );
    kafka.send("a", Some(1), None, Some(b"y")).unwrap();
    kafka.flush().unwrap();
    // All messages to `a` went to its partition 0 so far.
    assert_eq!(rows_of(&mut run, &mut gathered, 1).await, [("a".to_owned(), 0)]);
}
