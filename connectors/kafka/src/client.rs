//! Questions to the cluster: its topics, who leads their partitions, and which offsets they hold.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::BrokerId;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_protocol::messages::metadata_response::MetadataResponse;
use kafka_protocol::protocol::Request;
use millstream_core::{Error, ErrorKind, Result};

use crate::codes;
use crate::config::KafkaConfig;
use crate::offsets::Watermarks;
use crate::wire::{Connection, Connector, Cursor, HIGHEST_FETCH, Part, Stop, WireFault, request, take, topic_name};

/// The port where none is given.
const PORT: &str = "9092";
/// What passes by itself, as an election, is looked at again after this time.
const AGAIN: Duration = Duration::from_millis(200);
/// Bytes of a fetch that is not the reading itself.
const SMALL_FETCH: usize = 1 << 20;

/// The version of a fetch that asks for nothing that a later one does not have.
const OLDEST_FETCH: i16 = 4;

/// The oldest offset of a partition, in a request for offsets.
const EARLIEST: i64 = -2;
/// The offset behind the newest.
const LATEST: i64 = -1;

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The broker's number.
    pub broker: i32,
    /// Which leader of the partition it is; -1 before Kafka 2.1, where nobody says.
    pub epoch: i32,
}

struct Topic {
    /// What tells it from others that had its name; zeros before Kafka 2.8, where nobody says.
    id: [u8; 16],
    leaders: Vec<Option<Leader>>,
}

/// Asks the cluster. Holds a connection to each broker that it asked.
pub struct Client {
    connector: Connector,
    /// As configured.
    named: String,
    bootstrap: Vec<String>,
    /// Addresses of the brokers, as the cluster says them.
    brokers: HashMap<i32, String>,
    /// By address.
    connections: HashMap<String, Connection>,
    /// What was said last of each topic.
    topics: HashMap<String, Topic>,
    /// Who is asked first the next time.
    turn: usize,
    timeout: Duration,
    /// For how long a question is put again while nobody answers.
    patience: Duration,
}

impl Client {
    /// A client. Does not connect.
    ///
    /// # Errors
    /// `Config` if a file of `security.tls` is of no use.
    pub fn new(config: &KafkaConfig) -> Result<Self> {
        Ok(Self {
            connector: Connector::new(config)?,
            named: config.brokers.to_string(),
            bootstrap: config.brokers.split(',').map(address).collect(),
            brokers: HashMap::new(),
            connections: HashMap::new(),
            topics: HashMap::new(),
            turn: 0,
            timeout: config.timeout.0,
            patience: config.timeout.0,
        })
    }

    /// From now on a question that nobody answers fails at once.
    pub fn lose_patience(&mut self) {
        self.patience = Duration::ZERO;
    }

    /// How connections are made.
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// How many brokers there are.
    pub fn brokers(&self) -> usize {
        self.brokers.len()
    }

    /// The address of a broker.
    pub fn address(&self, broker: i32) -> Option<&str> {
        self.brokers.get(&broker).map(String::as_str)
    }

    /// Who leads each partition of `topic`, by its number: one without a leader cannot be read now.
    ///
    /// # Errors
    /// `Config` if it does not exist, `Denied`, `Unavailable`.
    pub async fn leaders_of(&mut self, topic: &str) -> Result<Vec<Option<Leader>>> {
        let mut leaders = self.leaders_of_all(&[topic]).await?;
        leaders.pop().unwrap_or_else(|| Err(no_topic(topic)))
    }

    /// As [`leaders_of`](Self::leaders_of), of each of several topics, in their order.
    ///
    /// # Errors
    /// `Unavailable` or `Denied` if no broker answers; what is wrong with a topic stands in its place.
    pub async fn leaders_of_all(&mut self, topics: &[&str]) -> Result<Vec<Result<Vec<Option<Leader>>>>> {
        let asked = |topic: &&str| {
            let mut asked = MetadataRequestTopic::default();
            asked.name = Some(topic_name(topic));
            asked
        };
        let mut question = MetadataRequest::default();
        question.topics = Some(topics.iter().map(asked).collect());
        question.allow_auto_topic_creation = false;
        let answer = self.ask_anyone(&question).await?;
        self.take_brokers(&answer);
        let leaders = topics.iter().map(|topic| self.leaders_in(&answer, topic));
        Ok(leaders.collect())
    }

