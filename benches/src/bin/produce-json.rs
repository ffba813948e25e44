//! Fills a topic with JSON messages of 200 to 240 bytes, and a file with the same lines.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const PATIENCE: Duration = Duration::from_secs(60);
const PLACES: [&str; 8] = [
    "/",
    "/cart",
    "/checkout",
    "/search?q=shoes",
    "/help",
    "/account/orders",
    "/item/4711",
    "/about",
];
const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64)",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2)",
    "Mozilla/5.0 (Windows NT 10.0; Win64)",
    "curl/8.5.0 (x86_64-pc-linux-gnu)",
];

/// Makes the topic and produces into it.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    partitions: i32,
    #[arg(long)]
    messages: u64,
    /// Where the same lines go.
    #[arg(long)]
    lines: Option<std::path::PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &arguments.brokers)
        .set("linger.ms", "50")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "1000000")
        .set("compression.type", "lz4");
    make_topic(&client, &arguments)?;
    let producer: BaseProducer = client.create()?;
    let mut lines = arguments
        .lines
        .as_ref()
        .map(File::create)
        .transpose()?
        .map(BufWriter::new);
    let mut line = Vec::with_capacity(256);
    for number in 0..arguments.messages {
        line.clear();
        write_message(&mut line, number)?;
        if let Some(lines) = &mut lines {
            lines.write_all(&line)?;
            lines.write_all(b"\n")?;
        }
        let partition = i32::try_from(number % u64::try_from(arguments.partitions)?)?;
        let mut record = BaseRecord::<(), _>::to(&arguments.topic)
            .partition(partition)
            .payload(&line);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    producer.poll(Duration::from_millis(10));
                    record = again;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE)?;
    if let Some(lines) = &mut lines {
        lines.flush()?;
    }
    Ok(())
}

fn make_topic(client: &ClientConfig, arguments: &Arguments) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let topic = NewTopic::new(&arguments.topic, arguments.partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let made = runtime.block_on(admin.create_topics([&topic], &options))?;
    for outcome in made {
        outcome.map_err(|(topic, code)| anyhow::anyhow!("cannot make {topic}: {code}"))?;
    }
    Ok(())
}

/// The numbers are scattered, so that no column is easier to encode than those of real events.
fn write_message(line: &mut Vec<u8>, number: u64) -> Result<()> {
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let at = 1_760_000_000_000 + number * 3;
    let place = PLACES
        .get((scattered >> 40) as usize % PLACES.len())
        .context("a place")?;
    let agent = AGENTS
        .get((scattered >> 50) as usize % AGENTS.len())
        .context("an agent")?;
    write!(
        line,
        "{{\"id\":{number},\"user\":{user},\"session\":\"{scattered:016x}\",\"sent_at\":{at},\"url\":\"https://www.shop.example/en/retail/stores{place}\",\
         \"agent\":\"{agent}\",\"amount\":{euros}.{cents:02},\"ok\":{ok},\"took_ms\":{took}}}",
        user = scattered >> 44,
        euros = scattered >> 20 & 0x3ff,
        cents = scattered % 100,
        ok = scattered & 7 != 0,
        took = scattered >> 8 & 0xfff,
    )?;
    Ok(())
}
