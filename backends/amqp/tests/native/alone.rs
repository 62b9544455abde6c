//! What was with a process that died runs alone, and not too much of it at a time.

use fanfare_conformance::broker::{Fault, Proxy};

use crate::*;

/// More than twice as many as a queue tells apart when whoever had them ends.
const EVENTS: usize = 80;
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
    for answer in dies.publish(&events(EVENTS)).await.unwrap() {
        answer.unwrap();
    }
    let held = join(&dies).await;
    take(&held, EVENTS).await;
    proxy.set(Fault::Refuse);
    proxy.reset();

    let heir = AmqpBackend::open(config(&broker, "alone")).await.unwrap();
    let member = Member {
        name: "test".into(),
        kind: MemberKind::External,
    };
    let consumer = heir.consume(&name(), member).await.unwrap();
    let mut rest = EVENTS;
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
