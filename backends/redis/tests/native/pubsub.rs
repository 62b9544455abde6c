//! The mode that loses: what services on Pub/Sub channels write and read, what is told when events
//! may be gone, and where dead letters stay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::{Broker, Fault, Proxy};
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::dead_letter::{DeadBody, DeadLetterFilter, Selection};
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::error::ErrorKind;
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{OnDead, Start, SubscriptionName, SubscriptionSpec};
use fanfare_redis::{EntryForm, Form, PubSubConfig, RedisConfig, RedisPubSub};
use futures::StreamExt;
use serde_json::Value;

use super::stage::{ack, command, config, events, server, within};
use super::tls::speaks_tls;

/// What a chat service publishes, as it publishes it.
const THEIRS: &str = concat!(
    r#"{"id":"0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a","event_type":"ChatCreated","#,
    r#""aggregate_id":"chat-1","aggregate_type":"Chat","occurred_at":"2026-11-20T10:00:00Z","#,
    r#""version":1,"metadata":{"user_id":"u-1","correlation_id":"c-1","causation_id":"k-1","#,
    r#""timestamp":"2026-11-20T10:00:00.000001Z","ip_address":"192.0.2.1","#,
    r#""user_agent":"Mozilla/5.0 (X11)"},"payload":{"title":"Größe \u00e9","participants":["u-1"]}}"#
);

fn spec(name: &str, patterns: &[&str]) -> SubscriptionSpec {
    let name: SubscriptionName = name.parse().unwrap();
    SubscriptionSpec::new(name, PatternSet::parse(patterns.iter().copied()).unwrap())
}

async fn listen(backend: &RedisPubSub, name: &str, patterns: &[&str]) -> Arc<dyn Consumer> {
    let spec = spec(name, patterns);
    within(backend.admin().put(&spec)).await.unwrap();
    let member = Member {
        name: "native".into(),
        kind: MemberKind::Embedded,
    };
    backend.consume(&spec.name, member).await.unwrap()
}

async fn ours(address: SocketAddr) -> Arc<RedisPubSub> {
    let config = PubSubConfig::new(config(address));
    RedisPubSub::open(config).await.unwrap()
}

/// On the channels of a chat service.
async fn chats(broker: &Broker, prefix: &str) -> Arc<RedisPubSub> {
    let server = RedisConfig {
        stream: prefix.into(),
        form: Form::Entries(EntryForm::preset("notifications").unwrap()),
        ..config(broker.address())
    };
    RedisPubSub::open(PubSubConfig::new(server)).await.unwrap()
}

async fn one(consumer: &Arc<dyn Consumer>) -> Delivery {
    let came = within(consumer.receive(1, Duration::from_secs(6))).await;
    came.unwrap().pop().expect("a delivery")
}

async fn losses(backend: &RedisPubSub) -> u64 {
    backend.admin().stats().await.unwrap().losses
}

