//! The shop's database, and what happens in it.

use anyhow::{Context, Result};
use tokio_postgres::{Client, NoTls};

use super::cluster::{Cluster, DATABASE, SUPERUSER};
use super::folder::SCHEMA;

/// The role that the daemon logs in as; it may read and replicate, and nothing else.
const READER: &str = "millstream";

/// What is there before the daemon starts, in words.
pub const INITIAL_ROWS: &str = "2,000 customers, 5,000 orders and 15,000 order items";
const CUSTOMERS: i64 = 2_000;
const ORDERS: i64 = 5_000;
/// Orders in the large transaction, with four items each.
const IMPORTED_ORDERS: i64 = 20_000;

/// A tag on orders that break a rule on purpose; the daily business leaves them alone.
const BAD: &str = "bad on purpose";

/// Columns that break one rule each, in the first copy and in the stream.
const BAD_AT_FIRST: &[&str] = &["101, 'a@shop.example', 'unknown', 'EUR', 10, 0"];
const BAD_LATER: &[&str] = &[
    "NULL, 'b@shop.example', 'new', 'EUR', 10, 0",
    "102, 'c@shop.example', 'teleported', 'EUR', 10, 0",
    "103, 'd@shop.example', 'new', 'EUR', -5, 0",
    "104, 'no-at-sign', 'new', 'EUR', 10, 0",
    "105, 'e@shop.example', 'new', 'EURO', 10, 0",
    "106, 'f@shop.example', 'paid', 'EUR', 20, 50",
];
/// Orders that a check drops.
const MONITORING: &[&str] = &["107, 'probe@monitoring.example', 'new', 'EUR', 1, 0"; 2];

/// How many rows of orders must be in quarantine at the end.
pub const BAD_ORDERS: u64 = (BAD_AT_FIRST.len() + BAD_LATER.len()) as u64;

const NEW_CUSTOMERS: &str = "
    INSERT INTO customers (name, country, tier, credit, tags, settings, born, biography)
    SELECT 'Customer ' || n,
           (ARRAY['DE', 'ES', 'FR', 'IT', 'NL', 'PL', 'SE'])[1 + n % 7],
           (ARRAY['basic', 'silver', 'gold']::tier[])[1 + n % 3],
           (n * 37 % 100000) / 100.0,
           (ARRAY['{}', '{news}', '{news,\"special offers\"}', '{vip,NULL}'])[1 + n % 4]::text[],
           CASE WHEN n % 5 > 0 THEN jsonb_build_object('language', 'en', 'number', n) END,
           date '1950-01-01' + (n * 17 % 20000)::integer,
           -- Too long for its page: PostgreSQL stores it apart, and does not send it again
           -- when an update leaves it alone.
           CASE WHEN n % 10 = 0 THEN (SELECT string_agg(md5((n * 1000 + k)::text), '') FROM generate_series(1, 200) k) END
    FROM generate_series($1::bigint, $2::bigint) AS n";

const NEW_ORDERS: &str = "
    WITH placed AS (
        INSERT INTO orders (customer_id, email, status, currency, amount, discount, placed_at)
        SELECT 1 + (n * 7919) % 2000, ' User' || n % 2000 || '@Shop.example',
               (ARRAY['draft', 'new', 'paid', 'new'])[1 + n % 4], (ARRAY['EUR', 'eur', 'PLN', 'SEK'])[1 + n % 4],
               1 + (n * 6151 % 90000) / 100.0, CASE WHEN n % 10 = 0 THEN 0.75 ELSE 0 END, clock_timestamp()
        FROM generate_series($1::bigint, $2::bigint) AS n
        RETURNING order_id)
    INSERT INTO order_items
    SELECT order_id, line, md5(order_id || '-' || line)::uuid, 1 + (order_id + line) % 5,
           0.99 + (order_id * 13 + line * 7) % 5000 / 100.0, order_id % 9 = 0
    FROM placed, generate_series(1, $3::integer) AS line";

/// The oldest (`ASC`) or newest orders of a status.
macro_rules! orders_of {
    ($status:literal, $order:literal, $limit:literal) => {
        concat!(
            "order_id IN (SELECT order_id FROM orders WHERE status = '",
            $status,
            "' AND note IS NULL ORDER BY order_id ",
            $order,
            " LIMIT ",
            $limit,
            ")"
        )
    };
}

const PAY: &str = concat!(
    "UPDATE orders SET status = 'paid' WHERE ",
    orders_of!("new", "ASC", "4")
);
const SEND: &str = concat!(
    "UPDATE orders SET status = 'sent' WHERE ",
    orders_of!("paid", "ASC", "3")
);
const PLACE: &str = concat!(
    "UPDATE orders SET status = 'new' WHERE ",
    orders_of!("draft", "ASC", "1")
);
/// The row leaves the model's filter, and so the target.
const BACK_TO_DRAFT: &str = concat!(
    "UPDATE orders SET status = 'draft' WHERE ",
    orders_of!("new", "DESC", "1")
);
const DELETE: &str = concat!(
    "WITH gone AS (DELETE FROM orders WHERE ",
    orders_of!("sent", "ASC", "1"),
    " RETURNING order_id) ",
    "DELETE FROM order_items USING gone WHERE order_items.order_id = gone.order_id"
);
const CREDIT: &str = "UPDATE customers SET credit = credit + 0.01 WHERE customer_id % 200 = $1::bigint";
/// A change of the primary key is a delete and a create.
const RENUMBER: &str = "UPDATE customers SET customer_id = customer_id + 1000000 WHERE customer_id = $1::bigint";

