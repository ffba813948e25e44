//! Where reading starts, and that the target is told of it.

use millstream_core::Boundary;

use super::*;

const TABLE: &str = "clicks";

/// What each of several target tables of one topic holds.
fn resume_of_tables(tables: &[&[(i32, i64)]]) -> ResumePoints {
    let held = |positions: &&[(i32, i64)]| {
        positions
            .iter()
            .map(|&(p, o)| (partition(TABLE, p), offsets::position(o)))
            .collect::<Checkpoint>()
    };
    let id = TableId::new("clicks", None, TABLE);
    tables.iter().map(|positions| (id.clone(), held(positions))).collect()
}

fn topic_of(partitions: i32, messages_in_each: usize) -> KafkaMock {
    let kafka = KafkaMock::start(1).unwrap();
    kafka.create_topic(TABLE, partitions).unwrap();
    for number in 0..partitions {
        for _ in 0..messages_in_each {
            kafka.send(TABLE, Some(number), None, Some(b"old")).unwrap();
        }
    }
    kafka.flush().unwrap();
    kafka
}

/// The boundaries that come before the first rows.
async fn announced(run: &mut Run, wanted: usize) -> Vec<Boundary> {
    let mut boundaries = Vec::new();
    while boundaries.len() < wanted {
        match timeout(PATIENCE, run.events.recv()).await.unwrap().unwrap() {
            SourceEvent::Boundary(boundary) => boundaries.push(boundary),
            other => panic!("rows before their partition's place is told: {other:?}"),
        }
    }
    boundaries
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_commit_knows_the_place_of_every_partition() {
    let kafka = topic_of(3, 4);
    for (start, place) in [("latest", 3), ("earliest", -1)] {
        let config = format!("topics: [clicks]\ndecode: bytes\nstart: {start}");
        let mut run = Run::start(
            source(&kafka.brokers(), &config),
            resume_from("clicks", &[]),
            1 << 20,
            16,
        );
        let boundaries = announced(&mut run, 3).await;
        run.stop().await;
        for (number, boundary) in (0..).zip(&boundaries) {
            assert_eq!(boundary.partition, partition(TABLE, number));
            assert_eq!(
                (&boundary.from, &boundary.position),
                (&Position::Beginning, &offsets::position(place))
            );
            assert!(boundary.urgent, "{start}");
        }
        let others = [1, 2].map(|number| (partition(TABLE, number), offsets::position(place)));
        assert_eq!(boundaries[0].raises, others);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_table_on_a_topic_loses_the_first_one_nothing() {
    let kafka = topic_of(2, 10);
    let config = "topics: [clicks]\ndecode: bytes\nstart: latest";
    let resume = resume_of_tables(&[&[], &[(0, 3), (1, 5)]]);
    let mut run = Run::start(source(&kafka.brokers(), config), resume, 1 << 20, 16);
    let boundaries = announced(&mut run, 2).await;
    let told: Vec<_> = boundaries.iter().map(|b| (&b.from, &b.position, b.urgent)).collect();
    assert_eq!(
        told,
        [
            (&Position::Beginning, &offsets::position(3), true),
            (&Position::Beginning, &offsets::position(5), true)
        ]
    );
    let reading = run.read(10).await;
    run.stop().await;
    let read: Vec<_> = reading
        .positions
        .into_values()
        .map(|at| (at[0].parse::<i64>().unwrap(), at.len()))
        .collect();
    assert_eq!(read, [(4, 6), (6, 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_table_does_not_hide_what_the_first_one_lost() {
    let kafka = topic_of(1, 10);
    for start in ["earliest", "latest"] {
        let config = format!("topics: [clicks]\ndecode: bytes\nstart: {start}");
        let resume = resume_of_tables(&[&[], &[(0, 40)], &[(0, 2)]]);
        let error = Run::start(source(&kafka.brokers(), &config), resume, 1 << 20, 16)
            .error()
            .await;
        assert_eq!(error.error_code(), Some(codes::POSITION_LOST));
        assert!(error.summary().contains("committed_offset=40"), "{}", error.summary());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_new_partition_that_expired_unread_halt() {
    let kafka = topic_of(2, 1);
    // The mock keeps 5 MiB of a partition.
    for _ in 0..200 {
        kafka.send(TABLE, Some(1), None, Some(&[b'x'; 50_000])).unwrap();
        kafka.flush().unwrap();
    }
    for start in ["earliest", "latest"] {
        let config = format!("topics: [clicks]\ndecode: bytes\nstart: {start}");
        let error = Run::start(
            source(&kafka.brokers(), &config),
            resume_from("clicks", &[(0, 0)]),
            1 << 20,
            16,
        )
        .error()
        .await;
        assert_eq!(
            (error.kind(), error.error_code()),
            (ErrorKind::PositionLost, Some(codes::POSITION_LOST))
        );
        assert!(
            error.summary().contains("partition=1, committed_offset=-1"),
            "{}",
            error.summary()
        );
    }
}
