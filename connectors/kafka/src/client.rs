//! The connection to the brokers: librdkafka's configuration, what it reports, and requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{ClientConfig, Statistics};

use crate::codes;
use crate::config::{KafkaConfig, Tls};
use crate::offsets::Watermarks;

/// How often librdkafka reports on its brokers and partitions.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// A connected consumer. All requests block: call them from a thread of their own.
pub struct Client {
    /// The consumer; partitions are assigned by hand.
    pub consumer: BaseConsumer<Reports>,
    brokers: String,
    timeout: Duration,
}

/// What librdkafka reports through its callbacks, which run while the consumer is polled.
#[derive(Default)]
pub struct Reports {
    state: Mutex<Reported>,
}

#[derive(Default)]
struct Reported {
    /// The first refusal since the last [`Client::refused`].
    refusal: Option<(RDKafkaErrorCode, String)>,
    /// The last thing that went wrong on any connection.
    last: Option<String>,
    /// Whether a broker was ever connected: a TLS handshake that fails later than that is one
    /// that a restarting broker broke off.
    connected: bool,
    /// Since when no broker is connected.
    down_since: Option<Instant>,
    /// The last report on partitions.
    partitions: Option<Vec<PartitionReport>>,
}

/// What librdkafka knows of a partition that is being read.
#[derive(Debug, Clone)]
pub struct PartitionReport {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset after the last message that a reader may see; negative if unknown.
    pub end: i64,
    /// The offset that librdkafka will ask for next; negative if unknown.
    pub next: i64,
}

impl Reports {
    fn state(&self) -> MutexGuard<'_, Reported> {
        // The state is valid at every step, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error means that the broker refused us, rather than that it is away.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::ClusterAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::SSL
    )
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(facility, message, "librdkafka reports an error");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "librdkafka warns"),
            _ => tracing::debug!(facility, message, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        tracing::debug!(?code, reason, "kafka connection error");
        let mut state = self.state();
        state.last = Some(reason.to_owned());
        let broken_off = code == Some(RDKafkaErrorCode::SSL) && state.connected;
        if let Some(code) = code.filter(|code| is_refusal(*code) && !broken_off) {
            state.refusal.get_or_insert_with(|| (code, reason.to_owned()));
        }
    }

    fn stats(&self, statistics: Statistics) {
        let mut state = self.state();
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            (state.down_since, state.connected) = (None, true);
        } else {
            state.down_since.get_or_insert_with(Instant::now);
        }
        let partitions = statistics.topics.into_iter().flat_map(|(topic, report)| {
            let topic: Arc<str> = topic.into();
            // Partition -1 stands for messages without a partition yet.
            report
                .partitions
                .into_values()
                .filter(|p| p.partition >= 0 && p.desired)
                .map(move |p| PartitionReport {
                    topic: topic.clone(),
                    partition: p.partition,
                    end: if p.ls_offset >= 0 { p.ls_offset } else { p.hi_offset },
                    next: p.next_offset,
                })
        });
        state.partitions = Some(partitions.collect());
    }
}

impl ConsumerContext for Reports {}

impl Client {
    /// Makes a client; it connects in the background.
    ///
    /// # Errors
    /// `Config` if librdkafka refuses an option.
    pub fn new(config: &KafkaConfig, group: &str) -> Result<Self> {
        Self::from_native(config, &native_config(config, group)?)
    }

    /// As [`new`](Self::new), for a client whose polls also tell when a partition's end is reached.
    pub fn that_sees_ends(config: &KafkaConfig, group: &str) -> Result<Self> {
        Self::from_native(
            config,
            native_config(config, group)?.set("enable.partition.eof", "true"),
        )
    }

    fn from_native(config: &KafkaConfig, native: &ClientConfig) -> Result<Self> {
        let consumer = native.create_with_context(Reports::default()).map_err(refused_option)?;
        Ok(Self {
            consumer,
            brokers: config.brokers.to_string(),
            timeout: config.timeout.0,
        })
    }

