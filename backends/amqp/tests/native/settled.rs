//! What was answered as settled does not come again, whatever ends right behind the answer.

use std::collections::BTreeSet;

use fanfare_conformance::broker::Proxy;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::restart::until_registered;
use crate::*;

const EVENTS: usize = 900;
/// So many settlements are answered when it happens.
const ANSWERED: usize = 150;

/// Takes them all, settles every second one by itself, and does that once enough are answered. Those
/// that were are returned, and those of which nothing was said.
async fn settle_until(
    backend: &AmqpBackend,
    happens: impl FnOnce(),
) -> (BTreeSet<EventId>, BTreeSet<EventId>) {
    for answer in backend.publish(&events(EVENTS)).await.unwrap() {
        answer.unwrap();
    }
    let consumer = join(backend).await;
    let came = take(&consumer, EVENTS).await;
    let id = |came: &Delivery| came.event.id().clone();
    let settle = async |came: &Delivery| {
        let ack = vec![(came.receipt, Settlement::Ack)];
        let settled = consumer.settle(ack).await.ok()?;
        (settled == [Settled::Done]).then(|| id(came))
    };
    let mut settling: FuturesUnordered<_> = came.iter().step_by(2).map(settle).collect();
    let first = settling.by_ref().take(ANSWERED).collect::<Vec<_>>().await;
    happens();
    let late = settling.collect::<Vec<_>>().await;
    let settled = first.into_iter().chain(late).flatten().collect();
    (settled, came.iter().skip(1).step_by(2).map(id).collect())
}

/// Takes what comes, one by one, until all that must come has, and nothing that must not.
async fn check_rest(
    backend: &AmqpBackend,
    (settled, mut rest): (BTreeSet<EventId>, BTreeSet<EventId>),
) {
    let consumer = join(backend).await;
    while !rest.is_empty() {
        let one = take(&consumer, 1).await.remove(0);
        assert!(!settled.contains(one.event.id()), "it was settled");
        rest.remove(one.event.id());
        let done = vec![(one.receipt, Settlement::Ack)];
        consumer.settle(done).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_in_any_order_stays_settled_when_the_line_breaks() {
    let broker = broker().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let through = broker.url_at(proxy.address());
    let there = AmqpBackend::open(AmqpConfig::new(through, "broken"));
    let there = there.await.unwrap();
    there.admin().put(&spec(3)).await.unwrap();
    let halves = settle_until(&there, || proxy.reset()).await;
    let _ = there.close().await;
    let here = AmqpBackend::open(config(&broker, "broken")).await.unwrap();
    check_rest(&here, halves).await;
    here.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_stays_settled_when_the_server_is_killed() {
    let broker = Broker::start(rabbitmq(), Durability::Always).await.unwrap();
    let open = || AmqpBackend::open(config(&broker, "killed"));
    let there = open().await.unwrap();
    there.admin().put(&spec(3)).await.unwrap();
    until_registered(&broker, "killed.s.all").await;
    let halves = settle_until(&there, || broker.kill().unwrap()).await;
    let _ = there.close().await;
    broker.restart().await.unwrap();
    let here = open().await.unwrap();
    check_rest(&here, halves).await;
    here.close().await.unwrap();
}
