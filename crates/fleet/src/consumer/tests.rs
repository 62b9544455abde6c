//! Receives that are given up, or that nobody polls, over a source that answers when it is told to.

use std::collections::BTreeMap;

use fanfare_core::clock::Clock;
use fanfare_core::data::Data;
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::SubscriptionSpec;
use fanfare_core::timestamp::Timestamp;
use futures::FutureExt;
use tokio::sync::Semaphore;

use super::*;
use crate::engine::{Answer, Ask, Page, Run};
use crate::slot::Slot;
use crate::subscription::{Interest, Stored};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(30);

/// A log without a page.
#[derive(Debug)]
struct Blank;

impl Page for Blank {
    fn after(&self, _: u128) -> impl Iterator<Item = (u128, &Slot)> + Send {
        std::iter::empty()
    }

    fn last(&self) -> u128 {
        0
    }

    fn end(&self) -> u128 {
        0
    }
}

/// A server that knows one subscription, and settles once it is let.
#[derive(Debug)]
struct Server {
    clock: Clock,
    settling: watch::Sender<usize>,
    settle: Semaphore,
}

#[async_trait]
impl Engine for Server {
    type Page = Blank;

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn appended(&self) -> watch::Receiver<u64> {
        unreachable!("the log is not read")
    }

    fn woken(&self, _: &SubscriptionName) -> Arc<Notify> {
        Arc::default()
    }

    async fn after(&self, _: u128) -> Result<Vec<Arc<Blank>>> {
        unreachable!("the log is not read")
    }

    async fn bodies(&self, _: &SubscriptionName, _: &[u128]) -> Result<BTreeMap<u128, Slot>> {
        unreachable!("every body is known")
    }

    async fn load(&self, name: &SubscriptionName) -> Result<Option<Stored>> {
        Ok(Some(stored(name)))
    }

    async fn restore(&self, _: &Stored) -> Result<()> {
        unreachable!("nothing is gone")
    }

    async fn claim(&self, _: &Ask<'_>) -> Result<Answer> {
        unreachable!("the source of the test claims")
    }

    async fn bury(&self, _: &SubscriptionSpec, _: &[(u128, Vec<u8>)]) -> Result<()> {
        unreachable!("nothing is given up")
    }

    async fn settle(&self, _: &SubscriptionSpec, runs: &[Run]) -> Result<Option<Vec<String>>> {
        self.settling.send_modify(|settling| *settling += 1);
        self.settle.acquire().await.unwrap().forget();
        Ok(Some(vec!["D".into(); runs.len()]))
    }

    async fn extend(
        &self,
        _: &SubscriptionName,
        _: &[Run],
        _: Duration,
    ) -> Result<Option<Vec<String>>> {
        unreachable!("nothing is extended")
    }

    async fn release(&self, _: &SubscriptionName, _: u64) -> Result<()> {
        Ok(())
    }

    async fn end(&self, _: &SubscriptionName) -> Result<()> {
        unreachable!("nothing is ephemeral")
    }

    async fn say_alive(&self, _: &SubscriptionName) -> Result<()> {
        unreachable!("nothing is ephemeral")
    }
}

fn stored(name: &SubscriptionName) -> Stored {
    let patterns = PatternSet::parse(["**"]).unwrap();
    Stored {
        spec: SubscriptionSpec {
            lease: LEASE,
            ..SubscriptionSpec::new(name.clone(), patterns)
        },
        version: 1,
        interest: Interest::parse([(0, vec!["**".to_owned()])]).unwrap(),
        base: 0,
        frontier: 0,
        claimed: 0,
        paused: false,
        created: Timestamp::EPOCH,
    }
}

/// Has nothing to claim, and says so once it is let.
#[derive(Debug)]
struct Slow {
    turn: Mutex<()>,
    begun: watch::Sender<usize>,
    answer: Semaphore,
    changed: watch::Sender<u64>,
}

#[async_trait]
impl Source for Slow {
    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn claim(&self, _: Turn) -> Result<Claimed> {
        let _turn = self.turn.lock().await;
        self.begun.send_modify(|begun| *begun += 1);
        self.answer.acquire().await.unwrap().forget();
        Ok(Claimed::Nothing(None))
    }

    async fn leave(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        Ok(())
    }
}

struct Bench {
    consumer: FleetConsumer<Server>,
    source: Arc<Slow>,
    open: watch::Sender<bool>,
}

