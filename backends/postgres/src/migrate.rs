//! The schema's versions: numbered files, up and down, applied under a lock of the whole database.

use std::sync::Arc;

use fanfare_core::error::{Error, ErrorKind, Result};

use crate::connect::Database;
use crate::error::map;

/// One step of the schema.
struct Migration {
    name: &'static str,
    up: &'static [&'static str],
    down: &'static str,
}

/// Every step, oldest first.
const MIGRATIONS: [Migration; 2] = [
    Migration {
        name: "log",
        up: &[
            include_str!("sql/migrations/0001_log.up.sql"),
            include_str!("sql/functions/append.sql"),
            include_str!("sql/functions/publish.sql"),
            include_str!("sql/functions/number.sql"),
        ],
        down: include_str!("sql/migrations/0001_log.down.sql"),
    },
    Migration {
        name: "subscriptions",
        up: &[
            include_str!("sql/migrations/0002_subscriptions.up.sql"),
            include_str!("sql/functions/lease.sql"),
            include_str!("sql/functions/claim.sql"),
            include_str!("sql/functions/settle.sql"),
            include_str!("sql/functions/interest.sql"),
            include_str!("sql/functions/operate.sql"),
            include_str!("sql/functions/letters.sql"),
            include_str!("sql/functions/keep.sql"),
            include_str!("sql/functions/deliveries.sql"),
        ],
        down: include_str!("sql/migrations/0002_subscriptions.down.sql"),
    },
];

/// Applies what is missing.
pub(crate) async fn up(database: &Arc<Database>) -> Result<()> {
    let newest = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    match version(database).await? {
        there if there == newest => return Ok(()),
        there if there > newest => return Err(newer(there, newest)),
        _ => {}
    }
    let mut client = database.client().await?;
    let transaction = client.transaction().await.map_err(map)?;
    transaction
        .batch_execute(&database.sql(include_str!("sql/migrations/begin.sql")))
        .await
        .map_err(map)?;
    let row = transaction
        .query_one(
            &*database.sql("SELECT coalesce(max(number), 0) FROM ff.migration"),
            &[],
        )
        .await
        .map_err(map)?;
    let there: i32 = row.get(0);
    for (number, migration) in (1..)
        .zip(&MIGRATIONS)
        .skip(usize::try_from(there).unwrap_or(0))
    {
        for text in migration.up {
            transaction
                .batch_execute(&database.sql(text))
                .await
                .map_err(map)?;
        }
        transaction
            .execute(
                &*database.sql("INSERT INTO ff.migration (number, name) VALUES ($1, $2)"),
                &[&number, &migration.name],
            )
            .await
            .map_err(map)?;
    }
    let finish = database.sql(include_str!("sql/migrations/finish.sql"));
    transaction.batch_execute(&finish).await.map_err(map)?;
    transaction.commit().await.map_err(map)
}

/// Takes the newest steps back until `target` of them are left, with everything they hold; 0 removes
/// the stream.
pub(crate) async fn down(database: &Arc<Database>, target: i32) -> Result<()> {
    let there = version(database).await?;
    let mut client = database.client().await?;
    let transaction = client.transaction().await.map_err(map)?;
    let steps = (1..).zip(&MIGRATIONS).collect::<Vec<_>>().into_iter().rev();
    for (number, migration) in steps.filter(|(number, _)| (target + 1..=there).contains(number)) {
        transaction
            .batch_execute(&database.sql(migration.down))
            .await
            .map_err(map)?;
        transaction
            .execute(
                &*database.sql("DELETE FROM ff.migration WHERE number = $1"),
                &[&number],
            )
            .await
            .map_err(map)?;
    }
    if target <= 0 && there > 0 {
        let end = database.sql(include_str!("sql/migrations/end.sql"));
        transaction.batch_execute(&end).await.map_err(map)?;
    }
    transaction.commit().await.map_err(map)
}

/// How many steps were applied.
async fn version(database: &Arc<Database>) -> Result<i32> {
    let asked = database
        .read("SELECT to_regclass('ff.migration') IS NOT NULL", &[])
        .await?;
    if !asked.first().is_some_and(|row| row.get(0)) {
        return Ok(0);
    }
    let number = database
        .read("SELECT coalesce(max(number), 0) FROM ff.migration", &[])
        .await?;
    Ok(number.first().map_or(0, |row| row.get(0)))
}

fn newer(there: i32, newest: i32) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the stream has schema {there}, this build knows up to {newest}: use a newer one"),
    )
}
