//! Throw-away Apache Kafka: one node in KRaft mode, broker and controller at once, on the
//! machine's Java.

mod log;
mod producer;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tempfile::TempDir;

pub use producer::{Delivered, Outgoing, TestProducer};

use crate::ports::free_port;
use crate::process::{ServerProcess, on_path, tied_command};
use crate::tools;

/// A start takes three seconds on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long an administrative request may take, the waits for a restarting broker included.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// How a user of a secured node may log in.
pub const MECHANISMS: [&str; 3] = ["PLAIN", SCRAM[0], SCRAM[1]];
const SCRAM: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];

/// Any 16 bytes in base64url will do: the cluster is alone in its world.
const CLUSTER_ID: &str = "bWlsbHN0cmVhbS10ZXN0cw";

/// A Kafka node on free loopback ports, with its log in a temporary folder. Dropping it kills
/// the node and removes the folder. All methods block, and must not be called by async code.
pub struct TestKafka {
    server: Mutex<Option<ServerProcess>>,
    jars: PathBuf,
    port: u16,
    controller_port: u16,
    secured: Option<SecuredListener>,
    admin: AdminClient<DefaultClientContext>,
    // Last, so that the server is gone before its files are.
    folder: TempDir,
}

/// A second listener, over TLS with SASL.
struct SecuredListener {
    port: u16,
    /// A file with the node's private key and certificate.
    identity: PathBuf,
    user: String,
    password: String,
}

impl TestKafka {
    /// Whether this machine can run Kafka: the jars were fetched, and there is a Java.
    pub fn is_available() -> bool {
        tools::kafka_jars().is_some() && on_path("java").is_some()
    }

    /// Starts a node and waits until it takes requests.
    ///
    /// # Errors
    /// If the jars or Java are missing, or the node does not come up; with the end of its log.
    pub fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// As [`start`](Self::start), with a second listener ([`secured_brokers`](Self::secured_brokers))
    /// over TLS, by the private key and the certificate in `identity`, both PEM, for a user who
    /// logs in by any of SASL's [`MECHANISMS`].
    ///
    /// # Errors
    /// As `start`.
    pub fn start_secured(identity: PathBuf, user: &str, password: &str) -> Result<Self> {
        Self::start_with(Some(SecuredListener {
            port: free_port(),
            identity,
            user: user.to_owned(),
            password: password.to_owned(),
        }))
    }

