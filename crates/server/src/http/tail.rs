//! `GET /v1/tail`: following the log live as server-sent events. One task per client reads the log
//! ahead into a bounded queue; the body of the answer empties it. A client that stops reading is
//! cut off and told how much it missed; it goes on where it was with `Last-Event-ID`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fanfare::core::error::{Error, ErrorKind, Status};
use fanfare::core::history::{EventPage, EventQuery, Recorded};
use fanfare::core::position::Position;
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::app::{App, Slot};
use crate::http::history::patterns;
use crate::http::params::Params;
use crate::http::problem::{Code, Problem};
use crate::http::route::Route;
use crate::http::{body, render, time};

/// Events read from the log at once.
const PAGE: usize = 32;
/// The longest sleep between looks at the log.
const LOOK: Duration = Duration::from_secs(30);
/// How long to wait when the log cannot be read for the moment.
const BACKOFF: Duration = Duration::from_secs(1);
/// Events read at once to count what a slow client missed, and how often at most.
const COUNTED_PAGE: usize = 1_000;
const COUNTED_PAGES: usize = 100;
/// The first lines: how long a client waits before it comes back, in milliseconds.
const GREETING: &[u8] = b"retry: 1000\n\n";

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/tail", tail)
            .about("Follow events live as server-sent events")
            .query("type", "a pattern; may be given up to 16 times")
            .query("since", "start here: a time, or a duration back from now")
            .header("Last-Event-ID", "go on after this position")
            .answer_as(
                200,
                "The stream; it ends only when it must",
                "text/event-stream",
                None,
            )
            .problems(&[Code::Malformed, Code::Busy, Code::Unsupported]),
    ]
}

/// Why a stream ends; the last thing a client is told.
#[derive(Debug)]
enum Ending {
    Bye,
    /// The client was too slow; what it missed is what this query finds when it is told.
    Lagged(EventQuery),
}

async fn tail(
    State(app): State<App>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let now = app.clock().now();
    let patterns = patterns(&mut params);
    let since = params.read("since", |text| time::parse(text, now));
    params.finish()?;
    let resumed = last_event_id(&headers)?;
    let slot = app.slot(Slot::Tail)?;
    let history = app.history()?;
    let after = match (resumed, since) {
        (Some(position), _) => Some(position),
        (None, Some(_)) => None,
        // Read before the answer begins: what is published from now on is seen.
        (None, None) => Some(history.head().await?),
    };
    let query = EventQuery {
        patterns,
        since: since.filter(|_| resumed.is_none()),
        after,
        limit: PAGE,
        ..EventQuery::default()
    };
    let (queue, events) = mpsc::channel(app.config().limits.tail_queue);
    let ending = Arc::new(Mutex::new(None));
    let follower = Follower {
        app: app.clone(),
        query,
        queue,
        room: Arc::new(Semaphore::new(app.config().limits.tail_queue_bytes)),
    };
    app.tasks().spawn({
        let ending = ending.clone();
        // Held until the ending is set down: the reader looks for it once the queue is closed.
        let open = follower.queue.clone();
        async move {
            let end = follower.run().await;
            *ending.lock() = end;
            drop(open);
        }
    });
    let reader = Reader {
        events,
        ending,
        app,
        greeted: false,
        _slot: slot,
    };
    let mut response = Body::from_stream(reader.into_stream()).into_response();
    let media_type = HeaderValue::from_static("text/event-stream");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    Ok(response)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    let Some(text) = body::text(headers, "last-event-id")? else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|error: Error| {
        Problem::new(
            Code::Malformed,
            format!("Last-Event-ID: {}", error.message()),
        )
    })
}

/// A message on its way to the client, and its share of the queue's bytes.
struct Queued {
    message: Bytes,
    _share: OwnedSemaphorePermit,
}

/// Reads the log ahead of the client.
struct Follower {
    app: App,
    query: EventQuery,
    queue: mpsc::Sender<Queued>,
    /// The bytes that the queue has room for.
    room: Arc<Semaphore>,
}

