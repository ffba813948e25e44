//! What happens while the daemon runs: the timeline of database and clicks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::time::{MissedTickBehavior, interval};

use super::broker::Broker;
use super::clicks::{BAD, Click};
use super::shop::Shop;

const TICK: Duration = Duration::from_millis(100);
/// Ticks of the whole workload.
const TICKS: i64 = 180;
const CLICKS_PER_TICK: i64 = 40;
/// The gentle workload that goes on with `--keep`.
const GENTLE_TICK: Duration = Duration::from_millis(500);

/// Ticks at which something out of the ordinary happens.
const ROLLBACK: i64 = 30;
const MISBEHAVIOUR: i64 = 55;
const IMPORT: i64 = 80;
const MENDING: i64 = 130;

/// Where the sources ended.
#[derive(Debug)]
pub struct End {
    /// Every PostgreSQL table must hold this place in the WAL.
    pub lsn: u64,
    /// The last offset of each partition of the topic.
    pub offsets: Vec<(usize, i64)>,
}

/// The messages that were sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// Good messages, in order.
    pub clicks: Vec<Click>,
    /// How many messages must end in quarantine.
    pub bad: u64,
}

/// Carries out the timeline.
pub struct Workload {
    broker: Broker,
    sent: Sent,
    tick: i64,
}

impl Workload {
    /// A workload that writes to `broker`.
    pub fn new(broker: Broker) -> Self {
        Self {
            broker,
            sent: Sent::default(),
            tick: 0,
        }
    }

    /// What went to the broker so far.
    pub fn sent(&self) -> &Sent {
        &self.sent
    }

    /// The broker's address.
    pub fn broker(&self) -> String {
        self.broker.address()
    }

    /// The whole timeline, about 20 seconds. Returns where the sources end.
    ///
    /// # Errors
    /// Those of the database and the broker.
    pub async fn run(&mut self, shop: &mut Shop) -> Result<End> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 1..=TICKS {
            ticks.tick().await;
            match tick {
                ROLLBACK => {
                    shop.roll_back().await?;
                    tell("2,000 rows rolled back: none of them may show");
                }
                MISBEHAVIOUR => {
                    shop.misbehave().await?;
                    self.misbehave()?;
                    tell("6 orders and 7 clicks break a rule each: to quarantine; 2 of our monitoring: to be dropped");
                }
                IMPORT => {
                    shop.import().await?;
                    tell("100,000 rows in one transaction: all of them show at once");
                }
                MENDING => {
                    shop.mend().await?;
                    tell("one of the bad orders is mended: it appears");
                }
                _ => {}
            }
            self.step(shop).await?;
        }
        Ok(End {
            lsn: shop.last_word().await?,
            offsets: self.broker.last_offsets().collect(),
        })
    }

    /// Goes on gently, until dropped.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn go_on(&mut self, shop: &mut Shop) -> Result<()> {
        let mut ticks = interval(GENTLE_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.step(shop).await?;
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the clicks of a live shop happen now")]
    async fn step(&mut self, shop: &mut Shop) -> Result<()> {
        self.tick += 1;
        shop.trade(self.tick)
            .await
            .context("the shop cannot write to its PostgreSQL server any more")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_micros()).unwrap_or_default();
        let first = (self.tick - 1) * CLICKS_PER_TICK + 1;
        let clicks: Vec<Click> = (0..CLICKS_PER_TICK)
            .map(|nth| Click::new(first + nth, now + nth))
            .collect();
        let messages: Vec<String> = clicks.iter().map(Click::json).collect();
        self.broker.send(messages.iter().map(String::as_bytes))?;
        self.sent.clicks.extend(clicks);
        Ok(())
    }

    fn misbehave(&mut self) -> Result<()> {
        self.broker.send(BAD.iter().map(|(_, payload)| *payload))?;
        self.sent.bad += BAD.len() as u64;
        Ok(())
    }
}

fn tell(event: &str) {
    println!("       * {event}");
}
