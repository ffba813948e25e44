//! The source itself.

use std::sync::Arc;

use async_trait::async_trait;
use millstream_core::{Error, ErrorKind, Finding, Result, Severity, Source, SourceContext, SourceEvent, TableSchema};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::codes;
use crate::config::{Decode, Json, KafkaConfig};
use crate::decoding::{Decoding, joined};
use crate::layout::Layout;
use crate::reader::{Reader, Round};
use crate::sample::infer_columns;
use crate::wire::Cursor;

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

    async fn layouts(&mut self) -> Result<Vec<Layout>> {
        if let Some(layouts) = &self.layouts {
            return Ok(layouts.clone());
        }
        let layouts = find_layouts(&self.name, &self.config).await?;
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
        let mut findings = look(&self.config).await;
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
        let (pipeline, source) = (self.pipeline.clone(), self.name.clone());
        let reader = Reader {
            pipeline: self.pipeline,
            source: self.name,
            config: self.config,
            layouts,
            resume,
            rounds,
            cancel: cancel.clone(),
        };
        // It takes what comes, and asks for more, while rounds are decoded here.
        let mut reading = JoinSet::new();
        reading.spawn(reader.run());
        let mut decoding = Decoding::default();
        let (mut ended, mut more) = (Ok(()), true);
        // Rounds that were handed over before the reading ended are still to be sent.
        while more || !decoding.is_empty() || !reading.is_empty() {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                round = gathered.recv(), if more && decoding.has_room() => match round {
                    Some(round) => decoding.begin(round),
                    None => more = false,
                },
                event = decoding.next(), if !decoding.is_empty() => {
                    let Some(event) = event.transpose()? else { continue };
                    count(&event, &pipeline, &source);
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => break,
                        sent = events.send(event) => sent?,
                    }
                }
                Some(outcome) = reading.join_next() => ended = joined(outcome)?,
            }
        }
        if cancel.is_cancelled() { Ok(()) } else { ended }
    }
}

fn count(event: &SourceEvent, pipeline: &str, source: &str) {
    let (name, table, rows) = match event {
        SourceEvent::Changes(batch) => ("millstream_source_rows_total", &batch.schema().id, batch),
        SourceEvent::Rejected { origin, rows } => ("millstream_source_rejected_rows_total", origin, rows),
        _ => return,
    };
    metrics::counter!(name, "pipeline" => pipeline.to_owned(), "source" => source.to_owned(), "table" => table.within_source())
        .increment(rows.num_rows() as u64);
}

async fn find_layouts(source: &str, config: &KafkaConfig) -> Result<Vec<Layout>> {
    let mut client = Client::new(config)?;
    let mut layouts = Vec::with_capacity(config.topics.len());
    for topic in &config.topics {
        let columns = match &config.decode {
            Decode::Bytes => Vec::new(),
            Decode::Json(Json {
                columns: Some(columns), ..
            }) => columns.clone(),
            Decode::Json(Json { columns: None, sample }) => {
                infer_columns(&mut client, topic, *sample, config.timeout.0).await?
            }
        };
        let layout = Layout::new(source, topic, config, columns);
        let missing = config
            .key
            .iter()
            .find(|key| layout.schema.columns.index_of(key).is_err());
        if let Some(key) = missing {
            return Err(
                Error::new(ErrorKind::Config, "`key` names a column that no sampled message has")
                    .code(codes::NO_SAMPLE)
                    .with("topic", topic)
                    .with("column", key)
                    .hint("declare the columns under `decode: {json: {columns: …}}`"),
            );
        }
        layouts.push(layout);
    }
    Ok(layouts)
}

/// Connects and looks at every topic.
async fn look(config: &KafkaConfig) -> Vec<Finding> {
    let mut client = match Client::new(config) {
        Ok(client) => client,
        Err(error) => return vec![Finding::from(&error)],
    };
    let mut findings = Vec::new();
    for topic in &config.topics {
        let Err(error) = may_read(&mut client, topic).await else {
            continue;
        };
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
    findings
}

/// Describes a topic, and fetches its last message, for which another right is needed.
async fn may_read(client: &mut Client, topic: &str) -> Result<()> {
    client.leaders_of(topic).await?;
    let marks = client.watermarks(topic, &[0]).await?;
    let Some(marks) = marks.get(&0) else { return Ok(()) };
    let mut last = Cursor::new(topic, 0, (marks.high - 1).max(marks.low));
    client.fetch(&mut last).await.map(drop)
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
