//! The schema's versions: numbered files, up and down, applied under a lock of the whole database.

use std::sync::Arc;

use fanfare_core::error::{Error, ErrorKind, Result};

use crate::connect::{Database, Param};
use crate::error::map;

/// One step of the tables.
struct Migration {
    name: &'static str,
    up: &'static str,
    down: &'static str,
}

/// Every step, oldest first.
const MIGRATIONS: [Migration; 2] = [
    Migration {
        name: "log",
        up: include_str!("sql/migrations/0001_log.up.sql"),
        down: include_str!("sql/migrations/0001_log.down.sql"),
    },
    Migration {
        name: "subscriptions",
        up: include_str!("sql/migrations/0002_subscriptions.up.sql"),
        down: include_str!("sql/migrations/0002_subscriptions.down.sql"),
    },
];

/// The functions over the tables of the newest step, made anew after every step.
const FUNCTIONS: [&str; 12] = [
    include_str!("sql/functions/append.sql"),
    include_str!("sql/functions/publish.sql"),
    include_str!("sql/functions/number.sql"),
    include_str!("sql/functions/lease.sql"),
    include_str!("sql/functions/claim.sql"),
    include_str!("sql/functions/settle.sql"),
    include_str!("sql/functions/interest.sql"),
    include_str!("sql/functions/operate.sql"),
    include_str!("sql/functions/letters.sql"),
    include_str!("sql/functions/deliveries.sql"),
    include_str!("sql/functions/keep.sql"),
    include_str!("sql/functions/loss.sql"),
];

const BEGIN: &str = include_str!("sql/migrations/begin.sql");
const DROP_FUNCTIONS: &str = include_str!("sql/migrations/drop_functions.sql");
const FINISH: &str = include_str!("sql/migrations/finish.sql");
const END: &str = include_str!("sql/migrations/end.sql");

const STEPS: &str = "SELECT number FROM ff.migration ORDER BY number";
const DONE: &str = "INSERT INTO ff.migration (number, name) VALUES ($1, $2)";
const UNDONE: &str = "DELETE FROM ff.migration WHERE number = $1";

/// What is missing, in words; nothing where the stream is there as this build has it.
pub(crate) async fn missing(database: &Database) -> Result<Option<&'static str>> {
    let newest = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    let there = steps(database).await?;
    match (there.first(), there.last()) {
        (_, Some(later)) if *later > newest => Err(newer(*later, newest)),
        (Some(0), Some(last)) if *last == newest => Ok(None),
        (None, _) => Ok(Some("nothing there yet")),
        _ => Ok(Some("of an older version")),
    }
}

/// Applies what is missing. Where there is nothing at all although events up to `seen` were read, it
/// was deleted, and positions go on behind them. Answers whether that is so.
pub(crate) async fn up(database: &Arc<Database>, seen: i64) -> Result<bool> {
    if missing(database).await?.is_none() {
        return Ok(false);
    }
    let mut client = database.client().await?;
    let step = Step {
        database,
        transaction: client.transaction().await.map_err(map)?,
    };
    step.run(BEGIN).await?;
    let steps = step.transaction.query(&*database.sql(STEPS), &[]).await;
    let there: i32 = steps.map_err(map)?.last().map_or(0, |row| row.get(0));
    step.run(DROP_FUNCTIONS).await?;
    for (number, migration) in (1..).zip(&MIGRATIONS).skip_while(|(n, _)| *n <= there) {
        step.run(migration.up).await?;
        step.note(DONE, &[&number, &migration.name]).await?;
    }
    for text in FUNCTIONS {
        step.run(text).await?;
    }
    step.run(FINISH).await?;
    let was_deleted = there == 0 && seen > 0;
    if was_deleted {
        step.note("SELECT ff.begin_again($1)", &[&seen]).await?;
    }
    step.transaction.commit().await.map_err(map)?;
    Ok(was_deleted)
}

/// Takes the newest steps back until `target` of them are left, with everything they hold; 0 removes
/// the stream.
pub(crate) async fn down(database: &Arc<Database>, target: i32) -> Result<()> {
    let there = steps(database).await?;
    if there.is_empty() {
        return Ok(());
    }
    let mut client = database.client().await?;
    let step = Step {
        database,
        transaction: client.transaction().await.map_err(map)?,
    };
    step.run(DROP_FUNCTIONS).await?;
    let steps = (1..).zip(&MIGRATIONS).collect::<Vec<_>>();
    let taken = steps.into_iter().rev();
    for (number, migration) in taken.filter(|(n, _)| *n > target && there.contains(n)) {
        step.run(migration.down).await?;
        step.note(UNDONE, &[&number]).await?;
    }
    if target <= 0 {
        step.run(END).await?;
    }
    step.transaction.commit().await.map_err(map)
}

/// A step, all of it in one transaction.
struct Step<'a> {
    database: &'a Database,
    transaction: deadpool_postgres::Transaction<'a>,
}

impl Step<'_> {
    async fn run(&self, text: &'static str) -> Result<()> {
        let sql = self.database.sql(text);
        self.transaction.batch_execute(&sql).await.map_err(map)
    }

    async fn note(&self, text: &'static str, params: &[Param<'_>]) -> Result<()> {
        let sql = self.database.sql(text);
        let noted = self.transaction.execute(&*sql, params).await;
        noted.map(drop).map_err(map)
    }
}

/// The steps that were applied, from 0 where the functions are there.
async fn steps(database: &Database) -> Result<Vec<i32>> {
    let asked = "SELECT to_regclass('ff.migration') IS NOT NULL";
    let asked = database.read(asked, &[]).await?;
    if !asked.first().is_some_and(|row| row.get(0)) {
        return Ok(Vec::new());
    }
    let steps = database.read(STEPS, &[]).await?;
    Ok(steps.iter().map(|row| row.get(0)).collect())
}

fn newer(there: i32, newest: i32) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the stream has schema {there}, this build knows up to {newest}: use a newer one"),
    )
}