/// Why following stopped.
enum Stop {
    /// The client went away, or the log cannot be read.
    Quietly,
    Telling(Ending),
}

impl Follower {
    /// Follows until the client leaves, lags, or the server drains.
    async fn run(mut self) -> Option<Ending> {
        let draining = self.app.draining().clone();
        let queue = self.queue.clone();
        let stop = tokio::select! {
            () = draining.cancelled() => Stop::Telling(Ending::Bye),
            () = queue.closed() => Stop::Quietly,
            stop = self.follow() => stop,
        };
        match stop {
            Stop::Quietly => None,
            Stop::Telling(ending) => Some(ending),
        }
    }

    async fn follow(&mut self) -> Stop {
        loop {
            let outcome = match self.step().await {
                Err(error) if error.kind() == ErrorKind::Gone => self.skip_gap().await,
                outcome => outcome,
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(stop)) => return stop,
                Err(error) if error.status() == Status::Temporary => {
                    tracing::warn!(%error, "a tail waits for the log");
                    self.app.clock().sleep(BACKOFF).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a tail cannot read the log");
                    return Stop::Quietly;
                }
            }
        }
    }

    /// Queues one page, or waits for the log to grow.
    async fn step(&mut self) -> Result<Option<Stop>, Error> {
        let app = self.app.clone();
        let history = app.history()?;
        // The head is read first: a page without a successor has shown everything up to it.
        let head = history.head().await?;
        let page = history.events(&self.query).await?;
        let last = page.items.last().map(|item| item.position);
        let reached = page.next.or(last.max(Some(head)));
        let at_end = page.next.is_none();
        if let Some(stop) = self.queue_page(page).await? {
            return Ok(Some(stop));
        }
        self.query.after = self.query.after.max(reached);
        if at_end {
            let from = self.query.after.unwrap_or(head);
            history.wait_beyond(from, LOOK).await?;
        }
        Ok(None)
    }

    async fn queue_page(&mut self, page: EventPage) -> Result<Option<Stop>, Error> {
        for item in page.items {
            let Ok(message) = event_message(&item) else {
                return Ok(Some(Stop::Quietly));
            };
            if !self.offer(message).await {
                return Ok(Some(Stop::Telling(Ending::Lagged(self.query.clone()))));
            }
            self.query.after = Some(item.position);
        }
        Ok(None)
    }

    /// Waits for room in the queue, but not for ever.
    async fn offer(&self, message: Bytes) -> bool {
        let limits = &self.app.config().limits;
        tokio::select! {
            sent = self.send(message) => sent,
            () = self.app.clock().sleep(limits.tail_patience) => false,
        }
    }

    async fn send(&self, message: Bytes) -> bool {
        // One that is larger than the whole queue takes all of it.
        let bytes = message.len().min(self.app.config().limits.tail_queue_bytes);
        let share = self
            .room
            .clone()
            .acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX));
        let Ok(share) = share.await else {
            return false;
        };
        let queued = Queued {
            message,
            _share: share,
        };
        self.queue.send(queued).await.is_ok()
    }

    /// Retention passed the place where the client was: says so and goes on with the oldest event.
    async fn skip_gap(&mut self) -> Result<Option<Stop>, Error> {
        let stats = self.app.backend().admin().stats().await?;
        let to = match stats.first {
            Some(first) => first,
            None => Position(self.app.history()?.head().await?.0.saturating_add(1)),
        };
        let from = self.query.after.unwrap_or(Position::START);
        let body = serde_json::json!({ "from": from, "to": to }).to_string();
        let message = Bytes::from(format!("event: gap\ndata: {body}\n\n"));
        if !self.offer(message).await {
            return Ok(Some(Stop::Telling(Ending::Lagged(self.query.clone()))));
        }
        self.query.after = Some(Position(to.0.saturating_sub(1)));
        Ok(None)
    }
}

