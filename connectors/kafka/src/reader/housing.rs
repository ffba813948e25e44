//! Who reads which partition: those that nobody reads are given to whoever reads from their leader.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use millstream_core::{ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{LEAST_ANSWER, MOST_ANSWER, MOST_OF_PARTITION, Run, TICK};
use crate::client::Leader;
use crate::codes;
use crate::fetcher::Fetcher;
use crate::partition::Partition;
use crate::wire::Cursor;

/// Somebody who reads from a broker.
pub(super) struct Fetching {
    number: u64,
    address: String,
    cursors: mpsc::UnboundedSender<Cursor>,
    task: AbortHandle,
}

impl Run {
    pub(super) fn broker_of(&self, fetcher: u64) -> Option<i32> {
        let mut fetchers = self.fetchers.iter();
        fetchers.find_map(|(broker, fetching)| (fetching.number == fetcher).then_some(*broker))
    }

    /// Nobody reads from a broker any more. What it sent and was not taken is asked for again.
    pub(super) fn dismiss(&mut self, broker: i32) {
        if let Some(fetching) = self.fetchers.remove(&broker) {
            fetching.task.abort();
        }
        let read_there = |partition: &&mut Partition| {
            let leader = partition.reader.leader();
            leader.is_some_and(|leader| leader.broker == broker)
        };
        let partitions = self.partitions.iter_mut().filter(read_there);
        partitions.for_each(|partition| partition.reader.turn_out());
    }

    /// Partitions that nobody reads are to be looked after, and later each time that is of no use.
    pub(super) fn look_soon(&mut self) {
        self.next_look = self.next_look.min(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(TICK);
    }

    /// Has partitions that nobody reads read by those who lead them.
    pub(super) async fn house(&mut self) -> Result<()> {
        let homeless = |partition: &&Partition| partition.reader.leader().is_none();
        let topics: BTreeSet<String> = self
            .partitions
            .iter()
            .filter(homeless)
            .map(|p| p.topic().to_owned())
            .collect();
        if topics.is_empty() {
            return Ok(());
        }
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let found = match self.client.leaders_of_all(&topics).await {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.fault = Some(error.summary());
                self.look_soon();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut leaders = HashMap::new();
        for (topic, found) in topics.into_iter().zip(found) {
            match found {
                Ok(found) => drop(leaders.insert(topic, found)),
                Err(error) if error.kind() == ErrorKind::Unavailable => self.fault = Some(error.summary()),
                Err(error) if error.error_code() == Some(codes::NO_TOPIC) => self.check_topics = true,
                Err(error) => return Err(error),
            }
        }
        let mut left = false;
        for at in 0..self.partitions.len() {
            let partition = self.partitions.at(at);
            if partition.reader.leader().is_some() {
                continue;
            }
            let leaders = leaders.get(partition.topic());
            let leader = leaders.and_then(|leaders| leaders.get(usize::try_from(partition.number).ok()?).copied()?);
            left |= !leader.is_some_and(|leader| self.assign(at, leader));
        }
        if left {
            self.look_soon();
        }
        Ok(())
    }

    /// Gives a partition to whoever reads from its leader; `false` if nobody can.
    fn assign(&mut self, at: usize, leader: Leader) -> bool {
        let Some(address) = self.client.address(leader.broker).map(str::to_owned) else {
            return false;
        };
        let fetching = self.fetchers.get(&leader.broker);
        if fetching.is_some_and(|fetching| fetching.address != address) {
            self.dismiss(leader.broker);
        }
        if !self.fetchers.contains_key(&leader.broker) {
            self.employ(leader.broker, address);
        }
        let partition = self.partitions.at(at);
        let Some(fetching) = self.fetchers.get(&leader.broker) else {
            return false;
        };
        let assigned = fetching.cursors.send(partition.cursor(leader)).is_ok();
        if assigned {
            partition.reader.assign(leader);
        }
        assigned
    }

    /// Has somebody read from a broker.
    fn employ(&mut self, broker: i32, address: String) {
        let (cursors, assigned) = mpsc::unbounded_channel();
        // Each has two answers in memory, for which there is half of the buffer.
        let of_each = self.reader.config.buffer.0 / (4 * self.client.brokers().max(1) as u64);
        let most = usize::try_from(of_each).map_or(MOST_ANSWER, |most| most.clamp(LEAST_ANSWER, MOST_ANSWER));
        let number = self.next_fetcher;
        self.next_fetcher += 1;
        let fetcher = Fetcher {
            number,
            address: address.clone(),
            connector: self.client.connector(),
            most: (most, most.min(MOST_OF_PARTITION)),
            timeout: self.reader.config.timeout.0,
            assigned,
            came: self.came.0.clone(),
        };
        let task = self.tasks.spawn(fetcher.run());
        let fetching = Fetching {
            number,
            address,
            cursors,
            task,
        };
        self.fetchers.insert(broker, fetching);
    }
}
