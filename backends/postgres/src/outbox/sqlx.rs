//! The same inside a transaction of sqlx. Not a second encoding: columns, statement and the reading
//! of the answer are those of every publish.

use std::sync::Arc;

use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Decode, PgTransaction, Postgres, Row as _, Type};

use super::{LOCK_KEYS, answered};
use crate::backend::PostgresBackend;
use crate::error::{by_code, unexpected};
use crate::rows::{APPEND, Rows};

impl PostgresBackend {
    /// [`PostgresBackend::publish_in`] for sqlx. Nothing stays prepared on the connection, which may
    /// be one of a pooler.
    pub async fn publish_in_sqlx(
        &self,
        transaction: &mut PgTransaction<'_>,
        events: &[Event],
    ) -> Result<Vec<Published>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        self.take_room(events).await?;
        let rows = Rows::of(&events.iter().collect::<Vec<_>>());
        let ids: Vec<&[u8]> = rows.ids.iter().map(AsRef::as_ref).collect();
        let append = statement(self.database.sql(APPEND))
            .bind(&rows.sources.distinct)
            .bind(&rows.types.distinct)
            .bind(&rows.sources.places)
            .bind(&rows.types.places)
            .bind(&ids)
            .bind(&rows.keys)
            .bind(&rows.attributes)
            .bind(&rows.bodies);
        let row = append.fetch_one(&mut **transaction).await.map_err(map)?;
        answered(column(&row, 0)?, column(&row, 1)?, events.len())
    }

    /// [`PostgresBackend::lock_keys`] for sqlx.
    pub async fn lock_keys_sqlx(
        &self,
        transaction: &mut PgTransaction<'_>,
        keys: &[&str],
    ) -> Result<()> {
        let lock = statement(self.database.sql(LOCK_KEYS)).bind(keys);
        let locked = lock.execute(&mut **transaction).await;
        locked.map(drop).map_err(map)
    }
}

fn statement<'q>(sql: Arc<str>) -> Query<'q, Postgres, PgArguments> {
    // Ours: nothing in it but the name of the schema comes from outside, and that is quoted.
    sqlx::query(AssertSqlSafe(sql)).persistent(false)
}

fn column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(row: &'r PgRow, at: usize) -> Result<T> {
    let column = row.try_get(at);
    column.map_err(|error| unexpected("publish").because(error))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn map(error: sqlx::Error) -> Error {
    let (kind, message, said) = match &error {
        sqlx::Error::Database(answer) => {
            let code = answer.code().unwrap_or_default();
            let (kind, message) = by_code(&code, answer.message());
            (kind, message, format!("{} ({code})", answer.message()))
        }
        sqlx::Error::Io(_) => {
            let message = "postgres cannot be reached";
            (ErrorKind::Unavailable, message, error.to_string())
        }
        _ => {
            let message = "the exchange with postgres failed";
            (ErrorKind::Storage, message, error.to_string())
        }
    };
    Error::new(kind, message).because(said)
}