/// What the body of the answer is made of.
struct Reader {
    events: mpsc::Receiver<Queued>,
    ending: Arc<Mutex<Option<Ending>>>,
    app: App,
    greeted: bool,
    _slot: OwnedSemaphorePermit,
}

impl Reader {
    fn into_stream(self) -> impl stream::Stream<Item = Result<Bytes, std::convert::Infallible>> {
        stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            let (message, more) = reader.next().await?;
            Some((Ok(message), more.then_some(reader)))
        })
    }

    /// The next message, and whether more may follow.
    async fn next(&mut self) -> Option<(Bytes, bool)> {
        if !self.greeted {
            self.greeted = true;
            return Some((Bytes::from_static(GREETING), true));
        }
        let heartbeat = self.app.config().limits.tail_heartbeat;
        tokio::select! {
            biased;
            message = self.events.recv() => match message {
                Some(queued) => Some((queued.message, true)),
                None => self.farewell().await,
            },
            () = self.app.clock().sleep(heartbeat) => {
                Some((Bytes::from_static(b": still here\n\n"), true))
            }
        }
    }

    async fn farewell(&self) -> Option<(Bytes, bool)> {
        let ending = self.ending.lock().take()?;
        let text = match ending {
            Ending::Bye => "event: bye\ndata: {}\n\n".to_owned(),
            Ending::Lagged(missed) => {
                let skipped = count(&self.app, missed).await.ok()?;
                format!("event: lagged\ndata: {{\"skipped\":{skipped}}}\n\n")
            }
        };
        Some((Bytes::from(text), false))
    }
}

/// How many events a query finds; at least, where they are very many.
async fn count(app: &App, mut query: EventQuery) -> Result<u64, Error> {
    query.limit = COUNTED_PAGE;
    let mut found = 0;
    for _ in 0..COUNTED_PAGES {
        let page = app.history()?.events(&query).await?;
        found += page.items.len() as u64;
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    Ok(found)
}

/// One event as an unnamed message. JSON data may hold line breaks between their tokens: each line
/// becomes a `data:` line, which clients put together again.
fn event_message(item: &Recorded) -> Result<Bytes, Problem> {
    #[derive(serde::Serialize)]
    struct Message {
        position: Position,
    }
    let position = item.position;
    let mut json = Vec::new();
    render::with_event(&mut json, &Message { position }, Some(&item.event))?;
    let mut out = format!("id: {position}\n").into_bytes();
    for line in json.split(|byte| matches!(byte, b'\n' | b'\r')) {
        if !line.is_empty() {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(line);
            out.push(b'\n');
        }
    }
    out.push(b'\n');
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use fanfare::core::data::Data;
    use fanfare::core::event::Event;
    use fanfare::core::id::EventId;
    use fanfare::core::timestamp::Timestamp;

    use super::*;

    #[test]
    fn line_breaks_in_data_do_not_end_a_message() {
        let event = Event::builder("a.b".parse().unwrap())
            .id(EventId::parse("1").unwrap())
            .data(Data::json("{\r\n \"x\":\r1\n\n}"))
            .build()
            .unwrap();
        let item = Recorded {
            position: Position(7),
            recorded: Timestamp::EPOCH,
            event,
        };
        let message = event_message(&item).unwrap();
        let text = std::str::from_utf8(&message).unwrap();
        assert!(
            text.starts_with("id: 7\ndata: {\"position\":\"7\""),
            "{text}"
        );
        assert!(
            text.ends_with("\n\n") && !text.trim_end().contains("\n\n"),
            "{text}"
        );
        let data: Vec<_> = text
            .lines()
            .filter_map(|l| l.strip_prefix("data: "))
            .collect();
        let value: serde_json::Value = serde_json::from_str(&data.join("\n")).unwrap();
        assert_eq!(value["event"]["data"]["x"], 1);
    }
}
