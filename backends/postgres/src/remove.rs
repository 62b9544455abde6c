//! Removing whole streams, with everything in their schemas. Not a step back of the schema: that is
//! [`migrate`](crate::migrate)'s.

use fanfare_core::error::Result;

use crate::backend::PostgresBackend;
use crate::config::PostgresConfig;
use crate::connect::Database;
use crate::error::map;
use crate::row::get;

/// Schemas of streams whose names begin so, quoted. A schema that is not ours has no steps in it.
const FIND: &str = "SELECT quote_ident(nspname) FROM pg_namespace \
                    WHERE (starts_with(nspname::text, 'fanfare_' || $1) \
                           OR nspname = 'fanfare' AND starts_with('fanfare', $1)) \
                      AND to_regclass(format('%I.migration', nspname)) IS NOT NULL \
                    ORDER BY nspname";
/// Whoever still has a stream open is not waited for longer.
const PATIENCE: &str = "SET LOCAL lock_timeout = '5s'; SET LOCAL client_min_messages = 'warning'";

impl PostgresBackend {
    /// Removes every stream whose name begins with `prefix`, with all that belongs to it. Nobody may
    /// have one open: it would be made again.
    pub async fn remove(config: PostgresConfig, prefix: &str) -> Result<()> {
        let database = Database::connect(config)?;
        let found = database.read(FIND, &[&prefix]).await?;
        let mut client = database.client().await?;
        // Each on its own: a transaction holds only so many locks.
        for row in found {
            let schema: String = get(&row, 0)?;
            let transaction = client.transaction().await.map_err(map)?;
            let drop = format!("{PATIENCE}; DROP SCHEMA {schema} CASCADE");
            transaction.batch_execute(&drop).await.map_err(map)?;
            transaction.commit().await.map_err(map)?;
        }
        Ok(())
    }
}