/// How many subscriptions Redis says it has.
async fn listeners(broker: &Broker) -> usize {
    let listed = command(broker, &["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    let text: String = redis::from_redis_value(listed).unwrap();
    text.lines().count()
}

async fn all_letters(backend: &RedisPubSub) -> usize {
    let everything = Selection::Filter(DeadLetterFilter::default());
    let count = backend.dead_letters().count(&everything).await.unwrap();
    usize::try_from(count).unwrap()
}

#[tokio::test]
async fn what_existing_publishers_shout_is_delivered_untouched_under_either_prefix() {
    let broker = server().await;
    for prefix in ["events.", "events:"] {
        let backend = chats(&broker, prefix).await;
        let consumer = listen(&backend, "notifier", &["ChatCreated", "UserAssigned"]).await;
        let heard = command(
            &broker,
            &["PUBLISH", &format!("{prefix}ChatCreated"), THEIRS],
        )
        .await;
        assert_eq!(heard, redis::Value::Int(1));
        let delivery = one(&consumer).await;
        assert_eq!(delivery.event.event_type().as_str(), "ChatCreated");
        assert_eq!(delivery.event.key(), Some("chat-1"));
        let payload = std::str::from_utf8(delivery.event.bytes()).unwrap();
        assert!(THEIRS.ends_with(&format!(r#""payload":{payload}}}"#)));
        ack(&consumer, &[delivery]).await.unwrap();
        backend.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_we_publish_is_what_existing_subscribers_expect() {
    let broker = server().await;
    let backend = chats(&broker, "events.").await;
    let consumer = listen(&backend, "notifier", &["**"]).await;
    let client = redis::Client::open(broker.url()).unwrap();
    let mut theirs = client.get_async_pubsub().await.unwrap();
    command(&broker, &["PUBLISH", "events.ChatCreated", THEIRS]).await;
    let event = one(&consumer).await.event;
    theirs.subscribe("events.ChatCreated").await.unwrap();
    backend.publish(&[event]).await.unwrap().remove(0).unwrap();
    let message = within(theirs.on_message().next()).await.unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), THEIRS);

    let poor = backend.publish(&events(1)).await.unwrap().remove(0);
    assert_eq!(poor.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_message_that_is_no_event_becomes_a_dead_letter() {
    let broker = server().await;
    let backend = chats(&broker, "events.").await;
    let consumer = listen(&backend, "notifier", &["**"]).await;
    command(&broker, &["PUBLISH", "events.ChatCreated", "{\"id\":"]).await;
    // Whoever publishes on one channel what belongs on another is not believed.
    command(&broker, &["PUBLISH", "events.ChatDeleted", THEIRS]).await;
    command(&broker, &["PUBLISH", "events.ChatCreated", THEIRS]).await;
    let delivery = one(&consumer).await;
    ack(&consumer, &[delivery]).await.unwrap();
    let everything = DeadLetterFilter::default();
    let letters = backend.dead_letters().list(&everything, None, 10).await;
    let letters = letters.unwrap().items;
    let raw = letters.iter().map(|letter| match &letter.body {
        DeadBody::Raw(bytes) => std::str::from_utf8(bytes).unwrap(),
        DeadBody::Event(_) => "an event",
    });
    assert_eq!(raw.collect::<Vec<_>>(), ["{\"id\":", THEIRS]);
    assert!(letters.iter().all(|letter| letter.reason == "undecodable"));
}

#[tokio::test]
async fn dead_letters_stand_newest_first_in_their_list_and_outlive_the_process() {
    let broker = server().await;
    let backend = chats(&broker, "events.").await;
    let consumer = listen(&backend, "notifier", &["ChatCreated"]).await;
    for error in ["first", "second"] {
        command(&broker, &["PUBLISH", "events.ChatCreated", THEIRS]).await;
        let delivery = one(&consumer).await;
        let settlement = Settlement::DeadLetter {
            reason: "max_attempts".into(),
            error: error.into(),
        };
        let settled = consumer.settle(vec![(delivery.receipt, settlement)]);
        within(settled).await.unwrap();
    }
    let listed = command(&broker, &["LRANGE", "dlq:events", "0", "9"]).await;
    let items: Vec<String> = redis::from_redis_value(listed).unwrap();
    let newest: Value = serde_json::from_str(&items[0]).unwrap();
    assert_eq!(newest["error"], "second");
    assert_eq!(newest["handler"], "notifier");
    assert_eq!(newest["attempts"], 1);
    assert!(newest["id"].is_string() && newest["timestamp"].is_string());
    assert!(items[0].contains(&format!(r#""event":{THEIRS}"#)));
    backend.close().await.unwrap();

    let backend = chats(&broker, "events.").await;
    let everything = Selection::Filter(DeadLetterFilter::default());
    let nobody = backend.dead_letters().redrive(&everything, 10).await;
    assert_eq!(nobody.unwrap().done, 0, "its subscription is not here");
    let consumer = listen(&backend, "notifier", &["ChatCreated"]).await;
    let other = chats(&broker, "events.").await;
    let elsewhere = listen(&other, "notifier", &["ChatCreated"]).await;
    let (here, there) = futures::join!(
        backend.dead_letters().redrive(&everything, 10),
        other.dead_letters().redrive(&everything, 10),
    );
    assert_eq!(here.unwrap().done + there.unwrap().done, 2);
    let mut came = 0;
    for consumer in [&consumer, &elsewhere] {
        let some = within(consumer.receive(10, Duration::ZERO)).await.unwrap();
        assert!(some.iter().all(|delivery| delivery.attempt == 1));
        came += some.len();
    }
    assert_eq!((came, all_letters(&backend).await), (2, 0));
}

#[tokio::test]
async fn a_letter_that_others_wrote_is_listed_and_can_be_discarded() {
    let broker = server().await;
    let backend = chats(&broker, "events.").await;
    let item = format!(
        r#"{{"event":{THEIRS},"error":"smtp is down","timestamp":"2026-11-20T10:00:05Z"}}"#
    );
    command(&broker, &["LPUSH", "dlq:events", &item]).await;
    let everything = DeadLetterFilter::default();
    let listed = backend.dead_letters().list(&everything, None, 10).await;
    let letter = listed.unwrap().items.remove(0);
    assert_eq!(letter.error, "smtp is down");
    assert_eq!(letter.body.event().and_then(Event::key), Some("chat-1"));
    let meant = Selection::Ids(vec![letter.id]);
    let discarded = backend.dead_letters().discard(&meant).await.unwrap();
    assert_eq!((discarded.done, all_letters(&backend).await), (1, 0));
}

#[tokio::test]
async fn each_process_gets_each_event_and_an_unheard_one_is_counted() {
    let broker = server().await;
    let (here, there) = (ours(broker.address()).await, ours(broker.address()).await);
    let [first, second] = events(2).try_into().unwrap();
    here.publish(&[first]).await.unwrap().remove(0).unwrap();
    assert_eq!((here.unheard(), there.unheard()), (1, 0));
    let consumers = [
        listen(&here, "all", &["orders.*"]).await,
        listen(&there, "all", &["orders.*"]).await,
    ];
    here.publish(std::slice::from_ref(&second)).await.unwrap();
    for consumer in &consumers {
        assert_eq!(one(consumer).await.event.id(), second.id());
    }
    assert_eq!(here.unheard(), 1);
}

#[tokio::test]
async fn a_broken_line_is_made_again_and_told_once() {
    let broker = server().await;
    let backend = ours(broker.address()).await;
    let consumer = listen(&backend, "all", &["orders.*"]).await;
    for gaps in 1..=3 {
        if gaps == 3 {
            broker.kill().unwrap();
            within(broker.restart()).await.unwrap();
        } else {
            command(&broker, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        }
        // Events of the gap are lost: one that is heard again ends it.
        let heard = loop {
            if let Err(error) = within(backend.publish(&events(1))).await {
                let passing = [ErrorKind::Unknown, ErrorKind::Unavailable];
                assert!(passing.contains(&error.kind()), "{error:?}");
            }
            let wait = Duration::from_millis(50);
            let came = within(consumer.receive(10, wait)).await.unwrap();
            if !came.is_empty() {
                break came;
            }
        };
        ack(&consumer, &heard).await.unwrap();
        assert_eq!(losses(&backend).await, gaps);
        assert!(backend.admin().health().await.ok);
    }
}

#[tokio::test]
async fn a_line_into_nothing_is_noticed_without_an_event() {
    /// Longer than a line may be silent, and than its answer may take.
    const PATIENCE: Duration = Duration::from_secs(30);
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = ours(proxy.address()).await;
    let consumer = listen(&backend, "all", &["**"]).await;
    proxy.set(Fault::Blackhole);
    let clock = Clock::system();
    let noticed = async {
        while !backend
            .admin()
            .health()
            .await
            .detail
            .contains("hear nothing")
        {
            tokio::task::yield_now().await;
        }
        proxy.set(Fault::None);
        while losses(&backend).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = noticed => {}
        () = clock.sleep(PATIENCE) => panic!("nobody noticed"),
    }
    let sent = events(1);
    ours(broker.address()).await.publish(&sent).await.unwrap();
    assert_eq!(one(&consumer).await.event.id(), sent[0].id());
    assert_eq!(losses(&backend).await, 1);
}

/// Nothing is read beyond the bound: the rest waits in the socket, then in the server, which ends
/// the connection. What was taken is delivered, the loss is told, and later events come.
#[tokio::test]
async fn a_subscriber_too_slow_is_cut_off_and_told() {
    const BOUND: usize = 10;
    let broker = server().await;
    let limit = [
        "CONFIG",
        "SET",
        "client-output-buffer-limit",
        "pubsub 1mb 1mb 1",
    ];
    command(&broker, &limit).await;
    let bounded = PubSubConfig {
        queue_events: BOUND,
        ..PubSubConfig::new(config(broker.address()))
    };
    let backend = RedisPubSub::open(bounded).await.unwrap();
    let consumer = listen(&backend, "all", &["**"]).await;
    let quick = ours(broker.address()).await;
    let others = listen(&quick, "quick", &["orders.placed"]).await;
    let large = Event::builder("orders.placed".parse().unwrap());
    let large = large.data(fanfare_core::data::Data::binary(vec![7; 400_000]));
    let large = large.build().unwrap();
    let mut published = 0;
    while listeners(&broker).await == 2 {
        quick.publish(std::slice::from_ref(&large)).await.unwrap();
        published += 1;
        assert!(published < 1_000, "redis never lost its patience");
        let delivery = one(&others).await;
        ack(&others, &[delivery]).await.unwrap();
        assert!(backend.admin().stats().await.unwrap().events <= BOUND as u64);
    }
    let mut came = 0;
    while losses(&backend).await == 0 {
        let some = within(consumer.receive(10, Duration::from_millis(50))).await;
        let some = some.unwrap();
        ack(&consumer, &some).await.unwrap();
        came += some.len();
    }
    assert!(came < published, "{came} of {published} came");
    assert_eq!((losses(&backend).await, losses(&quick).await), (1, 0));
    let later = events(1);
    quick.publish(&later).await.unwrap();
    assert_eq!(one(&consumer).await.event.id(), later[0].id());
}

#[tokio::test]
async fn what_the_mode_cannot_do_is_refused() {
    let broker = server().await;
    let backend = ours(broker.address()).await;
    let early = SubscriptionSpec {
        start: Start::Earliest,
        ..spec("early", &["**"])
    };
    let parking = SubscriptionSpec {
        ordered: true,
        on_dead: OnDead::Park,
        ..spec("parking", &["**"])
    };
    for wanted in [early, parking] {
        let refused = backend.admin().put(&wanted).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    }
    assert!(backend.history().is_err());
    let audit = backend.admin().audit(None).await.unwrap_err();
    assert_eq!(audit.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_line_speaks_tls_too() {
    let broker = server().await;
    let port = speaks_tls(&broker).await;
    let server = RedisConfig {
        url: format!("rediss://localhost:{port}/"),
        tls_ca: Some(broker.dir().join("ca.crt")),
        ..config(broker.address())
    };
    let backend = RedisPubSub::open(PubSubConfig::new(server)).await.unwrap();
    let consumer = listen(&backend, "all", &["**"]).await;
    let sent = events(1);
    backend.publish(&sent).await.unwrap();
    assert_eq!(one(&consumer).await.event.id(), sent[0].id());
}
