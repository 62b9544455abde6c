//! What each of many who publish at once is told.

use lapin::types::AMQPValue;

use crate::*;

/// How many publish at once, and how often each.
const PUBLISHERS: usize = 16;
const EACH: usize = 1_000;

/// An acknowledgement of an event that another's confirmation was taken for is a loss that nobody hears of.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_confirmation_is_told_to_who_published_that_event() {
    let broker = broker().await;
    let backend = AmqpBackend::open(config(&broker, "told")).await.unwrap();
    let (_connection, channel) = stranger(&broker).await;
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongInt(0));
    let refuses = AMQPValue::LongString("reject-publish".into());
    full.insert("x-overflow".into(), refuses);
    let options = QueueDeclareOptions::default();
    let declared = channel.queue_declare("told.refuses".into(), options, full);
    declared.await.unwrap();
    let bound = channel.queue_bind(
        "told.refuses".into(),
        "told".into(),
        "refused.#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();

    let publishing = (0..PUBLISHERS).map(|number| {
        let (kind, expected) = [
            ("refused.orders", Err(ErrorKind::Full)),
            ("kept.orders", Ok(())),
        ][number % 2];
        let told = tokio::spawn(publish(backend.clone(), kind));
        async move {
            let told = told.await.unwrap();
            let wrong = told.iter().filter(|told| **told != expected).count();
            assert_eq!(wrong, 0, "so many of {kind} were told what another became");
        }
    });
    futures::future::join_all(publishing).await;
    backend.close().await.unwrap();
}

async fn publish(backend: Arc<AmqpBackend>, kind: &str) -> Vec<Result<(), ErrorKind>> {
    let mut told = Vec::with_capacity(EACH);
    for _ in 0..EACH {
        let event = Event::builder(kind.parse().unwrap()).build().unwrap();
        let answer = backend.publish(&[event]).await.unwrap().remove(0);
        told.push(answer.map(drop).map_err(|error| error.kind()));
    }
    told
}
