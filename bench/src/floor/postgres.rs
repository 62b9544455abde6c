//! Raw PostgreSQL with the log and the identities of the postgres backend: one statement inserts any
//! number of events from arrays, duplicates left out; one cursor reads them.

use std::future::poll_fn;
use std::sync::Arc;

use fanfare::core::event::Event;
use fanfare::core::event_type::EventType;
use fanfare::core::id::EventId;
use fanfare::core::record;
use tokio::sync::Notify;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};
use uuid::Uuid;

use crate::Outcome;
use crate::load::nanos;
use crate::measure::{Run, Sample, Watch};

const TABLES: &str = "
CREATE SCHEMA raw;
CREATE TABLE raw.log (
    pos bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded timestamptz NOT NULL DEFAULT clock_timestamp(),
    source int NOT NULL,
    type int NOT NULL,
    id bytea NOT NULL,
    key text,
    attrs bytea NOT NULL,
    data bytea NOT NULL
);
CREATE INDEX ON raw.log USING brin (recorded);
CREATE TABLE raw.ids (source int, id bytea, PRIMARY KEY (source, id));
CREATE TABLE raw.cursor (name text PRIMARY KEY, pos bigint NOT NULL);
INSERT INTO raw.cursor VALUES ('bench', 0);
";

const INSERT: &str = "
WITH given AS (
    SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[]) AS given (id, attrs, data)
), fresh AS (
    INSERT INTO raw.ids SELECT 1, id FROM given ON CONFLICT DO NOTHING RETURNING id
)
INSERT INTO raw.log (source, type, id, attrs, data)
SELECT 1, 1, id, attrs, data FROM given JOIN fresh USING (id)
";

/// One connection, which pipelines what several callers send, and commits each statement.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: Arc<Client>,
    insert: Statement,
}

impl Publisher {
    /// Makes the tables.
    pub(crate) async fn open(url: &str) -> Outcome<Self> {
        Self::with(url, INSERT).await
    }

    /// One that tells who listens, in the commit of each event.
    pub(crate) async fn notifying(url: &str) -> Outcome<Self> {
        Self::with(url, &format!("{INSERT} RETURNING pg_notify('raw', '')")).await
    }

    async fn with(url: &str, insert: &str) -> Outcome<Self> {
        let client = connect(url).await?;
        client.batch_execute(TABLES).await?;
        let insert = client.prepare(insert).await?;
        Ok(Self {
            client: Arc::new(client),
            insert,
        })
    }

    /// Comes back when all are committed.
    pub(crate) async fn publish(self, events: Vec<Event>) -> Outcome<()> {
        let ids: Vec<Vec<u8>> = events.iter().map(identity).collect();
        let attributes = events.iter().map(record::encode_attributes);
        let attributes: Vec<Vec<u8>> = attributes.collect();
        let data: Vec<&[u8]> = events.iter().map(Event::bytes).collect();
        let client = &self.client;
        let stored = client
            .execute(&self.insert, &[&ids, &attributes, &data])
            .await?;
        if stored == events.len() as u64 {
            Ok(())
        } else {
            Err("not every event was stored".into())
        }
    }
}

/// Reads the log behind a cursor.
pub(crate) struct Reader {
    client: Client,
    select: Statement,
    commit: Statement,
    event_type: EventType,
    position: i64,
}

impl Reader {
    pub(crate) async fn open(url: &str) -> Outcome<Self> {
        let client = connect(url).await?;
        let select =
            "SELECT pos, id, attrs, data FROM raw.log WHERE pos > $1 ORDER BY pos LIMIT $2";
        let select = client.prepare(select).await?;
        let commit = "UPDATE raw.cursor SET pos = $1 WHERE name = 'bench'";
        let commit = client.prepare(commit).await?;
        Ok(Self {
            client,
            select,
            commit,
            event_type: EventType::parse("orders.order.placed")?,
            position: 0,
        })
    }

    /// Reads once, looks at each event, and commits the cursor; answers how many there were.
    pub(crate) async fn step(&mut self, most: i64, handle: impl Fn(&Event)) -> Outcome<usize> {
        let rows = self
            .client
            .query(&self.select, &[&self.position, &most])
            .await?;
        for row in &rows {
            self.position = row.try_get(0)?;
            let id = EventId::Uuid(Uuid::from_slice(row.try_get(1)?)?);
            let data: &[u8] = row.try_get(3)?;
            let event = record::decode(
                id,
                "/bench".into(),
                self.event_type.clone(),
                row.try_get(2)?,
                data.to_vec(),
            )?;
            handle(&event);
        }
        if !rows.is_empty() {
            self.client.execute(&self.commit, &[&self.position]).await?;
        }
        Ok(rows.len())
    }

    /// Reads all there is, `most` events at a time.
    pub(crate) async fn drain(&mut self, most: i64, handle: impl Fn(&Event)) -> Outcome<Sample> {
        let run = Run::begin();
        let (mut taken, mut count) = (Vec::new(), 0);
        loop {
            let watch = Watch::start();
            let read = self.step(most, &handle).await?;
            if read == 0 {
                return Ok(run.end(count, vec![taken]));
            }
            count += read;
            taken.push(nanos(watch));
        }
    }
}

/// Is notified whenever a publisher says that it committed.
pub(crate) async fn listen(url: &str) -> Outcome<(Client, Arc<Notify>)> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let told = Arc::new(Notify::new());
    let telling = Arc::clone(&told);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(_) = message {
                telling.notify_one();
            }
        }
    });
    client.batch_execute("LISTEN raw").await?;
    Ok((client, told))
}

/// A connection whose other half runs until it is dropped.
async fn connect(url: &str) -> Outcome<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn identity(event: &Event) -> Vec<u8> {
    match event.id() {
        EventId::Uuid(uuid) => uuid.as_bytes().to_vec(),
        EventId::Text(text) => text.as_bytes().to_vec(),
    }
}
