//! Everything at once, for trying it out: a PostgreSQL and a Redis of its own, both services in this
//! process. Ctrl-C ends it, and leaves nothing.

use fanfare_conformance::broker::{Broker, Durability, postgres, redis};
use job_lifecycle::settings::{Crawler, SourceManager};
use job_lifecycle::{Failure, crawler, http, log_to_stderr, source_manager};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    log_to_stderr();
    let (postgres, redis) = tokio::join!(
        Broker::start(postgres(), Durability::Always),
        Broker::start(redis(), Durability::Always),
    );
    let (postgres, redis) = (postgres?, redis?);
    let address = redis.address().to_string();
    let server = postgres.url();
    for name in ["source_manager", "crawler"] {
        let (client, connection) = tokio_postgres::connect(&server, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await?;
    }
    let base = server.trim_end_matches("postgres");
    let database = |name: &str| format!("{base}{name}");
    let environment = |name: &str| match name {
        "REDIS_EVENTS_ENABLED" => Some("true".to_owned()),
        "REDIS_ADDRESS" => Some(address.clone()),
        "SOURCE_MANAGER_DATABASE_URL" => Some(database("source_manager")),
        "CRAWLER_DATABASE_URL" => Some(database("crawler")),
        _ => std::env::var(name).ok(),
    };
    let settings = (
        SourceManager::read(&environment)?,
        Crawler::read(&environment)?,
    );
    tracing::info!(
        "source-manager at http://{}, crawler at http://{}",
        settings.0.listen,
        settings.1.listen
    );
    tracing::info!(
        "paste this first: export REDIS_PORT={}",
        redis.address().port()
    );
    tracing::info!("then what examples/job-lifecycle/README.md says");
    let (stop, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that this process is at its end as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let told = http::told_to_stop()?;
    let sources = source_manager::run(settings.0, until(stopped.clone()));
    let jobs = crawler::run(settings.1, until(stopped));
    let stopping = async {
        told.await;
        stop.send_replace(true);
        Ok(())
    };
    tokio::try_join!(sources, jobs, stopping)?;
    Ok(())
}