/// The shop's database, open for writing.
pub struct Shop {
    client: Client,
    /// The number of the last order that was made up; it is not the order's id.
    orders: i64,
    customers: i64,
}

impl Shop {
    /// Creates the database, the role of the daemon, the tables and the first rows.
    ///
    /// # Errors
    /// The server's message.
    pub async fn create(cluster: &Cluster) -> Result<Self> {
        let maintenance = connect(&cluster.url(SUPERUSER, "postgres")).await?;
        let role = format!(
            "CREATE ROLE {READER} LOGIN REPLICATION PASSWORD '{}'",
            cluster.password()
        );
        maintenance
            .batch_execute(&role)
            .await
            .context("cannot create the role")?;
        maintenance
            .batch_execute(&format!("CREATE DATABASE {DATABASE}"))
            .await
            .context("cannot create the database")?;
        let client = connect(&cluster.url(SUPERUSER, DATABASE)).await?;
        client
            .batch_execute(SCHEMA)
            .await
            .context("cannot create the shop's tables")?;
        let mut shop = Self {
            client,
            orders: 0,
            customers: 0,
        };
        shop.register(CUSTOMERS).await?;
        shop.place(ORDERS, 3).await?;
        shop.place_odd(BAD_AT_FIRST).await?;
        Ok(shop)
    }

    /// What the daemon connects with.
    pub fn url(&self, cluster: &Cluster) -> String {
        cluster.url(READER, DATABASE)
    }

    /// The connection, for the proof.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One transaction of daily business: the `number`th.
    pub async fn trade(&mut self, number: i64) -> Result<()> {
        self.client.batch_execute("BEGIN").await?;
        self.place(5, 3).await?;
        for statement in [PAY, SEND, PLACE] {
            self.client.execute(statement, &[]).await?;
        }
        if number % 5 == 0 {
            self.client.execute(BACK_TO_DRAFT, &[]).await?;
        }
        if number % 3 == 0 {
            self.client.execute(DELETE, &[]).await?;
        }
        if number % 2 == 0 {
            self.client.execute(CREDIT, &[&(number % 200)]).await?;
        }
        if number % 10 == 0 {
            self.register(1).await?;
            self.client.execute(RENUMBER, &[&(number + 3)]).await?;
        }
        self.client
            .batch_execute("COMMIT")
            .await
            .context("a transaction of the workload failed")
    }

    /// A transaction that thinks better of it.
    pub async fn roll_back(&mut self) -> Result<()> {
        self.client.batch_execute("BEGIN").await?;
        self.place(1_000, 1).await?;
        self.client
            .batch_execute("ROLLBACK")
            .await
            .context("a transaction of the workload failed")
    }

    /// 100,000 rows in one transaction.
    pub async fn import(&mut self) -> Result<()> {
        self.client.batch_execute("BEGIN").await?;
        self.place(IMPORTED_ORDERS, 4).await?;
        self.client
            .batch_execute("COMMIT")
            .await
            .context("the large transaction failed")
    }

    /// Orders that break a rule each, and orders of our own monitoring.
    pub async fn misbehave(&mut self) -> Result<()> {
        self.place_odd(BAD_LATER).await?;
        self.place_odd(MONITORING).await
    }

    /// Mends one of the bad orders, which then appears in the target.
    pub async fn mend(&mut self) -> Result<()> {
        let mend = format!("UPDATE orders SET amount = 5 WHERE note = '{BAD}' AND amount < 0");
        self.client
            .execute(&mend, &[])
            .await
            .context("an update of the workload failed")
            .map(drop)
    }

    /// A last transaction; returns a place in the WAL that no position reaches before the
    /// transaction is read.
    pub async fn last_word(&mut self) -> Result<u64> {
        let last = self.client.transaction().await?;
        last.execute(CREDIT, &[&1_i64]).await?;
        let place = last
            .query_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint", &[])
            .await?;
        last.commit().await.context("the last transaction failed")?;
        Ok(place.get::<_, i64>(0).unsigned_abs())
    }

    async fn register(&mut self, count: i64) -> Result<()> {
        let (first, last) = (self.customers + 1, self.customers + count);
        self.client
            .execute(NEW_CUSTOMERS, &[&first, &last])
            .await
            .context("cannot insert customers")?;
        self.customers = last;
        Ok(())
    }

    async fn place(&mut self, count: i64, items: i32) -> Result<()> {
        let (first, last) = (self.orders + 1, self.orders + count);
        self.client
            .execute(NEW_ORDERS, &[&first, &last, &items])
            .await
            .context("cannot insert orders")?;
        self.orders = last;
        Ok(())
    }

    async fn place_odd(&self, orders: &[&str]) -> Result<()> {
        let rows: Vec<String> = orders
            .iter()
            .map(|values| format!("({values}, now(), '{BAD}')"))
            .collect();
        let insert =
            "INSERT INTO orders (customer_id, email, status, currency, amount, discount, placed_at, note) VALUES";
        self.client
            .batch_execute(&format!("{insert} {}", rows.join(", ")))
            .await
            .context("cannot insert orders")
    }
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .context("cannot connect to the demo's PostgreSQL")?;
    // It ends with the client, or with the server, which the next statement then reports.
    #[expect(clippy::disallowed_methods, reason = "ends with the client")]
    tokio::spawn(connection);
    Ok(client)
}
