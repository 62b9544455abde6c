//! The source-manager as a process. `source-manager migrate-down` takes its tables back instead.

use fanfare::config::process_environment;
use job_lifecycle::settings::SourceManager;
use job_lifecycle::source_manager::{MIGRATIONS, run};
use job_lifecycle::{Failure, database, http, log_to_stderr};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    log_to_stderr();
    let settings = SourceManager::read(&process_environment)?;
    if std::env::args().nth(1).as_deref() == Some("migrate-down") {
        let pool = database::pool(&settings.database)?;
        return database::migrate_down(&mut *pool.get().await?, &MIGRATIONS).await;
    }
    run(settings, http::told_to_stop()?).await
}
