//! What only this backend meets: a server that dies, stops or refuses, a connection that breaks, and
//! entries that others wrote.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::{Broker, Durability, Fault, Proxy, redis};
use fanfare_core::admin::Counts;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{DeadBody, DeadLetterFilter};
use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_redis::{RedisBackend, RedisConfig};

/// No call may take longer than this, whatever is broken.
const LIMIT: Duration = Duration::from_secs(8);

async fn server() -> Broker {
    Broker::start(redis(), Durability::Always).await.unwrap()
}

fn config(address: SocketAddr) -> RedisConfig {
    RedisConfig {
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        publish_timeout: Duration::from_secs(5),
        ..RedisConfig::new(format!("redis://{address}/"), "orders")
    }
}

async fn open(address: SocketAddr) -> Arc<RedisBackend> {
    RedisBackend::open(config(address)).await.unwrap()
}

fn events(count: usize) -> Vec<Event> {
    let event = |n: usize| {
        let event = Event::builder("orders.placed".parse().unwrap());
        event.data(Data::json(n.to_string())).build().unwrap()
    };
    (0..count).map(event).collect()
}

fn all() -> SubscriptionName {
    "all".parse().unwrap()
}

async fn subscribe(backend: &RedisBackend, lease: Duration) -> Arc<dyn Consumer> {
    let spec = SubscriptionSpec {
        start: Start::Earliest,
        lease,
        ..SubscriptionSpec::new(all(), PatternSet::parse(["**"]).unwrap())
    };
    backend.admin().put(&spec).await.unwrap();
    join(backend).await
}

async fn join(backend: &RedisBackend) -> Arc<dyn Consumer> {
    let member = Member {
        name: "native".into(),
        kind: MemberKind::Embedded,
    };
    backend.consume(&all(), member).await.unwrap()
}

async fn publish(backend: &RedisBackend, event: &Event) -> Result<Published> {
    let publishing = backend.publish(std::slice::from_ref(event));
    let answers = within(publishing).await?;
    answers.into_iter().next().unwrap()
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    let clock = Clock::system();
    tokio::select! {
        done = work => done,
        () = clock.sleep(LIMIT) => panic!("a call took longer than {LIMIT:?}"),
    }
}

/// Publishes again and again until the event is known to be there.
async fn publish_surely(backend: &RedisBackend, event: &Event) {
    let clock = Clock::system();
    while let Err(error) = publish(backend, event).await {
        let passing = matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Unavailable);
        assert!(passing, "{error:?}");
        clock.sleep(Duration::from_millis(20)).await;
    }
}

async fn ack(consumer: &Arc<dyn Consumer>, deliveries: &[Delivery]) -> Result<Vec<Settled>> {
    let acks = deliveries.iter().map(|d| (d.receipt, Settlement::Ack));
    within(consumer.settle(acks.collect())).await
}

/// Receives and acknowledges until every event was settled.
async fn drain(consumer: &Arc<dyn Consumer>, expected: &[Event]) {
    let mut left: BTreeSet<String> = expected.iter().map(|e| e.id().to_string()).collect();
    let clock = Clock::system();
    let until = clock.now() + Duration::from_secs(30);
    while !left.is_empty() {
        assert!(clock.now() < until, "{} events never came", left.len());
        let Ok(came) = within(consumer.receive(100, Duration::from_millis(300))).await else {
            clock.sleep(Duration::from_millis(20)).await;
            continue;
        };
        // An acknowledgement that got no answer may have counted: the delivery came all the same.
        let settled = ack(consumer, &came).await;
        for (n, delivery) in came.iter().enumerate() {
            let counted = settled
                .as_ref()
                .is_ok_and(|settled| settled[n] == Settled::Done);
            if counted || settled.is_err() {
                left.remove(&delivery.event.id().to_string());
            }
        }
    }
}