impl Bench {
    async fn new(clock: Clock) -> Self {
        let (open, closed) = watch::channel(false);
        let server = Arc::new(Server {
            clock,
            settling: watch::Sender::new(0),
            settle: Semaphore::new(0),
        });
        let member = Member {
            name: "test".into(),
            kind: MemberKind::Embedded,
        };
        let name = "all".parse().unwrap();
        let seat = Seat::take(server, &name, &member, closed).await.unwrap();
        let source = Arc::new(Slow {
            turn: Mutex::default(),
            begun: watch::Sender::new(0),
            answer: Semaphore::new(0),
            changed: watch::Sender::new(0),
        });
        Self {
            consumer: FleetConsumer::fed_by(source.clone(), seat),
            source,
            open,
        }
    }

    /// Waits until so many claims were begun.
    async fn begun(&self, claims: usize) {
        let mut begun = self.source.begun.subscribe();
        within(begun.wait_for(|begun| *begun == claims))
            .await
            .unwrap();
    }

    /// A receive is dropped in the middle of its claim.
    async fn give_up_a_claim(&self) {
        let mut receive = self.consumer.receive(1, Duration::ZERO);
        assert!((&mut receive).now_or_never().is_none());
        self.begun(1).await;
    }

    /// As a claim leaves it: positions 1 to 3, of which the first two are leased until then.
    async fn claimed(&self, first: Timestamp, last: Timestamp) {
        let seat = &self.consumer.seat;
        for (position, until) in [(1, first), (2, first), (3, last)] {
            let event = Event::builder("orders.placed".parse().unwrap());
            let event = event.data(Data::text("x")).build().unwrap();
            let known = BTreeMap::from([(position, Slot::Event(event))]);
            let stored = seat.stored();
            seat.hand_out(&stored, 1, vec![(position, 1)], known, until)
                .await
                .unwrap();
        }
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it waits for ever")
}

#[tokio::test(start_paused = true)]
async fn a_receive_does_not_stand_behind_claims_that_were_given_up() {
    let bench = Bench::new(Clock::system()).await;
    let receive = || bench.consumer.receive(1, Duration::ZERO);
    bench.give_up_a_claim().await;
    for _ in 0..50 {
        let mut given_up = receive();
        assert!((&mut given_up).now_or_never().is_none());
        // It stands in line, and goes.
        tokio::task::yield_now().await;
    }
    let last = receive();
    tokio::pin!(last);
    assert!((&mut last).now_or_never().is_none());
    // For the claim that was sent before it was given up, and for the last one.
    bench.source.answer.add_permits(2);
    assert!(within(last).await.unwrap().is_empty());
    assert_eq!(*bench.source.begun.borrow(), 2, "claims that were sent");
}

#[tokio::test(start_paused = true)]
async fn a_receive_that_nobody_polls_holds_up_no_other() {
    let bench = Bench::new(Clock::system()).await;
    let mut idle = bench.consumer.receive(1, Duration::ZERO);
    assert!((&mut idle).now_or_never().is_none());
    bench.begun(1).await;
    bench.source.answer.add_permits(2);
    let other = within(bench.consumer.receive(1, Duration::ZERO)).await;
    assert!(other.unwrap().is_empty());
    assert!(within(idle).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_receive_ends_where_the_backend_was_dropped_without_a_close() {
    let bench = Bench::new(Clock::system()).await;
    bench.source.answer.add_permits(1);
    let mut receive = bench.consumer.receive(1, PATIENCE * 2);
    assert!((&mut receive).now_or_never().is_none());
    bench.begun(1).await;
    drop(bench.open);
    let error = within(receive).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_close_waits_for_the_claim_that_was_given_up() {
    let bench = Bench::new(Clock::system()).await;
    bench.give_up_a_claim().await;
    let mut leaving = std::pin::pin!(bench.consumer.close());
    assert!((&mut leaving).now_or_never().is_none());
    bench.source.answer.add_permits(1);
    within(leaving).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_receive_that_is_dropped_while_it_gives_back_what_is_stale_loses_nothing() {
    let clock = Clock::manual(Timestamp::EPOCH);
    let bench = Bench::new(clock.clone()).await;
    bench
        .claimed(clock.now() + LEASE, clock.now() + LEASE * 3)
        .await;
    clock.advance(LEASE * 2);
    let server = bench.consumer.seat.engine();
    assert!(bench.consumer.receive(3, PATIENCE).now_or_never().is_none());
    assert_eq!(*server.settling.borrow(), 1, "it gives back what is stale");
    let came = within(bench.consumer.receive(3, PATIENCE)).await.unwrap();
    let positions: Vec<u128> = came.iter().map(|d| d.position.0).collect();
    assert_eq!(positions, [3]);
}
