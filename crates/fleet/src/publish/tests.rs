//! Publishing into a log in memory that answers when it is told to.

use std::collections::BTreeSet;

use fanfare_core::id::EventId;
use fanfare_core::position::Position;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

/// How a flush ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Stored,
    Failed(ErrorKind),
}

/// Tells each flush, and ends it when told how.
struct Tape {
    flushes: mpsc::Sender<Vec<String>>,
    ends: tokio::sync::Mutex<mpsc::Receiver<End>>,
    known: Mutex<BTreeSet<String>>,
    clock: Clock,
}

#[async_trait]
impl Sink for Tape {
    type Item = String;
    type Identity<'a> = &'a str;

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn prepare(&self, event: &Event) -> Result<String> {
        match event.id().to_string() {
            id if id == "bad" => Err(Error::new(ErrorKind::TooLarge, "bad")),
            id => Ok(id),
        }
    }

    fn identity<'a>(&self, item: &'a String) -> &'a str {
        item
    }

    fn size(&self, item: &String) -> usize {
        item.len()
    }

    /// As Redis does: nothing is stored where some are known.
    async fn append(&self, items: &[&String]) -> Result<Vec<Option<Published>>> {
        let told = items.iter().map(|item| (*item).clone()).collect();
        self.flushes.send(told).await.unwrap();
        if let Some(End::Failed(kind)) = self.ends.lock().await.recv().await {
            return Err(Error::new(kind, "told to"));
        }
        let mut known = self.known.lock();
        let duplicate = items.iter().any(|item| known.contains(*item));
        let answers = items.iter().map(|item| {
            let known = if duplicate {
                known.contains(*item)
            } else {
                known.insert((*item).clone())
            };
            known.then_some(Published {
                position: Some(Position(item.len() as u128)),
                duplicate,
            })
        });
        Ok(answers.collect())
    }
}

struct Bench {
    publisher: Arc<Publisher<Tape>>,
    flushes: mpsc::Receiver<Vec<String>>,
    ends: mpsc::Sender<End>,
    closed: watch::Sender<bool>,
}

const LIMITS: Flushing = Flushing {
    queue: 100,
    events: 20,
    bytes: 1_000,
    in_flight: 2,
    timeout: Duration::from_mins(1),
};

fn bench(limits: Flushing) -> Bench {
    let (told, flushes) = mpsc::channel(100);
    let (ends, ended) = mpsc::channel(100);
    let closed = watch::Sender::new(false);
    let tape = Tape {
        flushes: told,
        ends: tokio::sync::Mutex::new(ended),
        known: Mutex::default(),
        clock: Clock::system(),
    };
    Bench {
        publisher: Arc::new(Publisher::start(tape, limits, closed.subscribe())),
        flushes,
        ends,
        closed,
    }
}

impl Bench {
    fn publish(&self, ids: &[&str]) -> JoinHandle<Result<Answers>> {
        let (publisher, events) = (self.publisher.clone(), events(ids));
        tokio::spawn(async move { publisher.publish(&events).await })
    }

    /// The next flush, which then waits for its end.
    async fn flush(&mut self) -> Vec<String> {
        self.flushes.recv().await.unwrap()
    }

    async fn end(&self, end: End) {
        self.ends.send(end).await.unwrap();
    }
}

fn events(ids: &[&str]) -> Vec<Event> {
    let events = ids.iter().map(|id| {
        let builder = Event::builder("a.b".parse().unwrap());
        builder.id(EventId::parse(id).unwrap()).build().unwrap()
    });
    events.collect()
}

async fn duplicates(publishing: JoinHandle<Result<Answers>>) -> Vec<bool> {
    let answers = publishing.await.unwrap().unwrap();
    answers
        .into_iter()
        .map(|one| one.unwrap().duplicate)
        .collect()
}

#[tokio::test]
async fn a_caller_that_is_alone_sends_for_itself() {
    let mut tape = bench(LIMITS);
    let publisher = tape.publisher.clone();
    let lone = events(&["1"]);
    let mut publishing = Box::pin(publisher.publish(&lone));
    // Sent by the first look at it, in this very task.
    assert!(futures::poll!(&mut publishing).is_pending());
    assert_eq!(tape.flushes.try_recv().unwrap(), ["1"]);
    tape.end(End::Stored).await;
    assert!(!publishing.await.unwrap()[0].as_ref().unwrap().duplicate);
}