async fn counts(backend: &RedisBackend) -> Counts {
    let audited = backend.admin().audit(None).await.unwrap().remove(0);
    assert_eq!(audited.breaches, []);
    assert!(audited.counts.balanced(), "{:?}", audited.counts);
    audited.counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(2)).await;
    let events = events(200);
    let publishing = async {
        for event in &events {
            publish_surely(&backend, event).await;
        }
    };
    let killing = async {
        let clock = Clock::system();
        for _ in 0..4 {
            clock.sleep(Duration::from_millis(200)).await;
            broker.kill().unwrap();
            clock.sleep(Duration::from_millis(100)).await;
            broker.restart().await.unwrap();
        }
    };
    tokio::join!(publishing, killing, drain(&consumer, &events));
    assert_eq!(counts(&backend).await.published, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_are_replaced() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = open(proxy.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(2)).await;
    let events = events(100);
    let publishing = async {
        for event in &events {
            publish_surely(&backend, event).await;
        }
    };
    let breaking = async {
        let clock = Clock::system();
        for round in 0..12 {
            clock.sleep(Duration::from_millis(60)).await;
            match round % 4 {
                0 => proxy.cut(),
                1 => proxy.reset(),
                2 => proxy.set(Fault::BreakAfter(2_000)),
                _ => proxy.set(Fault::Delay(Duration::from_millis(10))),
            }
        }
        proxy.set(Fault::None);
    };
    tokio::join!(publishing, breaking, drain(&consumer, &events));
    assert_eq!(counts(&backend).await.published, 100);
}

#[tokio::test]
async fn a_publish_into_silence_is_unknown_and_repeating_it_is_safe() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = open(proxy.address()).await;
    let event = &events(1)[0];
    proxy.set(Fault::Blackhole);
    let error = publish(&backend, event).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    assert!(!within(backend.admin().health()).await.ok);
    proxy.set(Fault::None);
    proxy.reset();
    publish_surely(&backend, event).await;
    assert!(publish(&backend, event).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_stopped_server_holds_nobody_beyond_the_limits() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(2)).await;
    broker.pause().unwrap();
    let refused = publish(&backend, &events(1)[0]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unknown);
    assert!(
        within(consumer.receive(1, Duration::from_millis(100)))
            .await
            .is_err()
    );
    assert!(within(backend.admin().list()).await.is_err());
    broker.resume().unwrap();
    let events = events(3);
    for event in &events {
        publish_surely(&backend, event).await;
    }
    drain(&consumer, &events).await;
}

#[tokio::test]
async fn a_waiting_member_hears_at_once_that_a_key_is_free() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let spec = SubscriptionSpec {
        start: Start::Earliest,
        ordered: true,
        ..SubscriptionSpec::new(all(), PatternSet::parse(["**"]).unwrap())
    };
    backend.admin().put(&spec).await.unwrap();
    let consumer = join(&backend).await;
    for event in events(20) {
        let event = event.to_builder().key("a").build().unwrap();
        publish_surely(&backend, &event).await;
    }
    let wait = Duration::from_secs(2);
    let mut came = within(consumer.receive(1, wait)).await.unwrap();
    let handling = async {
        for _ in 1..20 {
            // The next one is waited for before the key is free.
            let (next, acked) = tokio::join!(consumer.receive(1, wait), ack(&consumer, &came));
            assert_eq!(acked.unwrap(), [Settled::Done]);
            came = next.unwrap();
        }
    };
    // Twenty waits that run out take much longer.
    within(handling).await;
    assert_eq!(came.len(), 1);
}

#[tokio::test]
async fn another_process_takes_over_within_the_lease() {
    let broker = server().await;
    let (dying, heir) = (open(broker.address()).await, open(broker.address()).await);
    let lease = Duration::from_millis(400);
    let consumer = subscribe(&dying, lease).await;
    let events = events(5);
    for event in &events {
        publish_surely(&dying, event).await;
    }
    let held = within(consumer.receive(10, Duration::from_secs(1)))
        .await
        .unwrap();
    assert!(!held.is_empty());
    // Never settled, never extended, never closed: as if its process had died.
    drain(&join(&heir).await, &events).await;
    let late = ack(&consumer, &held).await.unwrap();
    assert!(
        late.iter().all(|settled| *settled != Settled::Done),
        "{late:?}"
    );
    assert_eq!(counts(&heir).await.acknowledged, 5);
}

