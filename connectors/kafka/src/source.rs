//! The source itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use millstream_core::{Error, ErrorKind, Finding, Result, Severity, Source, SourceContext, SourceEvent, TableSchema};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, denied_topic};
use crate::codes;
use crate::config::{Decode, Json, KafkaConfig};
use crate::gathered::Item;
use crate::layout::Layout;
use crate::offsets::Watermarks;
use crate::reader::{Reader, Round};
use crate::sample::infer_columns;

/// Reads topics of a Kafka cluster.
///
/// Each topic is a table; [`Layout`]'s columns are those of the messages, then their metadata.
/// A partition is called `source/topic/number`, and its position is the offset of the last
/// message that was read, padded to 20 digits. No offsets are committed to Kafka: the target
/// holds them. Only committed transactions are read.
///
/// [`Layout`]: crate::layout
pub struct KafkaSource {
    pipeline: String,
    name: String,
    config: KafkaConfig,
    /// Found by the first call of [`tables`](Source::tables), and read by: columns that are
    /// inferred must not change between planning and reading.
    layouts: Option<Vec<Layout>>,
}

/// A thread that does not notice a cancellation is left to end by itself after this time.
const STOP: Duration = Duration::from_secs(3);

impl KafkaSource {
    /// A source called `name` in `pipeline`. Does not connect.
    ///
    /// # Errors
    /// `Config` for what can be seen to be wrong without connecting.
    pub fn new(pipeline: &str, name: &str, config: KafkaConfig) -> Result<Self> {
        config.validate().map_err(|error| error.with("source", name))?;
        Ok(Self {
            pipeline: pipeline.to_owned(),
            name: name.to_owned(),
            config,
            layouts: None,
        })
    }

    /// Never joined, so it matters only for the brokers' logs and for group ACLs.
    fn group(&self) -> String {
        format!("millstream-{}-{}", self.pipeline, self.name)
    }

    async fn layouts(&mut self) -> Result<Vec<Layout>> {
        if let Some(layouts) = &self.layouts {
            return Ok(layouts.clone());
        }
        let (name, config, group) = (self.name.clone(), self.config.clone(), self.group());
        let layouts = on_a_thread("kafka-sample", move |abandoned| {
            find_layouts(&name, &config, &group, abandoned)
        })
        .await??;
        self.layouts = Some(layouts.clone());
        Ok(layouts)
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn preflight(&mut self) -> Result<Vec<Finding>> {
        let (config, group) = (self.config.clone(), self.group());
        let mut findings = on_a_thread("kafka-preflight", move |_| look(&config, &group)).await?;
        let infers = matches!(self.config.decode, Decode::Json(Json { columns: None, .. }));
        if infers && findings.is_empty() {
            match self.layouts().await {
                Ok(layouts) => findings.extend(layouts.iter().filter_map(inferred)),
                Err(error) => findings.push(Finding::from(&error)),
            }
        }
        Ok(findings)
    }

    async fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>> {
        Ok(self.layouts().await?.into_iter().map(|layout| layout.schema).collect())
    }

    /// Only the topics that `context.resume` names are read.
    async fn run(mut self: Box<Self>, context: SourceContext) -> Result<()> {
        let SourceContext {
            resume,
            events,
            durable: _durable,
            cancel,
            copies: _,
            backfills,
        } = context;
        // Who asks is told at once that a topic is not copied again.
        drop(backfills);
        let layouts = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            layouts = self.layouts() => layouts?,
        };
        let layouts: Vec<_> = layouts
            .into_iter()
            .filter(|layout| resume.contains(&layout.schema.id))
            .collect();
        if layouts.is_empty() {
            cancel.cancelled().await;
            return Ok(());
        }
        let (rounds, mut gathered) = mpsc::channel::<Round>(1);
        let group = self.group();
        let (pipeline, source) = (self.pipeline.clone(), self.name.clone());
        let reader = Reader {
            pipeline: self.pipeline,
            source: self.name,
            config: self.config,
            layouts,
            resume,
            rounds,
            cancel: cancel.clone(),
            runtime: Handle::current(),
        };
        let reading = on_a_thread("kafka-reader", move |_| reader.run(&group));
        tokio::pin!(reading);
        let mut ended = None;
        loop {
            let round = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                round = gathered.recv() => round,
                outcome = &mut reading, if ended.is_none() => {
                    // Rounds that were handed over before it ended are still to be sent.
                    ended = Some(outcome?);
                    continue;
                }
            };
            let Some(round) = round else { break };
            let decoded = decode(round, &pipeline, &source);
            let decoded = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                events = decoded => events?,
            };
            for event in decoded {
                tokio::select! {
                    () = cancel.cancelled() => break,
                    sent = events.send(event) => sent?,
                }
            }
        }
        drop(gathered);
        if let Some(outcome) = ended {
            return outcome;
        }
        if !cancel.is_cancelled() {
            return reading.await?;
        }
        match tokio::time::timeout(STOP, reading).await {
            Ok(outcome) => {
                if let Err(error) = outcome.and_then(|read| read) {
                    tracing::debug!(error = error.summary(), "kafka reader failed while stopping");
                }
            }
            Err(_) => tracing::warn!("kafka reader is slow to stop, left behind"),
        }
        Ok(())
    }
}