    fn start_with(secured: Option<SecuredListener>) -> Result<Self> {
        let jars = tools::kafka_jars().context("no Kafka jars; `scripts/setup.sh test` fetches them")?;
        let folder = tempfile::Builder::new().prefix("millstream-kafka-").tempdir()?;
        let (port, controller_port) = (free_port(), free_port());
        let admin = ClientConfig::new()
            .set("bootstrap.servers", format!("127.0.0.1:{port}"))
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "200")
            // Connections fail while the node starts, which is no news.
            .set("log_level", "0")
            .set("log.connection.close", "false")
            .create()?;
        let node = Self {
            server: Mutex::new(None),
            jars,
            port,
            controller_port,
            secured,
            admin,
            folder,
        };
        node.configure()?;
        node.format()?;
        node.resume()?;
        Ok(node)
    }

    /// The value for `brokers` of a configuration; it stays the same over restarts.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The value for `brokers` of the listener over TLS.
    ///
    /// # Errors
    /// If there is none.
    pub fn secured_brokers(&self) -> Result<String> {
        let listener = self.secured.as_ref().context("a node without a secured listener")?;
        Ok(format!("127.0.0.1:{}", listener.port))
    }

    /// Stops the node in an orderly way, or, if `crash`, by SIGKILL. Its log stays.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn stop(&self, crash: bool) -> Result<()> {
        if let Some(mut process) = self.lock().take() {
            process
                .stop(if crash { "KILL" } else { "TERM" }, STOP_LIMIT)
                .context("cannot stop Kafka")?;
        }
        Ok(())
    }

    /// Starts the node again after [`stop`](Self::stop), on the same ports and data.
    ///
    /// # Errors
    /// If it does not come up; with the end of its log.
    pub fn resume(&self) -> Result<()> {
        let mut server = self.lock();
        if server.as_mut().is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.java("kafka.Kafka")?;
        command.arg(self.folder.path().join("server.properties"));
        command.stdout(log.try_clone()?).stderr(log);
        let process = server.insert(ServerProcess::spawn(command).context("cannot start java")?);
        let deadline = Instant::now() + START_LIMIT;
        while !self.is_ready() {
            if let Some(status) = process.exited() {
                bail!("Kafka ended with {status}:\n{}", self.end_of_log());
            }
            ensure!(
                Instant::now() < deadline,
                "Kafka is not ready after {START_LIMIT:?}:\n{}",
                self.end_of_log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Creates a topic, and waits until the node tells of it.
    ///
    /// # Errors
    /// The broker's refusal, such as a topic that is there already.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.create_topic_with(topic, partitions, &[])
    }

    /// As [`create_topic`](Self::create_topic), with a configuration.
    ///
    /// # Errors
    /// As `create_topic`.
    pub fn create_topic_with(&self, topic: &str, partitions: i32, config: &[(&str, &str)]) -> Result<()> {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let new = config.iter().fold(new, |new, (name, value)| new.set(name, value));
        let outcomes = block_on(self.admin.create_topics([&new], &options()))?;
        outcome(outcomes)?;
        self.wait_for_partitions(topic, usize::try_from(partitions)?)
    }

    /// Raises the number of a topic's partitions to `total`.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn grow_topic(&self, topic: &str, total: usize) -> Result<()> {
        let new = NewPartitions::new(topic, total);
        let outcomes = block_on(self.admin.create_partitions([&new], &options()))?;
        outcome(outcomes)?;
        self.wait_for_partitions(topic, total)
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        outcome(block_on(self.admin.delete_topics(&[topic], &options()))?)
    }

    /// Removes all messages of a partition below `offset`, as retention would.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn delete_records(&self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        let deadline = Instant::now() + REQUEST_LIMIT;
        loop {
            let deleted = block_on(self.admin.delete_records(&list, &options()))?;
            let outcomes: Vec<_> = deleted.elements().iter().map(|element| element.error()).collect();
            match outcomes.into_iter().find_map(Result::err) {
                None => return Ok(()),
                // What a node says that has just come up.
                Some(error)
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NotLeaderForPartition)
                        && Instant::now() < deadline =>
                {
                    thread::sleep(Duration::from_millis(100));
                }
                Some(error) => return Err(error.into()),
            }
        }
    }

    /// The offset after the last record of a partition, transaction markers included.
    ///
    /// # Errors
    /// If the node does not answer.
    pub fn end_of(&self, topic: &str, partition: i32) -> Result<i64> {
        let (_, end) = self.admin.inner().fetch_watermarks(topic, partition, REQUEST_LIMIT)?;
        Ok(end)
    }

    /// All messages of these partitions that a reader may see, up to where they end now.
    ///
    /// # Errors
    /// If the node does not answer in a minute.
    pub fn read_log(&self, topic: &str, partitions: &[i32]) -> Result<Vec<Delivered>> {
        log::read(&self.brokers(), topic, &partitions.iter().copied().collect())
    }

    /// The node's log.
    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn lock(&self) -> MutexGuard<'_, Option<ServerProcess>> {
        // A panic while it was held leaves a process that can still be stopped.
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn configure(&self) -> Result<()> {
        let Self {
            port, controller_port, ..
        } = self;
        let data = self.folder.path().join("data");
        let open = format!("PLAINTEXT://127.0.0.1:{port}");
        let (secured, security) = match &self.secured {
            None => (String::new(), String::new()),
            Some(listener) => (
                format!(",SASL_SSL://127.0.0.1:{}", listener.port),
                format!(
                    "sasl.enabled.mechanisms={}\n\
                     ssl.keystore.type=PEM\n\
                     ssl.keystore.location={}\n\
                     listener.name.sasl_ssl.plain.sasl.jaas.config=\
                     org.apache.kafka.common.security.plain.PlainLoginModule required user_{}=\"{}\";\n{}",
                    MECHANISMS.join(","),
                    listener.identity.display(),
                    listener.user,
                    listener.password,
                    SCRAM.map(scram_module).concat()
                ),
            ),
        };
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller_port}\n\
             controller.listener.names=CONTROLLER\n\
             listeners={open}{secured},CONTROLLER://127.0.0.1:{controller_port}\n\
             advertised.listeners={open}{secured}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL\n\
             {security}\
             log.dirs={}\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             log.cleaner.backoff.ms=200\n\
             log.cleaner.dedupe.buffer.size=4194304\n\
             broker.session.timeout.ms=3000\n\
             broker.heartbeat.interval.ms=300\n\
             num.network.threads=2\n\
             num.io.threads=2\n",
            data.display()
        );
        fs::write(self.folder.path().join("server.properties"), properties)?;
        let logging = "status=error\nappender.out.type=Console\nappender.out.name=OUT\n\
                       appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %m (%c)%n\n\
                       rootLogger.level=WARN\nrootLogger.appenderRef.0.ref=OUT\n";
        Ok(fs::write(self.folder.path().join("log4j2.properties"), logging)?)
    }

    /// Writes the cluster's id into the data folder, without which a node refuses to start.
    fn format(&self) -> Result<()> {
        let mut command = self.java("kafka.tools.StorageTool")?;
        command.args(["format", "-t", CLUSTER_ID, "-c"]);
        command.arg(self.folder.path().join("server.properties"));
        if let Some(SecuredListener { user, password, .. }) = &self.secured {
            for mechanism in SCRAM {
                command.args(["--add-scram", &format!("{mechanism}=[name={user},password={password}]")]);
            }
        }
        let output = command.output().context("cannot start java")?;
        ensure!(
            output.status.success(),
            "Kafka's storage cannot be formatted: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// A small JVM that starts fast: no profiling compiler, no parallel collector.
    fn java(&self, class: &str) -> Result<Command> {
        let java = on_path("java").context("no java on PATH; `scripts/setup.sh test` installs it")?;
        let logging = self.folder.path().join("log4j2.properties");
        let mut command = tied_command(&java, None);
        command.current_dir(self.folder.path());
        command.args(["-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.arg(format!("-Dlog4j2.configurationFile=file:{}", logging.display()));
        command.arg("-cp").arg(self.jars.join("*")).arg(class);
        Ok(command)
    }

    fn is_ready(&self) -> bool {
        let found = self.admin.inner().fetch_metadata(None, Duration::from_millis(500));
        found.is_ok_and(|metadata| !metadata.brokers().is_empty())
    }

    fn wait_for_partitions(&self, topic: &str, wanted: usize) -> Result<()> {
        let deadline = Instant::now() + REQUEST_LIMIT;
        loop {
            let found = self.admin.inner().fetch_metadata(Some(topic), Duration::from_secs(2));
            let led = found.ok().and_then(|metadata| {
                let topic = metadata.topics().iter().find(|found| found.name() == topic)?;
                Some(topic.partitions().iter().filter(|p| p.leader() >= 0).count())
            });
            if led == Some(wanted) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{led:?} of {wanted} partitions of {topic} have a leader"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// The setting by which a listener knows users whose secrets lie in the cluster.
fn scram_module(mechanism: &str) -> String {
    format!(
        "listener.name.sasl_ssl.{}.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n",
        mechanism.to_lowercase()
    )
}

impl Drop for TestKafka {
    fn drop(&mut self) {
        // Nothing of it is wanted any more, so an orderly end would only take time.
        let _ = self.stop(true);
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(REQUEST_LIMIT))
        .operation_timeout(Some(REQUEST_LIMIT))
}

fn outcome(results: Vec<rdkafka::admin::TopicResult>) -> Result<()> {
    for result in results {
        result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
    }
    Ok(())
}

/// librdkafka completes these futures from threads of its own, so any executor will do.
fn block_on<T>(request: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers needs nothing of the system")
        .block_on(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_log_over_a_crash() {
        if !TestKafka::is_available() {
            return crate::loudly("Apache Kafka is not installed: its own test is left out");
        }
        let node = TestKafka::start().unwrap();
        node.create_topic("t", 1).unwrap();
        let mut producer = TestProducer::new(&node.brokers()).unwrap();
        for payload in ["a", "b", "c"] {
            producer.send(Outgoing::to("t", 0).payload(payload)).unwrap();
        }
        let offsets: Vec<_> = producer.flush().unwrap().into_iter().map(|sent| sent.offset).collect();
        assert_eq!(offsets, [0, 1, 2]);
        node.stop(true).unwrap();
        node.resume().unwrap();
        node.grow_topic("t", 2).unwrap();
        node.delete_records("t", 0, 2).unwrap();
        let marks = node.admin.inner().fetch_watermarks("t", 0, REQUEST_LIMIT).unwrap();
        assert_eq!(marks, (2, 3));
        node.delete_topic("t").unwrap();
    }
}
