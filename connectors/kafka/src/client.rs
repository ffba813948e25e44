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

/// librdkafka's least and usual `fetch.max.bytes`.
const LEAST_FETCH: u64 = 1_000_000;
const MOST_FETCH: u64 = 50 << 20;

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
    /// How many came so far.
    reports: u64,
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
    /// Whether it is being fetched, so that the report describes it as it is now.
    pub active: bool,
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

/// Whether a handshake failed because the broker went away in the middle of it.
///
/// librdkafka reports a disconnection during SASL's handshake as a failed authentication, too;
/// its reason is then librdkafka's own (`Local: Broker transport failure`) and not the broker's.
fn is_broken_off(code: RDKafkaErrorCode, reason: &str, connected: bool) -> bool {
    match code {
        RDKafkaErrorCode::SSL => connected,
        RDKafkaErrorCode::Authentication => reason.contains("Local: ") || reason.contains("hung up"),
        _ => false,
    }
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
        let connected = state.connected;
        if let Some(code) = code.filter(|code| is_refusal(*code) && !is_broken_off(*code, reason, connected)) {
            state.refusal.get_or_insert_with(|| (code, reason.to_owned()));
        }
    }

    fn stats(&self, statistics: Statistics) {
        let mut state = self.state();
        state.reports += 1;
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
                    active: p.fetch_state == "active",
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

    /// Whether each partition of `topic`, by its number, has a leader: one without cannot be read now.
    ///
    /// # Errors
    /// `Config` if it does not exist, `Denied`, `Unavailable`.
    pub fn partitions_of(&self, topic: &str) -> Result<Vec<bool>> {
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
            None => {
                let mut leads: Vec<_> = found.partitions().iter().map(|p| (p.id(), p.leader() >= 0)).collect();
                leads.sort_unstable();
                Ok(leads.into_iter().map(|(_, leads)| leads).collect())
            }
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

    /// How many reports came so far.
    pub fn reports(&self) -> u64 {
        self.consumer.context().state().reports
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
        // The callbacks that tell why run only while the consumer is polled. Where it reads
        // already, a poll would take a message: the reading loop meets the refusal itself.
        let reads = self.consumer.assignment().map_or(true, |assigned| assigned.count() > 0);
        let polls = if reads { 0 } else { 5 };
        for _ in 0..polls {
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

/// The error of a topic that the user may not read.
pub fn denied_topic(topic: &str) -> Error {
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
    // librdkafka counts the bytes of values alone. Each message takes some hundred bytes beside
    // these, so that small ones have to be bounded by number.
    let messages = kib.clamp(1_024, 100_000);
    // What is under way from each broker comes on top of the buffer.
    let fetch = (config.buffer.0 / 4).clamp(LEAST_FETCH, MOST_FETCH);
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
        .set("queued.min.messages", messages.to_string())
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("reconnect.backoff.max.ms", "2000");
    // A larger `message.max.bytes` wants a larger fetch, which librdkafka then chooses by itself.
    if !config.options.contains_key("message.max.bytes") {
        native.set("fetch.max.bytes", fetch.to_string());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal_after(code: RDKafkaErrorCode, reason: &str, connected: bool) -> bool {
        let reports = Reports::default();
        reports.state().connected = connected;
        reports.error(KafkaError::Global(code), reason);
        reports.state().refusal.is_some()
    }

    #[test]
    fn a_handshake_that_a_restarting_broker_breaks_off_is_no_refusal() {
        let sasl = RDKafkaErrorCode::Authentication;
        let cut = "sasl_plaintext://b:9092/1: SASL SCRAM-SHA-256 mechanism handshake failed: Local: Broker transport \
                   failure: broker's supported mechanisms: ";
        let answered = "SASL SCRAM-SHA-256 mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's \
                        supported mechanisms: PLAIN";
        for connected in [false, true] {
            assert!(!refusal_after(sasl, cut, connected));
            assert!(refusal_after(sasl, answered, connected));
            assert!(refusal_after(
                sasl,
                "SASL authentication error: Authentication failed during authentication due to invalid credentials",
                connected
            ));
        }
        assert!(refusal_after(RDKafkaErrorCode::SSL, "SSL handshake failed", false));
        assert!(!refusal_after(RDKafkaErrorCode::SSL, "SSL handshake failed", true));
    }

    #[test]
    fn the_buffer_bounds_messages_and_fetches() {
        let bounds = |yaml: &str| {
            let config: KafkaConfig =
                serde_saphyr::from_str(&format!("brokers: b\ntopics: [t]\ndecode: bytes\n{yaml}")).unwrap();
            let native = native_config(&config, "g").unwrap();
            let get = |name| native.get(name).map(str::to_owned);
            (get("queued.min.messages"), get("fetch.max.bytes"))
        };
        let bound = |messages: &str, fetch: &str| (Some(messages.to_owned()), Some(fetch.to_owned()));
        assert_eq!(bounds(""), bound("65536", "16777216"));
        assert_eq!(bounds("buffer: 1MiB"), bound("1024", "1000000"));
        assert_eq!(bounds("buffer: 1GiB"), bound("100000", "52428800"));
        assert_eq!(bounds("options: {message.max.bytes: 80000000}").1, None);
    }
}
