//! What is gone although nobody here removed it: events, a subscription, or everything. A loss is noted
//! and told once; what is gone is made again, and later events are delivered.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::error::Result;
use fanfare_fleet::{Stored, unknown, write_spec};
use tokio::sync::watch;

use crate::connect::Database;
use crate::consume::{Desk, micros};
use crate::error::unexpected;
use crate::row::get;
use crate::subscription::{narrow, write_interest};

/// How often it is looked whether something is gone.
const EVERY: Duration = Duration::from_secs(5);

/// Looks from time to time, until `closed` or the desk is gone.
pub(crate) fn start(desk: &Arc<Desk>, mut closed: watch::Receiver<bool>) {
    let clock = desk.database.config.clock.clone();
    let desk = Arc::downgrade(desk);
    tokio::spawn(async move {
        loop {
            let Some(here) = desk.upgrade() else {
                return;
            };
            if let Err(error) = note(&here).await {
                tracing::debug!(%error, "cannot look whether events are gone");
            }
            drop(here);
            tokio::select! {
                _ = closed.wait_for(|closed| *closed) => return,
                () = clock.sleep(EVERY) => {}
            }
        }
    });
}

async fn note(desk: &Desk) -> Result<()> {
    look(&desk.database).await?;
    let text = "SELECT name, created, ff.needed_by(s) - 1 FROM ff.subscription s";
    let rows = desk.database.read(text, &[]).await?;
    let settled = rows
        .iter()
        .map(|row| Ok((get(row, 0)?, (get(row, 1)?, get(row, 2)?))));
    let settled = settled.collect::<Result<_>>()?;
    *desk.settled.lock() = settled;
    Ok(())
}

/// Notes and tells what is gone from the log.
pub(crate) async fn look(database: &Database) -> Result<()> {
    let rows = database.read("SELECT ff.look_for_losses()", &[]).await?;
    let told: Option<String> = rows.first().map_or(Ok(None), |row| get(row, 0))?;
    if let Some(told) = told {
        tracing::error!(stream = database.config.stream, "{told}");
    }
    Ok(())
}

/// Makes a subscription again that is gone, behind the last position up to which everything was
/// settled; refuses where an operator deleted it.
pub(crate) async fn restore(desk: &Desk, stored: &Stored) -> Result<()> {
    let spec = &stored.spec;
    if spec.ephemeral {
        return Err(unknown(&spec.name));
    }
    let created = i64::try_from(stored.created.as_nanos()).unwrap_or(i64::MAX);
    let settled = desk.settled.lock().get(spec.name.as_str()).copied();
    // What was known of another one of this name says nothing of this one.
    let settled = settled.filter(|(of, _)| *of == created);
    let after = settled.map_or_else(|| narrow(stored.base), |(_, settled)| settled);
    let rows = desk
        .database
        .write(
            "SELECT ff.restore($1, $2, $3::text::jsonb, $4, $5, $6, $7)",
            &[
                &spec.name.as_str(),
                &write_spec(spec)?,
                &write_interest(stored)?,
                &micros(spec.lease),
                &i32::try_from(spec.retry.max_attempts).unwrap_or(i32::MAX),
                &after,
                &created,
            ],
        )
        .await?;
    let row = rows.first().ok_or_else(|| unexpected("restore"))?;
    match get(row, 0)? {
        "deleted" => Err(unknown(&spec.name)),
        "made" => {
            let (stream, name) = (&desk.database.config.stream, &spec.name);
            tracing::error!(stream, subscription = %name, "the subscription was gone and is made again");
            Ok(())
        }
        _ => Ok(()),
    }
}
