//! Past events: pages by filter, one by id, its deliveries, and waiting at the log's end. A page looks
//! at a bounded number of positions and may go on with fewer events than asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::history::{
    DeliveryInfo, DeliveryState, EventPage, EventQuery, EventStatus, History, Recorded,
};
use fanfare_core::id::EventId;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::Slot;

use crate::admin::server_time;
use crate::backend::PostgresBackend;
use crate::connect::Param;
use crate::consume::text;
use crate::row::{Micros, Row, columns, get, id_bytes};
use crate::subscription::{narrow, types, wide};

/// The most events of a page.
const PAGE: usize = 1_000;
/// How many positions one page looks at, at most.
const WINDOW: i64 = 50_000;
/// The same where every event's deliveries have to be looked at.
const WINDOW_BY_STATUS: i64 = 2_000;
/// By how many positions recorded times may be out of order.
const SKEW: i64 = 10_000;

const FORWARD: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM ff.log WHERE pos > $1 AND pos <= $2
       AND ($3::text IS NULL OR type IN (SELECT number FROM ff.type WHERE '.' || name ~ $3))
       AND ($4::text IS NULL OR source IN (SELECT number FROM ff.source WHERE name = $4))
       AND ($5::text IS NULL OR key = $5)
     ORDER BY pos LIMIT $6"
);
const BACKWARD: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM ff.log WHERE pos > $1 AND pos <= $2
       AND ($3::text IS NULL OR type IN (SELECT number FROM ff.type WHERE '.' || name ~ $3))
       AND ($4::text IS NULL OR source IN (SELECT number FROM ff.source WHERE name = $4))
       AND ($5::text IS NULL OR key = $5)
     ORDER BY pos DESC LIMIT $6"
);

/// Positions above `after` and up to `last`.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    after: i64,
    last: i64,
}

impl PostgresBackend {
    /// What the query leaves of the log by position and time.
    async fn bounds(&self, query: &EventQuery) -> Result<Bounds> {
        let last = self.log.caught_up().await?;
        let since = query.since.map(server_time);
        let until = query.until.map(server_time);
        let row = self
            .database
            .read(
                "SELECT trimmed,
                   CASE WHEN $1::bigint IS NULL THEN 0
                     ELSE ff.before('epoch'::timestamptz + $1 * interval '1 microsecond') END,
                   CASE WHEN $2::bigint IS NOT NULL
                     THEN ff.before('epoch'::timestamptz + $2 * interval '1 microsecond') END
                 FROM ff.horizon",
                &[&since, &until],
            )
            .await?;
        let row = row
            .first()
            .ok_or_else(|| crate::error::unexpected("history"))?;
        let (trimmed, from): (i64, i64) = (get(row, 0)?, get(row, 1)?);
        let upto: Option<i64> = get(row, 2)?;
        let mut bounds = Bounds {
            after: trimmed.max(from),
            last: upto.map_or(last, |upto| last.min(upto.saturating_add(SKEW))),
        };
        match query.after.map(|after| narrow(after.0)) {
            Some(after) if query.descending => bounds.last = bounds.last.min(after - 1),
            Some(after) if after < trimmed => {
                return Err(Error::new(
                    ErrorKind::Gone,
                    format!("events up to {trimmed} were removed by retention"),
                ));
            }
            Some(after) => bounds.after = bounds.after.max(after),
            None => {}
        }
        Ok(bounds)
    }

    async fn page(&self, query: &EventQuery, bounds: Bounds) -> Result<EventPage> {
        let mut page = EventPage::default();
        let Bounds { after, last } = bounds;
        if after >= last {
            return Ok(page);
        }
        let width = query.status.map_or(WINDOW, |_| WINDOW_BY_STATUS);
        let window = if query.descending {
            (after.max(last.saturating_sub(width)), last)
        } else {
            (after, last.min(after.saturating_add(width)))
        };
        let limit = query.limit.clamp(1, PAGE);
        let asked = match query.status {
            Some(_) => WINDOW_BY_STATUS,
            None => i64::try_from(limit + 1).unwrap_or(i64::MAX),
        };
        let patterns = query.patterns.as_ref().map(types);
        let params: [Param<'_>; 6] = [
            &window.0,
            &window.1,
            &patterns,
            &query.source.as_deref().map(text),
            &query.key.as_deref().map(text),
            &asked,
        ];
        let sql = if query.descending { BACKWARD } else { FORWARD };
        let rows = self.database.read(sql, &params).await?;
        let through = i64::try_from(rows.len()).unwrap_or(i64::MAX) < asked;
        let rows = self.log.decode(&rows).await?;
        let looked = rows.last().map(|row| row.position);
        let statuses = self.statuses(query, &rows).await?;
        for row in &rows {
            let is_wanted = statuses
                .as_ref()
                .is_none_or(|known| known.get(&row.position).copied() == query.status);
            let Some(recorded) = recorded(row).filter(|event| is_wanted && in_time(query, event))
            else {
                continue;
            };
            if page.items.len() == limit {
                page.next = page.items.last().map(|item| item.position);
                return Ok(page);
            }
            page.items.push(recorded);
        }
        // The window is through; the log may not be.
        page.next = match (through, looked) {
            (false, Some(looked)) => Some(Position(wide(looked))),
            _ if query.descending => (window.0 > after).then(|| Position(wide(window.0 + 1))),
            _ => (window.1 < last).then(|| Position(wide(window.1))),
        };
        Ok(page)
    }