    fn leaders_in(&mut self, answer: &MetadataResponse, topic: &str) -> Result<Vec<Option<Leader>>> {
        let found = answer.topics.iter().find(|found| {
            let name = found.name.as_ref();
            name.is_some_and(|name| **name == *topic)
        });
        let Some(found) = found else {
            return Err(no_topic(topic));
        };
        match ResponseError::try_from_code(found.error_code) {
            None if found.partitions.is_empty() => Err(no_topic(topic)),
            None => {
                // They are numbered from 0 on, without a gap.
                let mut leaders = vec![None; found.partitions.len()];
                for partition in &found.partitions {
                    let place = usize::try_from(partition.partition_index).ok();
                    if let Some(leader) = place.and_then(|place| leaders.get_mut(place)) {
                        *leader = (partition.leader_id.0 >= 0).then_some(Leader {
                            broker: partition.leader_id.0,
                            epoch: partition.leader_epoch,
                        });
                    }
                }
                let mut id = found.topic_id.into_bytes();
                if let Some(before) = self.topics.get(topic) {
                    if id != before.id && id != [0; 16] && before.id != [0; 16] {
                        return Err(topic_gone(topic, "a topic that was being read was created anew"));
                    }
                    if id == [0; 16] {
                        id = before.id;
                    }
                    // A broker that was cut off from the others, or is late, may say what was so before.
                    for (leader, before) in leaders.iter_mut().zip(&before.leaders) {
                        let epoch = |leader: &Option<Leader>| leader.map_or(-1, |leader| leader.epoch);
                        if leader.is_some() && epoch(leader) < epoch(before) {
                            *leader = *before;
                        }
                    }
                }
                let known = Topic {
                    id,
                    leaders: leaders.clone(),
                };
                self.topics.insert(topic.to_owned(), known);
                Ok(leaders)
            }
            Some(ResponseError::UnknownTopicOrPartition) => Err(no_topic(topic)),
            Some(ResponseError::TopicAuthorizationFailed) => Err(denied_topic(topic)),
            Some(other) => Err(
                Error::new(ErrorKind::Unavailable, "the brokers cannot describe a topic")
                    .code(codes::UNREACHABLE)
                    .with("topic", topic)
                    .with("error", other),
            ),
        }
    }

    /// What the brokers hold of partitions of `topic`, by their number.
    ///
    /// # Errors
    /// `Denied`; `Unavailable`, also where a partition stays without a leader for as long as a request may take.
    pub async fn watermarks(&mut self, topic: &str, numbers: &[i32]) -> Result<BTreeMap<i32, Watermarks>> {
        let low = self.offsets(topic, numbers, EARLIEST).await?;
        let high = self.offsets(topic, numbers, LATEST).await?;
        let both = low.into_iter().filter_map(|(number, low)| {
            let high = *high.get(&number)?;
            Some((number, Watermarks { low, high }))
        });
        Ok(both.collect())
    }

    async fn offsets(&mut self, topic: &str, numbers: &[i32], which: i64) -> Result<BTreeMap<i32, i64>> {
        let deadline = Instant::now() + self.timeout;
        let mut found = BTreeMap::new();
        loop {
            let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
            let mut last = None;
            for number in numbers.iter().filter(|number| !found.contains_key(*number)) {
                match self.leader(topic, *number) {
                    Some(leader) => by_leader.entry(leader.broker).or_default().push(*number),
                    None => last = Some("it has no leader".to_owned()),
                }
            }
            for (leader, numbers) in by_leader {
                match self.offsets_of(leader, topic, &numbers, which).await {
                    Ok(answers) => {
                        for (number, answer) in answers {
                            match answer {
                                Ok(offset) => {
                                    found.insert(number, offset);
                                }
                                Err(ResponseError::TopicAuthorizationFailed) => return Err(denied_topic(topic)),
                                Err(error) => last = Some(error.to_string()),
                            }
                        }
                    }
                    Err(fault) if fault.is_refusal() => return Err(self.explain(&fault)),
                    Err(fault) => last = Some(fault.to_string()),
                }
            }
            let Some(missing) = numbers.iter().find(|number| !found.contains_key(*number)) else {
                return Ok(found);
            };
            if Instant::now() >= deadline {
                return Err(self
                    .unreachable()
                    .with("topic", topic)
                    .with("partition", missing)
                    .caused_by(last.unwrap_or_else(|| "it is not in the answer".to_owned())));
            }
            tokio::time::sleep(AGAIN).await;
            self.leaders_of(topic).await?;
        }
    }

