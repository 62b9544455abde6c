//! Many writers at once, in transactions of their own length: nothing is skipped, nothing comes out of
//! the order of its key, nothing stalls. `FANFARE_EVENTS=100000` makes it long.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::delivery::Settlement;

use super::stage::*;

const WRITERS: usize = 64;
/// How long nothing at all may come while there are writers.
const STALL: Duration = Duration::from_secs(5);

/// One transaction: the next number of a key, kept in a table of the application.
fn transaction(writer: usize, round: usize) -> String {
    let random = (writer * 7_919 + round * 104_729) % 1_000_003;
    let key = format!("k{}", random % 997);
    let number = format!("(SELECT n FROM counter WHERE key = '{key}')");
    let publish = if random.is_multiple_of(3) {
        // Past every function.
        format!(
            "INSERT INTO fanfare_orders.log (source, type, id, key, attrs, data) SELECT 1, 1, \
             fanfare_orders.id_bytes(fanfare_orders.new_id()), '{key}', \
             fanfare_orders.attributes(2, NULL, NULL, 'text/plain', '{{\"partitionkey\": \"{key}\"}}'), \
             convert_to({number}::text, 'UTF8')"
        )
    } else {
        format!(
            "SELECT fanfare_orders.publish_text('orders.placed', {number}::text, key => '{key}')"
        )
    };
    let pause = f64::from(u32::try_from(random % 40).unwrap()) / 1_000.0;
    let end = if random.is_multiple_of(10) {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    format!(
        "BEGIN; UPDATE counter SET n = n + 1 WHERE key = '{key}'; {publish}; SELECT pg_sleep({pause}); {end}"
    )
}

async fn write(broker: &Broker, writer: usize, rounds: usize) {
    let client = sql(broker, "SELECT 1").await;
    for round in 0..rounds {
        client
            .batch_execute(&transaction(writer, round))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_skipped_and_no_key_loses_its_order() {
    let events = std::env::var("FANFARE_EVENTS").ok();
    let events: usize = events.map_or(20_000, |events| events.parse().unwrap());
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    publish(&backend, &event("0")).await.unwrap();
    let counter = "CREATE TABLE counter (key text PRIMARY KEY, n bigint NOT NULL); \
                   INSERT INTO counter SELECT 'k' || g, 0 FROM generate_series(0, 996) g";
    sql(&broker, counter).await;
    // Somebody else's, all the while.
    let stranger = "CREATE TABLE stranger (n int); BEGIN; INSERT INTO stranger VALUES (1)";
    let stranger = sql(&broker, stranger).await;
    let clock = Clock::system();
    let began = clock.now();
    let writing = async {
        let writers = (0..WRITERS).map(|writer| write(&broker, writer, events * 10 / 9 / WRITERS));
        futures::future::join_all(writers).await;
        let total = stranger.query_one("SELECT sum(n)::bigint FROM counter", &[]);
        total.await.unwrap().get::<_, i64>(0)
    };
    tokio::pin!(writing);
    let (mut last, mut came, mut total) = (BTreeMap::<String, i64>::new(), 0, None);
    let (mut news, mut longest) = (clock.now(), Duration::ZERO);
    while total != Some(came) {
        let received = tokio::select! {
            received = member.receive(1_000, Duration::from_millis(200)) => received.unwrap(),
            written = &mut writing, if total.is_none() => {
                total = Some(written);
                continue;
            }
        };
        let now = clock.now();
        if !received.is_empty() {
            longest = longest.max(now.since(news));
            news = now;
        }
        assert!(now.since(news) < STALL, "{came} came of {total:?}");
        for delivery in received.iter().filter(|d| d.event.key().is_some()) {
            let number: i64 = text_of(delivery).parse().unwrap();
            let before = last.insert(delivery.event.key().unwrap().into(), number);
            assert_eq!(
                number,
                before.unwrap_or(0) + 1,
                "{:?}",
                delivery.event.key()
            );
            came += 1;
        }
        let acks = received.iter().map(|d| (d.receipt, Settlement::Ack));
        member.settle(acks.collect()).await.unwrap();
    }
    let took = clock.now().since(began);
    println!("{came} events in {took:?}, longest silence {longest:?}");
    stranger.batch_execute("COMMIT").await.unwrap();
    let audited = backend.admin().audit(None).await.unwrap().remove(0);
    assert_eq!(audited.breaches, []);
    assert!(audited.counts.balanced(), "{:?}", audited.counts);
}