    /// The number of partitions of `topic`.
    ///
    /// # Errors
    /// `Config` if it does not exist, `Denied`, `Unavailable`.
    pub fn partitions_of(&self, topic: &str) -> Result<i32> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), self.timeout)
            .map_err(|error| self.explain(&error))?;
        self.consumer.context().state().connected = true;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Err(no_topic(topic));
        };
        match found.error() {
            None if found.partitions().is_empty() => Err(no_topic(topic)),
            None => i32::try_from(found.partitions().len())
                .map_err(|_| Error::new(ErrorKind::Internal, "a topic has too many partitions").with("topic", topic)),
            Some(
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
            ) => Err(no_topic(topic)),
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => Err(denied_topic(topic)),
            Some(other) => Err(
                Error::new(ErrorKind::Unavailable, "the brokers cannot describe a topic")
                    .code(codes::UNREACHABLE)
                    .with("topic", topic)
                    .with("error", RDKafkaErrorCode::from(other)),
            ),
        }
    }

    /// What the broker holds of a partition.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<Watermarks> {
        match self.consumer.fetch_watermarks(topic, partition, self.timeout) {
            Ok((low, high)) => Ok(Watermarks { low, high }),
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                Err(denied_topic(topic))
            }
            Err(error) => Err(self.explain(&error).with("topic", topic).with("partition", partition)),
        }
    }

    /// The refusal that was reported since the last call, if any.
    pub fn refused(&self) -> Option<Error> {
        let (code, reason) = self.consumer.context().state().refusal.take()?;
        Some(self.refusal(code, &reason))
    }

    /// How long no broker was connected; zero if one is.
    pub fn down_for(&self) -> Duration {
        self.consumer
            .context()
            .state()
            .down_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The error of brokers that cannot be reached.
    pub fn unreachable(&self) -> Error {
        let error = Error::new(ErrorKind::Unavailable, "no broker can be reached")
            .code(codes::UNREACHABLE)
            .with("brokers", &self.brokers)
            .hint("check the host names and ports in `brokers`, the firewall, and what the brokers advertise");
        match self.consumer.context().state().last.clone() {
            Some(reason) => error.caused_by(reason),
            None => error,
        }
    }

    /// The last report on partitions, once.
    pub fn take_report(&self) -> Option<Vec<PartitionReport>> {
        self.consumer.context().state().partitions.take()
    }

    /// What a failed request means, in the light of what was reported on the connections.
    fn explain(&self, error: &KafkaError) -> Error {
        if let Some(code) = error.rdkafka_error_code().filter(|code| is_refusal(*code)) {
            return self.refusal(code, &error.to_string());
        }
        // The callbacks that tell why run only while the consumer is polled.
        for _ in 0..5 {
            let _ = self.consumer.poll(Duration::from_millis(20));
        }
        self.refused()
            .unwrap_or_else(|| self.unreachable().with("error", error))
    }

    fn refusal(&self, code: RDKafkaErrorCode, reason: &str) -> Error {
        let error = if code == RDKafkaErrorCode::SSL {
            Error::new(ErrorKind::Denied, "cannot agree on TLS with a broker")
                .code(codes::TLS)
                .hint(
                    "check `security.tls`: the authority in `ca`, the certificate's dates and host name, and the port",
                )
        } else {
            Error::new(ErrorKind::Denied, "a broker refuses access")
                .code(codes::DENIED)
                .hint("check `security.sasl`, and that the user may describe and read the topics")
        };
        error.with("brokers", &self.brokers).caused_by(reason)
    }
}

/// The error of a topic that does not exist.
pub fn no_topic(topic: &str) -> Error {
    Error::new(ErrorKind::Config, "a topic does not exist")
        .code(codes::NO_TOPIC)
        .with("topic", topic)
        .hint("create the topic, or mend its name in `topics`; without the right to describe it a topic looks missing")
}

fn denied_topic(topic: &str) -> Error {
    Error::new(ErrorKind::Denied, "the user may not read a topic")
        .code(codes::DENIED)
        .with("topic", topic)
        .hint("grant the operations DESCRIBE and READ on the topic")
}

/// Never shows the option's value, which may be a secret.
fn refused_option(error: KafkaError) -> Error {
    let refused = Error::new(ErrorKind::Config, "librdkafka refuses the configuration").code(codes::CONFIG);
    match error {
        KafkaError::ClientConfig(_, _, option, _) => refused
            .with("option", option)
            .hint("see librdkafka's CONFIGURATION.md for its name and values"),
        KafkaError::ClientCreation(reason) => refused
            .hint("check `options` and the files in `security.tls`")
            .caused_by(reason),
        _ => refused,
    }
}

fn native_config(config: &KafkaConfig, group: &str) -> Result<ClientConfig> {
    let mut native = ClientConfig::new();
    let kib = (config.buffer.0 / 1024).clamp(1024, 2_097_151);
    native
        .set("bootstrap.servers", &*config.brokers)
        .set("client.id", "millstream")
        // librdkafka wants a group even where partitions are assigned by hand; nothing joins it.
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        .set("check.crcs", "true")
        // Otherwise a delay before the next fetch once the buffer was full.
        .set("fetch.queue.backoff.ms", "50")
        .set("queued.min.messages", "1000000")
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("reconnect.backoff.max.ms", "2000");
    for (name, value) in &config.options {
        native.set(name, value.0.expose());
    }
    native
        .set("queued.max.messages.kbytes", kib.to_string())
        .set("statistics.interval.ms", REPORT_EVERY.as_millis().to_string());
    let security = &config.security;
    let protocol = match (&security.tls, &security.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    native.set("security.protocol", protocol);
    if let Some(tls) = &security.tls {
        set_tls(&mut native, tls)?;
    }
    if let Some(sasl) = &security.sasl {
        native
            .set("sasl.mechanism", sasl.mechanism.name())
            .set("sasl.username", &*sasl.username)
            .set("sasl.password", sasl.password.expose());
    }
    Ok(native)
}

fn set_tls(native: &mut ClientConfig, tls: &Tls) -> Result<()> {
    let files = [
        ("ssl.ca.location", &tls.ca),
        ("ssl.certificate.location", &tls.cert),
        ("ssl.key.location", &tls.key),
    ];
    for (option, path) in files {
        let Some(path) = path else { continue };
        std::fs::metadata(&**path).map_err(|error| {
            Error::new(ErrorKind::Config, "cannot read a file of `security.tls`")
                .code(codes::TLS)
                .with("path", path)
                .caused_by(error)
        })?;
        native.set(option, &**path);
    }
    if !tls.verify {
        native
            .set("enable.ssl.certificate.verification", "false")
            .set("ssl.endpoint.identification.algorithm", "none");
    }
    Ok(())
}
