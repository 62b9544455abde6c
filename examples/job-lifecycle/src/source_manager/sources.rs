//! The sources in PostgreSQL. Every change locks its row, and commits together with its event: events
//! of one source are published in the order of its changes, with times that grow.

use deadpool_postgres::{Pool, Transaction};
use fanfare::bus::DomainEvent;
use fanfare::core::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::publisher::{Publisher, about};
use crate::events::{Members, SourceDeleted, SourceDetails, SourceDisabled, SourceEnabled, Toggle};
use crate::http::Refusal;

/// A source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Names it in its events.
    pub id: Uuid,
    /// What it is.
    #[serde(flatten)]
    pub details: SourceDetails,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

/// A [`Source`] as JSON.
const SOURCE: &str =
    "details || jsonb_build_object('id', id, 'created_at', created_at, 'updated_at', updated_at)";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sources {
    pool: Pool,
    publisher: Publisher,
}

impl Sources {
    /// In this database.
    pub fn new(pool: Pool, publisher: Publisher) -> Self {
        Self { pool, publisher }
    }

    /// The next so many sources after this one, in the order in which they were made.
    pub async fn list(&self, after: Option<Uuid>, limit: i64) -> Result<Vec<Source>, Refusal> {
        let sql = format!("SELECT {SOURCE} FROM sources WHERE id > $1 ORDER BY id LIMIT $2");
        let after = after.unwrap_or(Uuid::nil());
        let rows = self
            .pool
            .get()
            .await?
            .query(&sql, &[&after, &limit])
            .await?;
        rows.iter().map(source).collect()
    }

    /// One of them.
    pub async fn get(&self, id: Uuid) -> Result<Source, Refusal> {
        let sql = format!("SELECT {SOURCE} FROM sources WHERE id = $1");
        let row = self.pool.get().await?.query_opt(&sql, &[&id]).await?;
        source(&row.ok_or(Refusal::NotFound)?)
    }

    /// Makes one.
    pub async fn create(&self, details: SourceDetails) -> Result<Source, Refusal> {
        check(&details)?;
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let sql = format!("INSERT INTO sources (id, details) VALUES ($1, $2) RETURNING {SOURCE}");
        let row = transaction
            .query_one(&sql, &[&Uuid::now_v7(), &Json(&details)])
            .await?;
        let made = source(&row)?;
        self.commit(transaction, &made, &details).await?;
        Ok(made)
    }

    /// Gives these members other values; what is as it should be changes nothing and says nothing.
    pub async fn update(&self, id: Uuid, members: &Members) -> Result<Source, Refusal> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let current = lock(&transaction, id).await?;
        let wanted = current.details.with(members);
        let wanted = wanted.map_err(|error| Refusal::Invalid(error.to_string()))?;
        check(&wanted)?;
        let Some(change) = current.details.change_to(&wanted) else {
            return Ok(current);
        };
        let changed = put(&transaction, id, &wanted).await?;
        self.commit(transaction, &changed, &change).await?;
        Ok(changed)
    }

    /// Enables or disables it.
    pub async fn toggle(&self, id: Uuid, enabled: bool, why: Toggle) -> Result<Source, Refusal> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let mut current = lock(&transaction, id).await?;
        if current.details.enabled == enabled {
            return Ok(current);
        }
        current.details.enabled = enabled;
        let changed = put(&transaction, id, &current.details).await?;
        if enabled {
            let event = SourceEnabled(Some(why));
            self.commit(transaction, &changed, &event).await?;
        } else {
            let event = SourceDisabled(Some(why));
            self.commit(transaction, &changed, &event).await?;
        }
        Ok(changed)
    }

    /// Deletes it.
    pub async fn delete(&self, id: Uuid, reason: String) -> Result<(), Refusal> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let current = lock(&transaction, id).await?;
        // The event is later than all before it, as every change is.
        let last = put(&transaction, id, &current.details).await?;
        transaction
            .execute("DELETE FROM sources WHERE id = $1", &[&id])
            .await?;
        let event = SourceDeleted {
            name: last.details.name.clone(),
            deletion_reason: reason,
        };
        self.commit(transaction, &last, &event).await
    }

    /// Commits the change and its event, or neither.
    async fn commit(
        &self,
        transaction: Transaction<'_>,
        source: &Source,
        event: &impl DomainEvent,
    ) -> Result<(), Refusal> {
        let event = about(source.id, event)?;
        self.publisher
            .publish_in(&transaction, event, source.updated_at)
            .await?;
        transaction.commit().await?;
        self.publisher.committed();
        Ok(())
    }
}

async fn lock(transaction: &Transaction<'_>, id: Uuid) -> Result<Source, Refusal> {
    let sql = format!("SELECT {SOURCE} FROM sources WHERE id = $1 FOR UPDATE");
    let row = transaction.query_opt(&sql, &[&id]).await?;
    source(&row.ok_or(Refusal::NotFound)?)
}

async fn put(
    transaction: &Transaction<'_>,
    id: Uuid,
    details: &SourceDetails,
) -> Result<Source, Refusal> {
    let sql = format!(
        "UPDATE sources SET details = $2, \
         updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond') \
         WHERE id = $1 RETURNING {SOURCE}"
    );
    source(&transaction.query_one(&sql, &[&id, &Json(details)]).await?)
}

fn source(row: &Row) -> Result<Source, Refusal> {
    let Json(source) = row.try_get(0)?;
    Ok(source)
}

fn check(details: &SourceDetails) -> Result<(), Refusal> {
    let wrong = |what: &str| Err(Refusal::Invalid(what.to_owned()));
    if details.name.trim().is_empty() {
        return wrong("name is empty");
    }
    match reqwest::Url::parse(&details.url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(()),
        _ => wrong("url begins with http:// or https://"),
    }
}