#[tokio::test]
async fn an_entry_that_is_no_frame_becomes_a_dead_letter() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    command(&broker, &["XADD", "orders", "*", "f", "no frame"]).await;
    let events = events(1);
    publish_surely(&backend, &events[0]).await;
    drain(&consumer, &events).await;
    let everything = DeadLetterFilter::default();
    let page = backend
        .dead_letters()
        .list(&everything, None, 10)
        .await
        .unwrap();
    assert_eq!(page.items.len(), 1);
    let letter = &page.items[0];
    assert_eq!(letter.reason, "undecodable");
    assert!(matches!(&letter.body, DeadBody::Raw(bytes) if bytes == "no frame"));
    let counts = counts(&backend).await;
    assert_eq!((counts.published, counts.dead), (2, 1));
}

#[tokio::test]
async fn later_events_come_after_the_stream_was_deleted() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    let before = events(3);
    for event in &before {
        publish_surely(&backend, event).await;
    }
    drain(&consumer, &before).await;
    command(&broker, &["DEL", "orders"]).await;
    let after = events(3);
    for event in &after {
        publish_surely(&backend, event).await;
    }
    drain(&consumer, &after).await;
}

/// One command, by a client of its own.
async fn command(broker: &Broker, words: &[&str]) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(broker.address())
        .await
        .unwrap();
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        write!(text, "${}\r\n{word}\r\n", word.len()).unwrap();
    }
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).await.unwrap();
    assert_ne!(
        answer[0],
        b'-',
        "{}",
        String::from_utf8_lossy(&answer[..read])
    );
}

async fn refused(config: RedisConfig) -> Error {
    match within(RedisBackend::open(config)).await {
        Ok(_) => panic!("a connection that must be refused was not"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn what_the_server_refuses_says_why() {
    let broker = server().await;
    let address = broker.address();
    let url = |text: String| RedisConfig {
        url: text,
        ..config(address)
    };
    let error = refused(url(format!("redis://{address}/99"))).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = refused(url("http://nowhere".into())).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = refused(url("redis://127.0.0.1:1/".into())).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

    let limited = [
        "ACL", "SETUSER", "ada", "on", ">secret", "~*", "+@all", "-evalsha", "-eval",
    ];
    command(&broker, &limited).await;
    let error = refused(url(format!("redis://ada:wrong@{address}/"))).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    let backend = RedisBackend::open(url(format!("redis://ada:secret@{address}/")));
    let error = publish(&backend.await.unwrap(), &events(1)[0])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");

    let backend = open(address).await;
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    let kept = events(10);
    for event in &kept {
        publish_surely(&backend, event).await;
    }
    command(&broker, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = publish(&backend, &events(1)[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    // What is there is still delivered and settled.
    drain(&consumer, &kept).await;
    command(&broker, &["CONFIG", "SET", "maxmemory", "0"]).await;
    command(&broker, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = publish(&backend, &events(1)[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    command(&broker, &["REPLICAOF", "NO", "ONE"]).await;
    publish_surely(&backend, &events(1)[0]).await;

    command(&broker, &["CONFIG", "SET", "requirepass", "secret"]).await;
    let error = refused(config(address)).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
}

#[tokio::test]
async fn a_server_that_is_too_old_is_named() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4_096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
            let mut answer = "+OK\r\n".repeat(asked.matches("SETINFO").count());
            let version = "$21\r\nredis_version:5.0.14\n\r\n";
            answer.push_str(&version.repeat(asked.matches("server").count()));
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let error = refused(config(address)).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("5.0.14"), "{error}");
}

#[tokio::test]
async fn a_full_stream_forgets_what_is_settled_and_its_books_balance() {
    let broker = server().await;
    let config = RedisConfig {
        max_bytes: 64 << 10,
        ..config(broker.address())
    };
    let backend = RedisBackend::open(config).await.unwrap();
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    for _ in 0..20 {
        let mut events = events(10);
        for event in &mut events {
            *event = event
                .to_builder()
                .data(Data::binary(vec![7; 1_000]))
                .build()
                .unwrap();
            publish_surely(&backend, event).await;
        }
        drain(&consumer, &events).await;
    }
    let counts = counts(&backend).await;
    assert_eq!((counts.published, counts.acknowledged), (200, 200));
    let stats = backend.admin().stats().await.unwrap();
    assert!(stats.bytes <= 64 << 10 && stats.events < 70, "{stats:?}");
}
