//! What was with a process that died runs alone, and not too much of it at a time.

use fanfare_conformance::broker::{Fault, Proxy};

use crate::*;

/// More than a queue tells apart when whoever had them ends.
const EVENTS: u32 = 80;
/// How many of them a process has in hand.
const AT_ONCE: usize = 16;

/// A process that the broker hears no more of once it is gone, as if it were killed.
struct Mortal {
    line: Proxy,
    backend: Arc<AmqpBackend>,
}

impl Mortal {
    async fn start(broker: &Broker, prefix: &str) -> Self {
        let line = Proxy::start(broker.address()).await.unwrap();
        let through = AmqpConfig::new(broker.url_at(line.address()), prefix);
        let backend = AmqpBackend::open(through).await.unwrap();
        Self { line, backend }
    }

    fn die(&self) {
        self.line.set(Fault::Refuse);
        self.line.reset();
    }
}

async fn publish(backend: &AmqpBackend, count: usize) {
    for answer in backend.publish(&events(count)).await.unwrap() {
        answer.unwrap();
    }
}

/// A process that lives settles them all; which attempt each was.
async fn each_comes_once(broker: &Broker, prefix: &str, count: usize) -> Vec<u32> {
    let last = AmqpBackend::open(config(broker, prefix)).await.unwrap();
    let consumer = join(&last).await;
    let (mut came, mut attempts) = (std::collections::BTreeSet::new(), Vec::new());
    while came.len() < count {
        let one = take(&consumer, 1).await.remove(0);
        assert!(came.insert(one.event.id().clone()), "it came twice");
        attempts.push(one.attempt);
        let done = vec![(one.receipt, Settlement::Ack)];
        consumer.settle(done).await.unwrap();
    }
    last.close().await.unwrap();
    attempts
}

/// Takes several in hand that run alone.
async fn outside(backend: &AmqpBackend) -> Arc<dyn Consumer> {
    let member = Member {
        name: "test".into(),
        kind: MemberKind::External,
    };
    backend.consume(&name(), member).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_in_hand_than_the_server_gives_back_in_order() {
    let broker = broker().await;
    let dies = Mortal::start(&broker, "alone").await;
    let spec = SubscriptionSpec {
        lease: Duration::from_secs(2),
        ..spec(3)
    };
    dies.backend.admin().put(&spec).await.unwrap();
    let count = usize::try_from(EVENTS).unwrap();
    publish(&dies.backend, count).await;
    let held = join(&dies.backend).await;
    take(&held, count).await;
    dies.die();

    let heir = AmqpBackend::open(config(&broker, "alone")).await.unwrap();
    let consumer = outside(&heir).await;
    let mut rest = count;
    while rest > 0 {
        let came = take(&consumer, rest.min(AT_ONCE)).await;
        if rest > AT_ONCE {
            let more = consumer.receive(1, Duration::from_millis(200)).await;
            assert!(more.unwrap().is_empty(), "one more than {AT_ONCE}");
        }
        rest -= came.len();
        let done = came.iter().map(|came| (came.receipt, Settlement::Ack));
        consumer.settle(done.collect()).await.unwrap();
    }
    heir.close().await.unwrap();
    let _ = dies.backend.close().await;
}

/// How many wait there, and who consumes.
async fn look(channel: &Channel, queue: &str) -> (u32, u32) {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let asked = channel.queue_declare(queue.into(), options, FieldTable::default());
    let found = asked.await.unwrap();
    (found.message_count(), found.consumer_count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_moved_when_the_line_breaks_is_in_one_place() {
    let broker = broker().await;
    let dies = Mortal::start(&broker, "moved").await;
    dies.backend.admin().put(&spec(3)).await.unwrap();
    let count = usize::try_from(EVENTS).unwrap();
    publish(&dies.backend, count).await;
    take(&join(&dies.backend).await, count).await;
    dies.die();

    let moves = Mortal::start(&broker, "moved").await;
    let _mover = join(&moves.backend).await;
    let (_connection, channel) = stranger(&broker).await;
    let until = Clock::system().now() + PATIENCE;
    let both = async || {
        assert!(Clock::system().now() < until, "it is not moved");
        let gone = look(&channel, "moved.q.all").await.0;
        let (stays, members) = look(&channel, "moved.s.all").await;
        (gone, stays + gone, members)
    };
    while both().await.0 == 0 {}
    moves.die();
    // What was with the mover is back when it is gone.
    let all = loop {
        let (_, all, members) = both().await;
        if members == 0 && all >= EVENTS {
            break all;
        }
    };
    assert_eq!(all, EVENTS);

    each_comes_once(&broker, "moved", count).await;
    let _ = futures::join!(dies.backend.close(), moves.backend.close());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_alone_and_is_moved_when_the_line_breaks_is_in_one_place() {
    let broker = broker().await;
    let start = async || Mortal::start(&broker, "again").await;
    let [dies, dies_alone, moves] = [start().await, start().await, start().await];
    dies.backend.admin().put(&spec(9)).await.unwrap();
    publish(&dies.backend, AT_ONCE).await;
    take(&join(&dies.backend).await, AT_ONCE).await;
    dies.die();
    // Each kills its process once more, alone.
    take(&outside(&dies_alone.backend).await, AT_ONCE).await;
    dies_alone.die();

    let (_connection, channel) = stranger(&broker).await;
    let clock = Clock::system();
    let until = clock.now() + PATIENCE;
    // As long as something is there for all who ask, in whichever queue.
    let there = async || {
        let alone = look(&channel, "again.q.all").await.0;
        alone + look(&channel, "again.s.all").await.0
    };
    let wait = async |wanted: std::ops::RangeInclusive<u32>| {
        while !wanted.contains(&there().await) {
            assert!(clock.now() < until, "there are never {wanted:?}");
        }
    };
    let all = u32::try_from(AT_ONCE).unwrap();
    wait(all..=all).await;
    let consumer = join(&moves.backend).await;
    let moving =
        tokio::spawn(async move { consumer.receive(1, LEASE * 4).await.map(|_| consumer) });
    wait(0..=0).await;
    // They rest for a lease, and go back for whoever runs them.
    wait(1..=all).await;
    moves.die();
    let _ = moving.await.unwrap();
    // Before anybody is there who would know a copy.
    wait(all..=u32::MAX).await;
    clock.sleep(LEASE).await;
    assert_eq!(there().await, all, "some are in two places");

    for attempt in each_comes_once(&broker, "again", AT_ONCE).await {
        // The last of them may have died of it too.
        assert!((2..=3).contains(&attempt), "attempt {attempt}");
    }
    for gone in [dies, dies_alone, moves] {
        let _ = gone.backend.close().await;
    }
}

/// RabbitMQ has 32 on their way from one queue to another, and stands still where it does not hear of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_that_ran_alone_than_the_server_moves_at_once_all_come_again() {
    let broker = broker().await;
    let start = async || Mortal::start(&broker, "many").await;
    let first = start().await;
    let others = [start().await, start().await, start().await];
    let count = AT_ONCE * others.len();
    first.backend.admin().put(&spec(9)).await.unwrap();
    publish(&first.backend, count).await;
    take(&join(&first.backend).await, count).await;
    first.die();
    for other in &others {
        take(&outside(&other.backend).await, AT_ONCE).await;
    }
    for other in &others {
        other.die();
    }

    each_comes_once(&broker, "many", count).await;
    let _ = first.backend.close().await;
    for other in others {
        let _ = other.backend.close().await;
    }
}