#[tokio::test]
async fn who_comes_meanwhile_shares_the_next_flush() {
    let mut tape = bench(LIMITS);
    let first = tape.publish(&["1"]);
    assert_eq!(tape.flush().await, ["1"]);
    let others = [tape.publish(&["2"]), tape.publish(&["3", "4"])];
    tokio::task::yield_now().await;
    tape.end(End::Stored).await;
    assert_eq!(tape.flush().await, ["2", "3", "4"]);
    tape.end(End::Stored).await;
    for publishing in others.into_iter().chain([first]) {
        assert!(!duplicates(publishing).await.contains(&true));
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_flush_that_ends() {
    let mut tape = bench(LIMITS);
    let gone = tape.publish(&["1"]);
    assert_eq!(tape.flush().await, ["1"]);
    let other = tape.publish(&["2", "1"]);
    tokio::task::yield_now().await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    tape.end(End::Stored).await;
    assert_eq!(tape.flush().await, ["2", "1"]);
    tape.end(End::Stored).await;
    assert_eq!(tape.flush().await, ["2"]);
    tape.end(End::Stored).await;
    assert_eq!(duplicates(other).await, [false, true]);
}

#[tokio::test]
async fn a_caller_that_never_looks_again_holds_up_no_other() {
    let mut tape = bench(LIMITS);
    let publisher = tape.publisher.clone();
    let lone = events(&["1"]);
    let mut idle = Box::pin(publisher.publish(&lone));
    assert!(futures::poll!(&mut idle).is_pending());
    assert_eq!(tape.flush().await, ["1"]);
    let other = tape.publish(&["2"]);
    tape.end(End::Stored).await;
    assert_eq!(tape.flush().await, ["2"]);
    tape.end(End::Stored).await;
    assert_eq!(duplicates(other).await, [false]);
    assert!(!idle.await.unwrap()[0].as_ref().unwrap().duplicate);
}

#[tokio::test]
async fn what_is_worth_it_goes_out_beside_another_flush() {
    let mut tape = bench(LIMITS);
    let first = tape.publish(&["1"]);
    assert_eq!(tape.flush().await, ["1"]);
    let many: Vec<String> = (0..WORTH).map(|n| format!("m{n}")).collect();
    let ids: Vec<&str> = many.iter().map(String::as_str).collect();
    let second = tape.publish(&ids);
    assert_eq!(tape.flush().await, many);
    for _ in 0..2 {
        tape.end(End::Stored).await;
    }
    assert_eq!(
        duplicates(first).await.len() + duplicates(second).await.len(),
        1 + WORTH
    );
}

#[tokio::test]
async fn the_rest_of_a_batch_waits_for_its_beginning() {
    let mut tape = bench(LIMITS);
    let many: Vec<String> = (0..2 * LIMITS.events).map(|n| format!("m{n}")).collect();
    let ids: Vec<&str> = many.iter().map(String::as_str).collect();
    let publishing = tape.publish(&ids);
    assert_eq!(tape.flush().await, many[..LIMITS.events]);
    tokio::task::yield_now().await;
    assert!(tape.flushes.try_recv().is_err());
    tape.end(End::Failed(ErrorKind::Unknown)).await;
    assert_eq!(tape.flush().await, many[LIMITS.events..]);
    tape.end(End::Stored).await;
    let answers = publishing.await.unwrap().unwrap();
    let stored = answers.iter().map(Result::is_ok).collect::<Vec<_>>();
    assert_eq!(
        stored.iter().filter(|stored| **stored).count(),
        LIMITS.events
    );
    assert!(stored[LIMITS.events..].iter().all(|stored| *stored));
}

#[tokio::test]
async fn copies_and_duplicates_are_told_and_the_others_stored() {
    let mut tape = bench(LIMITS);
    let first = tape.publish(&["1"]);
    assert_eq!(tape.flush().await, ["1"]);
    tape.end(End::Stored).await;
    assert_eq!(duplicates(first).await, [false]);
    let mixed = tape.publish(&["2", "1", "bad", "2", "3"]);
    assert_eq!(tape.flush().await, ["2", "1", "3"]);
    tape.end(End::Stored).await;
    assert_eq!(tape.flush().await, ["2", "3"]);
    tape.end(End::Stored).await;
    let answers = mixed.await.unwrap().unwrap();
    let told = answers
        .iter()
        .map(|one| one.as_ref().ok().map(|one| one.duplicate));
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        [Some(false), Some(true), None, Some(true), Some(false)]
    );
    assert_eq!(answers[2].as_ref().unwrap_err().kind(), ErrorKind::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_gone_is_waited_for_and_an_unknown_outcome_is_not() {
    let mut tape = bench(LIMITS);
    let publishing = tape.publish(&["1"]);
    for _ in 0..2 {
        assert_eq!(tape.flush().await, ["1"]);
        tape.end(End::Failed(ErrorKind::Unavailable)).await;
    }
    assert_eq!(tape.flush().await, ["1"]);
    tape.end(End::Failed(ErrorKind::Unknown)).await;
    let answers = publishing.await.unwrap().unwrap();
    assert_eq!(answers[0].as_ref().unwrap_err().kind(), ErrorKind::Unknown);
}

#[tokio::test]
async fn a_close_flushes_what_waits_and_refuses_what_comes_later() {
    let mut tape = bench(LIMITS);
    let first = tape.publish(&["1"]);
    assert_eq!(tape.flush().await, ["1"]);
    let waiting = tape.publish(&["2"]);
    tokio::task::yield_now().await;
    tape.closed.send_replace(true);
    tape.end(End::Stored).await;
    assert_eq!(tape.flush().await, ["2"]);
    let late = tape.publish(&["3"]).await.unwrap();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Closed);
    tape.end(End::Stored).await;
    tape.publisher.ended().await;
    assert_eq!(duplicates(first).await, [false]);
    assert_eq!(duplicates(waiting).await, [false]);
}

#[tokio::test]
async fn a_full_line_makes_more_callers_wait_for_room() {
    let mut tape = bench(Flushing { queue: 1, ..LIMITS });
    let first = tape.publish(&["1"]);
    assert_eq!(tape.flush().await, ["1"]);
    let publishing = [tape.publish(&["2"]), tape.publish(&["3"])];
    tokio::task::yield_now().await;
    tape.end(End::Stored).await;
    assert_eq!(tape.flush().await, ["2"]);
    tape.end(End::Stored).await;
    assert_eq!(tape.flush().await, ["3"]);
    tape.end(End::Stored).await;
    for publishing in publishing.into_iter().chain([first]) {
        assert_eq!(duplicates(publishing).await, [false]);
    }
}
