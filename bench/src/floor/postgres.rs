//! Raw PostgreSQL with the log and the identities of the postgres backend: one statement inserts any
//! number of events from arrays, duplicates left out; one cursor reads them.

use std::future::poll_fn;
use std::sync::Arc;

use fanfare::core::event::Event;
use fanfare::core::event_type::EventType;
use fanfare::core::id::EventId;
use fanfare::core::record;
use fanfare_conformance::broker::{Broker, Durability, postgres};
use tokio::sync::Notify;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};
use uuid::Uuid;

use crate::Outcome;
use crate::trial::{Publish, Raw, Read};

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

/// Tells who listens, in the commit of each event.
const TELL: &str = "RETURNING pg_notify('raw', '')";

/// How it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    /// Events of one read, after which the cursor is committed.
    pub(crate) most: i64,
    /// Reads when a publisher tells, in the commit of each event, that there is something.
    pub(crate) told: bool,
}

impl Raw for Cursor {
    type Publisher = Publisher;
    type Reader = Reader;

    async fn server(self) -> Outcome<Broker> {
        Ok(Broker::start(postgres(), Durability::Always).await?)
    }

    /// Makes the tables.
    async fn publisher(self, url: &str) -> Outcome<Publisher> {
        let client = connect(url).await?;
        client.batch_execute(TABLES).await?;
        let tell = if self.told { TELL } else { "" };
        let insert = client.prepare(&format!("{INSERT}{tell}")).await?;
        Ok(Publisher {
            client: Arc::new(client),
            insert,
        })
    }

    async fn reader(self, url: &str) -> Outcome<Reader> {
        let client = connect(url).await?;
        let select =
            "SELECT pos, id, attrs, data FROM raw.log WHERE pos > $1 ORDER BY pos LIMIT $2";
        let select = client.prepare(select).await?;
        let commit = "UPDATE raw.cursor SET pos = $1 WHERE name = 'bench'";
        let commit = client.prepare(commit).await?;
        let told = if self.told {
            Some(listen(url).await?)
        } else {
            None
        };
        Ok(Reader {
            client,
            select,
            commit,
            event_type: EventType::parse("orders.order.placed")?,
            position: 0,
            most: self.most,
            told,
        })
    }
}

/// One connection, which pipelines what several callers send, and commits each statement.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: Arc<Client>,
    insert: Statement,
}

impl Publish for Publisher {
    async fn publish(self, events: Vec<Event>) -> Outcome<()> {
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
    most: i64,
    told: Option<(Client, Arc<Notify>)>,
}

impl Read for Reader {
    /// Commits the cursor as well.
    async fn step(&mut self, handle: impl Fn(&Event) + Send + Sync) -> Outcome<usize> {
        if let Some((_listening, told)) = &self.told {
            told.notified().await;
        }
        let rows = self
            .client
            .query(&self.select, &[&self.position, &self.most])
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

    async fn finish(self) -> Outcome<()> {
        Ok(())
    }
}

/// Is notified whenever a publisher says that it committed.
async fn listen(url: &str) -> Outcome<(Client, Arc<Notify>)> {
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