    /// The status of each event, where it is asked for.
    async fn statuses(
        &self,
        query: &EventQuery,
        rows: &[std::sync::Arc<Row>],
    ) -> Result<Option<BTreeMap<i64, EventStatus>>> {
        if query.status.is_none() {
            return Ok(None);
        }
        let positions: Vec<i64> = rows.iter().map(|row| row.position).collect();
        let mut deliveries = self.deliveries_of(&positions).await?;
        let status = |position: i64| {
            let own = deliveries.remove(&position).unwrap_or_default();
            (position, EventStatus::of(&own))
        };
        Ok(Some(positions.into_iter().map(status).collect()))
    }

    async fn deliveries_of(&self, positions: &[i64]) -> Result<BTreeMap<i64, Vec<DeliveryInfo>>> {
        let rows = self
            .database
            .read(
                "SELECT event, subscription, state, tries, due FROM ff.deliveries($1)",
                &[&positions],
            )
            .await?;
        let mut all: BTreeMap<i64, Vec<DeliveryInfo>> = BTreeMap::new();
        for row in &rows {
            let due: Option<Micros> = get(row, 4)?;
            all.entry(get(row, 0)?).or_default().push(DeliveryInfo {
                subscription: SubscriptionName::parse(get(row, 1)?)?,
                state: match get::<&str>(row, 2)? {
                    "leased" => DeliveryState::InFlight,
                    "waiting" => DeliveryState::Waiting,
                    "dead" => DeliveryState::Dead,
                    _ => DeliveryState::Settled,
                },
                attempts: u32::try_from(get::<i32>(row, 3)?).unwrap_or(0),
                due: due.map(Timestamp::from),
            });
        }
        Ok(all)
    }
}

/// What stands at a position, where it is an event.
fn recorded(row: &Row) -> Option<Recorded> {
    match &row.slot {
        Slot::Event(event) => Some(Recorded {
            position: Position(wide(row.position)),
            recorded: row.recorded,
            event: event.clone(),
        }),
        Slot::Raw(_) => None,
    }
}

fn in_time(query: &EventQuery, event: &Recorded) -> bool {
    query.since.is_none_or(|since| event.recorded >= since)
        && query.until.is_none_or(|until| event.recorded < until)
}

#[async_trait]
impl History for PostgresBackend {
    async fn events(&self, query: &EventQuery) -> Result<EventPage> {
        self.check_open()?;
        let bounds = self.bounds(query).await?;
        self.page(query, bounds).await
    }

    async fn event(&self, id: &str, source: Option<&str>) -> Result<Vec<Recorded>> {
        self.check_open()?;
        let id = EventId::parse(id)?;
        let last = self.log.caught_up().await?;
        let rows = self
            .database
            .read(
                "SELECT ff.with_id($1, $2)",
                &[&id_bytes(&id), &source.map(text)],
            )
            .await?;
        let positions = rows.iter().map(|row| get(row, 0));
        let mut positions = positions.collect::<Result<Vec<i64>>>()?;
        positions.retain(|position| *position <= last);
        let rows = self.log.find(&positions).await?;
        Ok(rows.values().filter_map(|row| recorded(row)).collect())
    }

    async fn deliveries(&self, position: Position) -> Result<Vec<DeliveryInfo>> {
        self.check_open()?;
        let at = narrow(position.0);
        let found = self.log.find(&[at]).await?;
        if found.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("no event at {position}"),
            ));
        }
        let mut all = self.deliveries_of(&[at]).await?;
        Ok(all.remove(&at).unwrap_or_default())
    }

    async fn head(&self) -> Result<Position> {
        self.check_open()?;
        self.log.caught_up().await?;
        let newest = self.log.before(None, 1).await?;
        Ok(newest
            .first()
            .map_or(Position::START, |row| Position(wide(row.position))))
    }

    async fn wait_beyond(&self, position: Position, wait: Duration) -> Result<Position> {
        let clock = &self.database.config.clock;
        let deadline = clock.now() + wait;
        let mut appended = self.log.appended();
        loop {
            appended.mark_unchanged();
            let head = self.head().await?;
            if head > position || clock.now() >= deadline {
                return Ok(head);
            }
            let mut closed = self.closed.subscribe();
            tokio::select! {
                _ = appended.changed() => {}
                _ = closed.wait_for(|closed| *closed) => {}
                () = clock.sleep_until(deadline) => {}
            }
        }
    }
}
