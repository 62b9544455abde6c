//! A service's own PostgreSQL: connections and migrations. What is asked of it stands beside its use.

use deadpool_postgres::{Manager, Pool};
use fanfare::config::Secret;
use tokio_postgres::{Client, NoTls};

use crate::Failure;

/// The most connections of one service, beside those of the outbox.
const CONNECTIONS: usize = 10;
/// Services that start at once migrate one after the other.
const LOCK: &str = "SELECT pg_advisory_xact_lock(8050)";

/// A step of the schema, there and back.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Counts from 1.
    pub version: i32,
    /// Makes it.
    pub up: &'static str,
    /// Takes it back, with what is in it.
    pub down: &'static str,
}

/// A pool that connects when it is asked.
pub fn pool(url: &Secret) -> Result<Pool, Failure> {
    let manager = Manager::new(url.reveal().parse()?, NoTls);
    Ok(Pool::builder(manager).max_size(CONNECTIONS).build()?)
}

/// Brings the schema up to date.
pub async fn migrate_up(client: &mut Client, migrations: &[Migration]) -> Result<(), Failure> {
    for migration in migrations {
        step(client, migration, true).await?;
    }
    Ok(())
}

/// Takes everything back.
pub async fn migrate_down(client: &mut Client, migrations: &[Migration]) -> Result<(), Failure> {
    for migration in migrations.iter().rev() {
        step(client, migration, false).await?;
    }
    Ok(())
}

async fn step(client: &mut Client, migration: &Migration, up: bool) -> Result<(), Failure> {
    let made = "CREATE TABLE IF NOT EXISTS migrations (version integer PRIMARY KEY)";
    let transaction = client.transaction().await?;
    transaction.batch_execute(LOCK).await?;
    transaction.batch_execute(made).await?;
    let (mark, sql) = if up {
        let mark = "INSERT INTO migrations VALUES ($1) ON CONFLICT DO NOTHING";
        (mark, migration.up)
    } else {
        ("DELETE FROM migrations WHERE version = $1", migration.down)
    };
    // Whoever marks it does it.
    if transaction.execute(mark, &[&migration.version]).await? == 1 {
        transaction.batch_execute(sql).await?;
    }
    Ok(transaction.commit().await?)
}