/// The events of a round, decoded on a pool's thread, and counted.
async fn decode(round: Round, pipeline: &str, source: &str) -> Result<Vec<SourceEvent>> {
    let decoding = spawn_blocking(move || {
        let parts: Result<Vec<_>> = round.into_iter().map(Item::decode).collect();
        Ok(parts?.into_iter().flatten().collect::<Vec<_>>())
    });
    let events = match decoding.await {
        Ok(events) => events?,
        Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
        Err(_) => return Err(Error::new(ErrorKind::Cancelled, "the source is stopping")),
    };
    for event in &events {
        let (name, table, rows) = match event {
            SourceEvent::Changes(batch) => ("millstream_source_rows_total", &batch.schema().id, batch),
            SourceEvent::Rejected { origin, rows } => ("millstream_source_rejected_rows_total", origin, rows),
            _ => continue,
        };
        metrics::counter!(name, "pipeline" => pipeline.to_owned(), "source" => source.to_owned(), "table" => table.within_source())
            .increment(rows.num_rows() as u64);
    }
    Ok(events)
}

/// Runs blocking work on a thread of its own: a pool's threads are not for work that lasts for
/// weeks. The token fires when nobody waits for the outcome any more.
async fn on_a_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(&CancellationToken) -> T + Send + 'static,
) -> Result<T> {
    let abandoned = CancellationToken::new();
    let _guard = abandoned.clone().drop_guard();
    let failed = |what: &'static str| Error::new(ErrorKind::Internal, what).with("thread", name);
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody waits any more where the pipeline was stopped.
            let _ = done.send(work(&abandoned));
        })
        .map_err(|error| failed("cannot start a thread").caused_by(error))?;
    outcome.await.map_err(|_| failed("a thread panicked"))
}

fn find_layouts(source: &str, config: &KafkaConfig, group: &str, abandoned: &CancellationToken) -> Result<Vec<Layout>> {
    let columns_of = |topic: &str| match &config.decode {
        Decode::Bytes => Ok(Vec::new()),
        Decode::Json(Json {
            columns: Some(columns), ..
        }) => Ok(columns.clone()),
        Decode::Json(Json { columns: None, sample }) => infer_columns(config, group, topic, *sample, abandoned),
    };
    let layout_of = |topic: &str| {
        let layout = Layout::new(source, topic, config, columns_of(topic)?);
        match config
            .key
            .iter()
            .find(|key| layout.schema.columns.index_of(key).is_err())
        {
            None => Ok(layout),
            Some(key) => Err(
                Error::new(ErrorKind::Config, "`key` names a column that no sampled message has")
                    .code(codes::NO_SAMPLE)
                    .with("topic", topic)
                    .with("column", key)
                    .hint("declare the columns under `decode: {json: {columns: …}}`"),
            ),
        }
    };
    config.topics.iter().map(|topic| layout_of(topic)).collect()
}

/// Connects and looks at every topic.
fn look(config: &KafkaConfig, group: &str) -> Vec<Finding> {
    let client = match Client::new(config, group) {
        Ok(client) => client,
        Err(error) => return vec![Finding::from(&error)],
    };
    let mut findings = Vec::new();
    for topic in &config.topics {
        let looked = client
            .partitions_of(topic)
            .and_then(|_| client.watermarks(topic, 0))
            .and_then(|marks| may_read(config, group, topic, marks));
        if let Err(error) = looked {
            let connection = matches!(error.error_code(), Some(codes::UNREACHABLE | codes::TLS));
            let subject = if connection {
                config.brokers.to_string()
            } else {
                topic.to_string()
            };
            findings.push(Finding {
                subject,
                ..Finding::from(&error)
            });
            if connection {
                // Every topic would say the same.
                break;
            }
        }
    }
    findings
}

/// How long to wait for the answer to one fetch.
const FETCH: Duration = Duration::from_secs(5);

/// Fetches the last message of a topic, for which another right is needed than for describing it.
fn may_read(config: &KafkaConfig, group: &str, topic: &str, marks: Watermarks) -> Result<()> {
    // A client for each topic, because an error tells no topic.
    let client = Client::that_sees_ends(config, group)?;
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, 0, Offset::Offset((marks.high - 1).max(marks.low)))
        .and_then(|()| client.consumer.assign(&assignment))
        .map_err(|error| {
            Error::new(ErrorKind::Internal, "librdkafka cannot assign a partition")
                .with("topic", topic)
                .with("error", error)
        })?;
    let deadline = Instant::now() + FETCH.min(config.timeout.0);
    while Instant::now() < deadline {
        match client.consumer.poll(Duration::from_millis(50)) {
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                return Err(denied_topic(topic));
            }
            _ => {}
        }
        if let Some(error) = client.refused() {
            return Err(error);
        }
    }
    // No answer is none: the reader will wait longer.
    Ok(())
}

/// What is to be said of a topic whose columns are inferred.
fn inferred(layout: &Layout) -> Option<Finding> {
    let columns = layout.json.as_ref()?;
    let finding = |code, message| Finding::new(Severity::Warning, &layout.topic, message).code(code);
    Some(if columns.is_empty() {
        finding(codes::NO_SAMPLE, "there is no message to infer columns from")
            .hint("every field will be in `_extra` until the next start; declare the columns to have them now")
    } else {
        let columns: Vec<_> = columns
            .iter()
            // JSON's quotes are YAML's.
            .map(|(name, column)| format!("{}: {column}", serde_json::Value::from(name.as_str())))
            .collect();
        finding(
            codes::INFERRED,
            "columns are inferred from the oldest messages, anew at each start, and may differ then",
        )
        .hint(format!(
            "declare them, in a source for this topic alone: decode: {{json: {{columns: {{{}}}}}}}",
            columns.join(", ")
        ))
    })
}
