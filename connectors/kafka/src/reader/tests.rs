use millstream_core::{Checkpoint, SourceEvent};

use super::*;
use crate::mock::KafkaMock;

fn run_over(kafka: &KafkaMock, topics: &[&str], runtime: &Handle) -> (Run, mpsc::Receiver<Round>) {
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
        runtime: runtime.clone(),
    };
    let client = Client::new(&reader.config, "g").unwrap();
    let run = Run {
        reader,
        client,
        partitions: Partitions::default(),
        rows: 0,
        bytes: 0,
        since: None,
        trust_reports_from: Instant::now(),
        check_topics: false,
    };
    (run, gathered)
}

/// Rows by topic that come within a few rounds.
fn rows_of(run: &mut Run, gathered: &mut mpsc::Receiver<Round>, wanted: usize) -> Vec<(String, i64)> {
    let mut found = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while found.len() < wanted && Instant::now() < deadline {
        assert!(run.gather().unwrap() && run.flush().unwrap());
        while let Ok(round) = gathered.try_recv() {
            let events = round.into_iter().flat_map(|item| item.decode().unwrap());
            for event in events {
                let SourceEvent::Changes(batch) = event else { continue };
                let positions = batch
                    .positions()
                    .iter()
                    .flatten()
                    .map(|text| text.parse::<i64>().unwrap());
                found.extend(positions.map(|offset| (batch.schema().id.name.to_string(), offset)));
            }
        }
    }
    found
}

// The mock cannot add partitions to a topic, but a topic that is not assigned yet is the same
// to the discovery: all of its partitions are new.
#[test]
fn new_partitions_are_read_from_their_beginning_beside_the_others() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
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
    let (mut run, mut gathered) = run_over(&kafka, &["a"], runtime.handle());
    assert!(run.start().unwrap());
    assert_eq!(rows_of(&mut run, &mut gathered, 30).len(), 30);
    let both = run_over(&kafka, &["a", "b"], runtime.handle()).0.reader;
    (run.reader.layouts, run.reader.resume) = (both.layouts, both.resume);
    run.discover().unwrap();
    let found = rows_of(&mut run, &mut gathered, 30);
    assert_eq!(found.len(), 30);
    assert!(
        found.iter().all(|(topic, _)| topic == "b"),
        "what was read already came again: {found:?}"
    );
    kafka.send("a", Some(1), None, Some(b"y")).unwrap();
    kafka.flush().unwrap();
    // All messages to `a` went to its partition 0 so far.
    assert_eq!(rows_of(&mut run, &mut gathered, 1), [("a".to_owned(), 0)]);
}
