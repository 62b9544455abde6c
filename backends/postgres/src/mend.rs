//! What must hold of the server before its log is followed, and the mending of a sequence that stands
//! behind the log, as after a restore.

use fanfare_core::error::{Error, ErrorKind, Result};

use crate::log::Log;
use crate::own::Own;
use crate::row::get;

/// Positions left out when the sequence is mended, for readers that saw what is gone.
const MARGIN: i64 = 1_000;

/// Refuses a sequence that hands positions out in blocks, and a server whose sequences are
/// not locked until the end of the transaction.
pub(crate) async fn check(own: &Own) -> Result<()> {
    let sequence = own
        .once(
            "SELECT seqcache, seqincrement, seqcycle FROM pg_sequence \
             WHERE seqrelid = 'ff.log_pos'::regclass",
        )
        .await?;
    if let Some(row) = sequence.first() {
        let (cache, increment, cycle): (i64, i64, bool) =
            (get(row, 0)?, get(row, 1)?, get(row, 2)?);
        if (cache, increment, cycle) != (1, 1, false) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the sequence of the log must have CACHE 1, INCREMENT 1 and NO CYCLE, or events are lost",
            ));
        }
    }
    locks_are_kept(own).await
}

/// The manual does not promise what the horizon rests on, so it is tried.
async fn locks_are_kept(own: &Own) -> Result<()> {
    let ((), _, held, ()) = futures::try_join!(
        own.run("BEGIN"),
        own.once("SELECT nextval('ff.state_version')"),
        own.once(
            "SELECT count(*) FROM pg_locks WHERE relation = 'ff.state_version'::regclass \
             AND mode = 'RowExclusiveLock' AND granted AND pid = pg_backend_pid()",
        ),
        own.run("ROLLBACK"),
    )?;
    if held.first().map_or(Ok(0_i64), |row| get(row, 0))? == 1 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "this postgres does not keep the lock of nextval until the transaction ends",
    ))
}

/// The lock of this statement waits for whoever drew a position, and lets nobody draw one.
const FENCE: &str = "ALTER SEQUENCE ff.log_pos NO CYCLE";
const PLACES: &str = "SELECT last_value, greatest((SELECT coalesce(max(pos), 0) FROM ff.log), \
                      (SELECT h FROM ff.horizon), (SELECT max(frontier) FROM ff.subscription)) \
                      FROM ff.log_pos";

/// Moves the sequence of the log beyond everything that was ever read, if it stands behind that, and
/// says so. Whoever draws a position meanwhile waits.
pub(crate) async fn sequence(log: &Log, own: &Own) -> Result<()> {
    if behind(own).await?.is_none() {
        return Ok(());
    }
    own.run("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let mended = async {
        own.run("SET LOCAL lock_timeout = '5s'").await?;
        own.run(FENCE).await?;
        // Another process may have been quicker.
        let Some((last, read)) = behind(own).await? else {
            return Ok(());
        };
        let next = read.saturating_add(MARGIN);
        let what = format!("the sequence stood at {last}, behind {read}; it goes on at {next}");
        tracing::error!(stream = log.database.config.stream, "{what}");
        own.run(&format!("SELECT setval('ff.log_pos', {next})"))
            .await?;
        own.run(&format!("INSERT INTO ff.incident (what) VALUES ('{what}')"))
            .await
    };
    match mended.await {
        Ok(()) => own.run("COMMIT").await,
        Err(error) => own.run("ROLLBACK").await.and(Err(error)),
    }
}

/// Where the sequence stands and what was read, if that is more.
async fn behind(own: &Own) -> Result<Option<(i64, i64)>> {
    let rows = own.once(PLACES).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let (last, read): (i64, i64) = (get(row, 0)?, get(row, 1)?);
    Ok(Some((last, read)).filter(|(last, read)| last < read))
}
