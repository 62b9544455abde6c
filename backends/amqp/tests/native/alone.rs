//! What was with a process that died runs alone, and not too much of it at a time.

use fanfare_conformance::broker::{Fault, Proxy};

use crate::*;

/// More than a queue tells apart when whoever had them ends.
const EVENTS: u32 = 80;
/// How many of them a process has in hand.
const AT_ONCE: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_in_hand_than_the_server_gives_back_in_order() {
    let broker = broker().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let through = AmqpConfig::new(broker.url_at(proxy.address()), "alone");
    let dies = AmqpBackend::open(through).await.unwrap();
    let spec = SubscriptionSpec {
        lease: Duration::from_secs(2),
        ..spec(3)
    };
    dies.admin().put(&spec).await.unwrap();
    let count = usize::try_from(EVENTS).unwrap();
    for answer in dies.publish(&events(count)).await.unwrap() {
        answer.unwrap();
    }
    let held = join(&dies).await;
    take(&held, count).await;
    proxy.set(Fault::Refuse);
    proxy.reset();

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
    let _ = dies.close().await;
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
    let [first, second] = [
        Proxy::start(broker.address()).await.unwrap(),
        Proxy::start(broker.address()).await.unwrap(),
    ];
    let open = async |url: String| AmqpBackend::open(AmqpConfig::new(url, "moved")).await;
    let dies = open(broker.url_at(first.address())).await.unwrap();
    dies.admin().put(&spec(3)).await.unwrap();
    let count = usize::try_from(EVENTS).unwrap();
    for answer in dies.publish(&events(count)).await.unwrap() {
        answer.unwrap();
    }
    take(&join(&dies).await, count).await;
    first.set(Fault::Refuse);
    first.reset();

    let moves = open(broker.url_at(second.address())).await.unwrap();
    let _mover = join(&moves).await;
    let (_connection, channel) = stranger(&broker).await;
    let until = Clock::system().now() + PATIENCE;
    let both = async || {
        assert!(Clock::system().now() < until, "it is not moved");
        let gone = look(&channel, "moved.q.all").await.0;
        let (stays, members) = look(&channel, "moved.s.all").await;
        (gone, stays + gone, members)
    };
    while both().await.0 == 0 {}
    second.set(Fault::Refuse);
    second.reset();
    // What was with the mover is back when it is gone.
    let all = loop {
        let (_, all, members) = both().await;
        if members == 0 && all >= EVENTS {
            break all;
        }
    };
    assert_eq!(all, EVENTS);

    let last = open(broker.url()).await.unwrap();
    let consumer = join(&last).await;
    let mut came = std::collections::BTreeSet::new();
    while came.len() < count {
        let one = take(&consumer, 1).await.remove(0);
        assert!(came.insert(one.event.id().clone()), "it came twice");
        let done = vec![(one.receipt, Settlement::Ack)];
        consumer.settle(done).await.unwrap();
    }
    last.close().await.unwrap();
    let _ = futures::join!(dies.close(), moves.close());
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
async fn what_ran_alone_and_is_moved_when_the_line_breaks_is_in_one_place() {
    let broker = broker().await;
    let (mut lines, mut backends) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let line = Proxy::start(broker.address()).await.unwrap();
        let url = broker.url_at(line.address());
        backends.push(
            AmqpBackend::open(AmqpConfig::new(url, "again"))
                .await
                .unwrap(),
        );
        lines.push(line);
    }
    let part = |n: usize| {
        lines[n].set(Fault::Refuse);
        lines[n].reset();
    };
    backends[0].admin().put(&spec(9)).await.unwrap();
    for answer in backends[0].publish(&events(AT_ONCE)).await.unwrap() {
        answer.unwrap();
    }
    take(&join(&backends[0]).await, AT_ONCE).await;
    part(0);
    // Each kills its process once more, alone.
    take(&outside(&backends[1]).await, AT_ONCE).await;
    part(1);

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
    let mover = join(&backends[2]).await;
    let moving = tokio::spawn(async move { mover.receive(1, LEASE * 4).await.map(|_| mover) });
    wait(0..=0).await;
    // They rest for a lease, and go back for whoever runs them.
    wait(1..=all).await;
    part(2);
    let _ = moving.await.unwrap();
    // Before anybody is there who would know a copy.
    wait(all..=u32::MAX).await;
    clock.sleep(LEASE).await;
    assert_eq!(there().await, all, "some are in two places");

    let last = AmqpBackend::open(config(&broker, "again")).await.unwrap();
    let consumer = join(&last).await;
    let mut came = std::collections::BTreeSet::new();
    while came.len() < AT_ONCE {
        let one = take(&consumer, 1).await.remove(0);
        assert!(came.insert(one.event.id().clone()), "it came twice");
        // The last of them may have died of it too.
        assert!((2..=3).contains(&one.attempt), "attempt {}", one.attempt);
        let done = vec![(one.receipt, Settlement::Ack)];
        consumer.settle(done).await.unwrap();
    }
    last.close().await.unwrap();
    for backend in backends {
        let _ = backend.close().await;
    }
}