    async fn offsets_of(
        &mut self,
        leader: i32,
        topic: &str,
        numbers: &[i32],
        which: i64,
    ) -> Result<Vec<(i32, std::result::Result<i64, ResponseError>)>, WireFault> {
        let partition = |number: &i32| {
            let mut partition = ListOffsetsPartition::default();
            partition.partition_index = *number;
            partition.current_leader_epoch = -1;
            partition.timestamp = which;
            partition
        };
        let mut asked = ListOffsetsTopic::default();
        asked.name = topic_name(topic);
        asked.partitions = numbers.iter().map(partition).collect();
        let mut question = ListOffsetsRequest::default();
        question.replica_id = BrokerId(-1);
        // The end of what a reader may see.
        question.isolation_level = 1;
        question.topics = vec![asked];
        let answer = self.ask(leader, &question, i16::MAX).await?;
        let partitions = answer.topics.into_iter().flat_map(|topic| topic.partitions);
        let outcome = |code, offset| ResponseError::try_from_code(code).map_or(Ok(offset), Err);
        Ok(partitions
            .map(|found| (found.partition_index, outcome(found.error_code, found.offset)))
            .collect())
    }

    /// Fetches from one partition, whose cursor is moved on. Waits for nothing.
    ///
    /// # Errors
    /// `Denied`, `Corrupt`, `Unavailable`.
    pub async fn fetch(&mut self, cursor: &mut Cursor) -> Result<Part> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let topic = cursor.topic.clone();
            let why = match self.leader(&topic, cursor.number) {
                None => "it has no leader".to_owned(),
                Some(leader) => {
                    // Without epochs, which not every version has: it reads no further than the end that it was told.
                    let mut cursors = vec![Cursor::new(&topic, cursor.number, cursor.next)];
                    let question = request(&cursors, OLDEST_FETCH, SMALL_FETCH, SMALL_FETCH, Duration::ZERO);
                    match self.ask(leader.broker, &question, HIGHEST_FETCH).await {
                        Err(fault) if fault.is_refusal() => return Err(self.explain(&fault)),
                        Err(fault) => fault.to_string(),
                        Ok(answer) => match take(&mut cursors, answer) {
                            (mut parts, _) if !parts.is_empty() => {
                                *cursor = cursors.swap_remove(0);
                                return Ok(parts.swap_remove(0));
                            }
                            (_, mut stopped) => match stopped.pop() {
                                Some((_, Stop::Error(ResponseError::TopicAuthorizationFailed))) => {
                                    return Err(denied_topic(&topic));
                                }
                                Some((_, Stop::Damaged(damaged))) => {
                                    return Err(unreadable(&topic, cursor.number).caused_by(damaged));
                                }
                                Some((_, stop)) => stop.to_string(),
                                None => "it is not in the answer".to_owned(),
                            },
                        },
                    }
                }
            };
            if Instant::now() >= deadline {
                return Err(self
                    .unreachable()
                    .with("topic", &topic)
                    .with("partition", cursor.number)
                    .caused_by(why));
            }
            tokio::time::sleep(AGAIN).await;
            self.leaders_of(&topic).await?;
        }
    }

    fn leader(&self, topic: &str, number: i32) -> Option<Leader> {
        let leaders = &self.topics.get(topic)?.leaders;
        *leaders.get(usize::try_from(number).ok()?)?
    }

    fn take_brokers(&mut self, answer: &MetadataResponse) {
        let brokers = answer.brokers.iter();
        self.brokers = brokers
            .map(|broker| (broker.node_id.0, joined(&broker.host, broker.port)))
            .collect();
    }

    async fn ask<R: Request>(&mut self, broker: i32, question: &R, highest: i16) -> Result<R::Response, WireFault> {
        let Some(address) = self.brokers.get(&broker).cloned() else {
            return Err(WireFault::Malformed(format!("nobody says where broker {broker} is")));
        };
        self.ask_at(&address, question, highest).await
    }

    /// Asks at an address, once more on a new connection if that which was there has ended meanwhile.
    async fn ask_at<R: Request>(
        &mut self,
        address: &str,
        question: &R,
        highest: i16,
    ) -> Result<R::Response, WireFault> {
        if let Some(mut connection) = self.connections.remove(address).filter(Connection::is_usable) {
            match connection.call(question, highest).await {
                Ok(answer) => {
                    self.connections.insert(address.to_owned(), connection);
                    return Ok(answer);
                }
                // Brokers end connections that were idle for some minutes.
                Err(WireFault::Io(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        let mut connection = self.connector.connect(address).await?;
        let answer = connection.call(question, highest).await?;
        self.connections.insert(address.to_owned(), connection);
        Ok(answer)
    }

    async fn ask_anyone<R: Request>(&mut self, question: &R) -> Result<R::Response> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.ask_around(question).await {
                Err(error) if error.kind() == ErrorKind::Unavailable && Instant::now() < deadline => {
                    tokio::time::sleep(AGAIN).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Asks whoever answers first: those that are connected, those that are known, those that are configured.
    async fn ask_around<R: Request>(&mut self, question: &R) -> Result<R::Response> {
        let mut addresses: Vec<String> = self.connections.keys().cloned().collect();
        addresses.sort_unstable();
        for address in self.brokers.values().chain(&self.bootstrap) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        // Another each time: what one of them does not know the next one may.
        let first = self.turn % addresses.len().max(1);
        addresses.rotate_left(first);
        self.turn = self.turn.wrapping_add(1);
        let (mut refused, mut last) = (None, None);
        for address in addresses {
            match self.ask_at(&address, question, i16::MAX).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => {
                    tracing::debug!(address, %fault, "a kafka broker does not answer");
                    let kept = if fault.is_refusal() { &mut refused } else { &mut last };
                    kept.get_or_insert(fault);
                }
            }
        }
        Err(match refused.or(last) {
            Some(fault) => self.explain(&fault),
            None => self.unreachable(),
        })
    }

    /// The error of brokers that cannot be reached.
    pub fn unreachable(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "no broker can be reached")
            .code(codes::UNREACHABLE)
            .with("brokers", &self.named)
            .hint("check the host names and ports in `brokers`, the firewall, and what the brokers advertise")
    }

    /// The error of topics of which no partition can be read for long.
    pub fn unreadable_topics(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "no partition can be read")
            .code(codes::UNREACHABLE)
            .with("brokers", &self.named)
            .hint("see the cause; check the brokers, what they advertise, and whether the partitions have leaders")
    }

    /// What a fault amounts to.
    pub fn explain(&self, fault: &WireFault) -> Error {
        let error = match fault {
            WireFault::Tls(_) => Error::new(ErrorKind::Denied, "cannot agree on TLS with a broker")
                .code(codes::TLS)
                .hint(
                    "check `security.tls`: the authority in `ca`, the certificate's dates and host name, and the port",
                )
                .with("brokers", &self.named),
            WireFault::Refused(_) => Error::new(ErrorKind::Denied, "a broker refuses access")
                .code(codes::DENIED)
                .hint("check `security.sasl`, and that the user may describe and read the topics")
                .with("brokers", &self.named),
            _ => self.unreachable(),
        };
        error.caused_by(fault.to_string())
    }
}

/// `host`, `host:port` or `[address]:port`, with a port.
fn address(named: &str) -> String {
    let named = named.trim();
    let has_port = match named.rsplit_once(':') {
        // An address of IPv6 without brackets has no port.
        Some((host, _)) => !host.contains(':') || host.ends_with(']'),
        None => false,
    };
    match has_port {
        true => named.to_owned(),
        false if named.contains(':') && !named.starts_with('[') => format!("[{named}]:{PORT}"),
        false => format!("{named}:{PORT}"),
    }
}

fn joined(host: &str, port: i32) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The error of a topic that does not exist.
pub fn no_topic(topic: &str) -> Error {
    Error::new(ErrorKind::Config, "a topic does not exist")
        .code(codes::NO_TOPIC)
        .with("topic", topic)
        .hint("create the topic, or mend its name in `topics`; without the right to describe it a topic looks missing")
}

/// The error of a topic that is not what it was while it was read.
pub fn topic_gone(topic: &str, message: &'static str) -> Error {
    Error::new(ErrorKind::PositionLost, message)
        .code(codes::TOPIC_GONE)
        .with("topic", topic)
        .hint(
            "if it was deleted on purpose, take it out of `topics`; to read it as it is now, drop the table's state in the \
             target",
        )
}

/// The error of a topic that the user may not read.
pub fn denied_topic(topic: &str) -> Error {
    Error::new(ErrorKind::Denied, "the user may not read a topic")
        .code(codes::DENIED)
        .with("topic", topic)
        .hint("grant the operations DESCRIBE and READ on the topic")
}

/// The error of a batch that cannot be read.
pub fn unreadable(topic: &str, partition: i32) -> Error {
    Error::new(ErrorKind::Corrupt, "a batch of the log cannot be read")
        .code(codes::UNREADABLE)
        .with("topic", topic)
        .with("partition", partition)
        .hint("the broker's log is damaged, or uses a format that this client does not admit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port() {
        for (named, wanted) in [
            ("a:1", "a:1"),
            (" b ", "b:9092"),
            ("[::1]:2", "[::1]:2"),
            ("[::1]", "[::1]:9092"),
            ("::1", "[::1]:9092"),
        ] {
            assert_eq!(address(named), wanted);
        }
        assert_eq!(joined("::1", 7), "[::1]:7");
        assert_eq!(joined("h", 7), "h:7");
    }
}
