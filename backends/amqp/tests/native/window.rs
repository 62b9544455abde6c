//! Members that want more than a process has at first get it, and the broker takes nothing back for it.

use std::collections::VecDeque;

use futures::future::join_all;
use tokio::sync::mpsc;

use crate::*;

const SUBSCRIPTIONS: usize = 4;
const EVENTS: usize = 4_000;
/// With so many in hand some are settled, so many at a time. It is about what a process has at first.
const SETTLING: usize = 490;
const AT_ONCE: usize = 8;
/// More than that: the last are not settled.
const IN_HAND: usize = 600;

/// What was settled makes room, and what fills it is on its way when the window grows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_grows_while_events_come_and_are_settled_and_none_comes_again() {
    let broker = broker().await;
    let backend = AmqpBackend::open(config(&broker, "window")).await.unwrap();
    let names = (0..SUBSCRIPTIONS).map(|n| SubscriptionName::parse(&format!("all{n}")).unwrap());
    let mut consumers = Vec::new();
    for name in names {
        let spec = SubscriptionSpec {
            name: name.clone(),
            lease: PATIENCE,
            ..spec(3)
        };
        backend.admin().put(&spec).await.unwrap();
        let member = Member {
            name: "test".into(),
            kind: MemberKind::Embedded,
        };
        consumers.push(backend.consume(&name, member).await.unwrap());
    }
    let published = events(EVENTS);
    let publish = async {
        for batch in published.chunks(100) {
            for answer in backend.publish(batch).await.unwrap() {
                answer.unwrap();
            }
        }
    };
    let receiving = join_all(consumers.iter().map(receive_all));
    let (all, ()) = tokio::join!(receiving, publish);
    for came in all {
        let in_order = came
            .iter()
            .zip(&published)
            .position(|(came, published)| came != published.id());
        assert_eq!(in_order, None, "the first that is out of order");
    }
    backend.close().await.unwrap();
}

/// All events in order of arrival, nearly all of them settled while others came.
async fn receive_all(consumer: &Arc<dyn Consumer>) -> Vec<EventId> {
    let (to_settle, mut settling) = mpsc::channel(EVENTS);
    let receive = async {
        let (mut came, mut held) = (Vec::new(), VecDeque::new());
        while came.len() < EVENTS {
            for delivery in take(consumer, AT_ONCE).await {
                held.push_back((delivery.receipt, Settlement::Ack));
                came.push(delivery.event.id().clone());
            }
            if held.len() > SETTLING && came.len() < EVENTS - IN_HAND {
                let some = held.drain(..AT_ONCE).collect();
                to_settle.send(some).await.unwrap();
            }
        }
        drop(to_settle);
        came
    };
    let settle = async {
        while let Some(some) = settling.recv().await {
            consumer.settle(some).await.unwrap();
        }
    };
    tokio::join!(receive, settle).0
}
