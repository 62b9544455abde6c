//! What the server's settings mean for what is kept there. Nothing is changed.

use fanfare_core::advice::Advice;
use fanfare_core::error::Result;

use crate::connect::{Database, too_slow};
use crate::error::{map, unexpected};
use crate::row::get;

/// How our sessions have it: the role or the database may differ from the server.
const SETTINGS: &str = "SELECT current_setting('server_version'), \
    current_setting('fsync')::bool, current_setting('full_page_writes')::bool, \
    current_setting('synchronous_commit'), current_setting('autovacuum')::bool, \
    current_setting('idle_in_transaction_session_timeout') <> '0', \
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int, \
    current_setting('synchronous_standby_names')";
/// For how many milliseconds there has been this session.
const AGE: &str = "SELECT extract(epoch FROM clock_timestamp() - backend_start)::float8 * 1000 \
                   FROM pg_stat_activity WHERE pid = pg_backend_pid()";
/// Connections of one process: one to publish, one to follow, and the pool.
const OWN: usize = 2;

/// Everything there is to say about this server.
pub(crate) async fn of(database: &Database) -> Result<Vec<Advice>> {
    let rows = database.read(SETTINGS, &[]).await?;
    let row = rows.first().ok_or_else(|| unexpected("settings"))?;
    let version: String = get(row, 0)?;
    let mut all = vec![Advice::good("version", format!("postgres {version}"))];
    all.extend(power(get(row, 1)?, get(row, 2)?));
    all.push(commit(&get::<String>(row, 3)?, &get::<String>(row, 8)?));
    if !get::<bool>(row, 4)? {
        all.push(Advice::bad(
            "autovacuum",
            "it is off: the small tables of the stream grow and every claim gets slower",
            "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();",
        ));
    }
    if !get::<bool>(row, 5)? {
        all.push(Advice::note(
            "open transactions",
            "idle_in_transaction_session_timeout is 0: a transaction that published and stays open \
             holds back all later events",
            "ALTER ROLE .. SET idle_in_transaction_session_timeout = '30s', for roles that publish in \
             transactions of their own",
        ));
    }
    let processes = database.config.connections + OWN;
    all.push(connections(get(row, 6)?, get(row, 7)?, processes));
    all.extend(pooler(database).await?);
    Ok(all)
}

/// What a power cut costs.
fn power(fsync: bool, full_pages: bool) -> Vec<Advice> {
    let mut all = Vec::new();
    if fsync && full_pages {
        all.push(Advice::good(
            "fsync",
            "flushed before it is acknowledged, whole pages logged",
        ));
    }
    if !fsync {
        all.push(Advice::bad(
            "fsync",
            "it is off: a power cut loses what was acknowledged, and may destroy the whole database",
            "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();",
        ));
    }
    if !full_pages {
        all.push(Advice::bad(
            "full_page_writes",
            "it is off: a page that a power cut tore is not mended",
            "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
        ));
    }
    all
}

/// What a commit waits for.
fn commit(how: &str, standbys: &str) -> Advice {
    match how {
        "off" => Advice::bad(
            "synchronous_commit",
            "it is off: a server that dies may forget what was settled or published in the last \
             moments, although it was acknowledged",
            "ALTER ROLE .. SET synchronous_commit = on, or ALTER SYSTEM and SELECT pg_reload_conf();",
        ),
        "local" if !standbys.is_empty() => Advice::note(
            "synchronous_commit",
            "it is local: the standbys are not waited for, and one that takes over may lack what was \
             acknowledged last",
            "ALTER ROLE .. SET synchronous_commit = on",
        ),
        _ if standbys.is_empty() => Advice::good(
            "synchronous_commit",
            format!("{how}; no standby is waited for: after a failover what it lacks is lost"),
        ),
        _ => Advice::good(
            "synchronous_commit",
            format!("{how}; {standbys} waited for"),
        ),
    }
}

fn connections(most: i32, used: i32, of_one: usize) -> Advice {
    let free = usize::try_from(most - used).unwrap_or(0);
    let found = format!("{used} of {most} are used; each process of ours takes at most {of_one}");
    if free >= of_one {
        return Advice::good("connections", found);
    }
    Advice::note(
        "connections",
        format!("{found}, so that another one may find none left"),
        "raise max_connections (needs a restart), or put a pooler in between and say pooler=transaction",
    )
}

/// A session that is older than our connection to it is somebody's who hands sessions out.
async fn pooler(database: &Database) -> Result<Option<Advice>> {
    let clock = &database.config.clock;
    let before = clock.now();
    let asked = async {
        let (client, reading) = database.wire.dial(&database.server, |_, _| {}).await?;
        let rows = client.simple_query(AGE).await.map_err(map);
        reading.abort();
        rows
    };
    let rows = tokio::select! {
        rows = asked => rows?,
        () = clock.sleep(database.config.connect_timeout) => return Err(too_slow()),
    };
    let age = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse::<f64>().ok(),
        _ => None,
    });
    let ours = clock.now().since(before).as_secs_f64() * 1e3;
    let pooled = age.is_some_and(|age| age > ours);
    Ok(match (pooled, database.config.pooler) {
        (false, _) => None,
        (true, true) => Some(Advice::good("pooler", "there is one, and the URL says so")),
        (true, false) => Some(Advice::note(
            "pooler",
            "something hands out sessions that others had before: a pooler",
            "`pooler=transaction` in the URL, where that is its mode: else statements fail and news \
             are not heard",
        )),
    })
}

#[cfg(test)]
mod tests {
    use fanfare_core::advice::Weight;

    use super::*;

    #[test]
    fn what_a_commit_waits_for_is_weighed() {
        assert_eq!(commit("on", "").weight, Weight::Good);
        assert_eq!(commit("remote_apply", "one").weight, Weight::Good);
        assert_eq!(commit("local", "one").weight, Weight::Note);
        assert_eq!(commit("off", "").weight, Weight::Bad);
    }

    #[test]
    fn connections_that_are_used_up_are_told() {
        assert_eq!(connections(97, 20, 10).weight, Weight::Good);
        assert_eq!(connections(97, 90, 10).weight, Weight::Note);
        assert_eq!(connections(3, 5, 10).weight, Weight::Note);
    }
}
