//! What only a real rabbitmq-server shows: its refusals, processes that die of an event, and a broker
//! that takes nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::{Arc, Weak};
use std::time::Duration;

use fanfare_amqp::{AmqpBackend, AmqpConfig};
use fanfare_conformance::broker::{Broker, Durability, rabbitmq};
use fanfare_core::advice::Weight;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::codec::WireForm;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::data::Data;
use fanfare_core::dead_letter::DeadLetterFilter;
use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::error::ErrorKind;
use fanfare_core::event::Event;
use fanfare_core::id::EventId;
use fanfare_core::pattern::PatternSet;
use fanfare_core::retry::RetryPolicy;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use lapin::options::{
    BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::runtime::Builder;

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_millis(500);

/// One server for all tests that run at the same time.
async fn broker() -> Arc<Broker> {
    static SHARED: tokio::sync::Mutex<Weak<Broker>> = tokio::sync::Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(broker) = shared.upgrade() {
        return broker;
    }
    let started = Broker::start(rabbitmq(), Durability::Periodic).await;
    let broker = Arc::new(started.unwrap());
    *shared = Arc::downgrade(&broker);
    broker
}

fn config(broker: &Broker, stream: &str) -> AmqpConfig {
    AmqpConfig::new(broker.url(), stream)
}

/// A channel of nobody's, for what others may do. It lives as long as its connection.
async fn stranger(broker: &Broker) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&broker.url(), properties)
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

fn name() -> SubscriptionName {
    SubscriptionName::parse("all").unwrap()
}

fn spec(attempts: u32) -> SubscriptionSpec {
    let patterns = PatternSet::parse(["**"]).unwrap();
    SubscriptionSpec {
        start: Start::Earliest,
        lease: LEASE,
        retry: RetryPolicy::exponential(attempts),
        ..SubscriptionSpec::new(name(), patterns)
    }
}

fn events(count: usize) -> Vec<Event> {
    let event = |_| Event::builder("orders.placed".parse().unwrap()).build();
    (0..count).map(|n| event(n).unwrap()).collect()
}

async fn join(backend: &AmqpBackend) -> Arc<dyn Consumer> {
    let member = Member {
        name: "test".into(),
        kind: MemberKind::Embedded,
    };
    backend.consume(&name(), member).await.unwrap()
}

async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let until = Clock::system().now() + PATIENCE;
    let mut came = Vec::new();
    while came.len() < count {
        assert!(
            Clock::system().now() < until,
            "{} of {count} came",
            came.len()
        );
        let more = consumer.receive(count - came.len(), Duration::from_secs(1));
        came.extend(more.await.unwrap());
    }
    came
}

async fn refusal(config: AmqpConfig) -> ErrorKind {
    let opened = AmqpBackend::open(config).await;
    opened.map(drop).unwrap_err().kind()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_address_is_told_by_its_kind() {
    let broker = broker().await;
    let at = |user: &str, host: &str| {
        let url = format!("amqp://{user}@{}/{host}", broker.address());
        AmqpConfig::new(url, "refused")
    };
    let wrong_password = refusal(at("guest:wrong", "%2f")).await;
    assert_eq!(wrong_password, ErrorKind::Unauthorized);
    let wrong_host = refusal(at("guest:guest", "nowhere")).await;
    assert_eq!(wrong_host, ErrorKind::Forbidden);

    let (_connection, channel) = stranger(&broker).await;
    let (options, table) = (ExchangeDeclareOptions::default(), FieldTable::default());
    let theirs = channel.exchange_declare("theirs".into(), ExchangeKind::Fanout, options, table);
    theirs.await.unwrap();
    let declared_otherwise = refusal(config(&broker, "theirs")).await;
    assert_eq!(declared_otherwise, ErrorKind::Conflict);

    // Nobody listens on the port of discard.
    let unreachable = AmqpConfig::new("amqp://guest:guest@127.0.0.1:9/%2f", "refused");
    assert_eq!(refusal(unreachable).await, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_wanted_is_kept_for_a_later_subscription() {
    let broker = broker().await;
    let backend = AmqpBackend::open(config(&broker, "later")).await.unwrap();
    for answer in backend.publish(&events(3)).await.unwrap() {
        answer.unwrap();
    }
    backend.admin().put(&spec(3)).await.unwrap();
    let consumer = join(&backend).await;
    take(&consumer, 3).await;
    backend.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_under_us_is_made_again_and_its_loss_told_once() {
    let broker = broker().await;
    let open = || AmqpBackend::open(config(&broker, "deleted"));
    let (one, other) = (open().await.unwrap(), open().await.unwrap());
    one.admin().put(&spec(3)).await.unwrap();
    let (here, there) = (join(&one).await, join(&other).await);
    let (_connection, channel) = stranger(&broker).await;
    let options = QueueDeleteOptions::default();
    let deleted = channel.queue_delete("deleted.s.all".into(), options);
    deleted.await.unwrap();
    let until = Clock::system().now() + PATIENCE;
    while one.admin().stats().await.unwrap().losses == 0 {
        assert!(Clock::system().now() < until, "the loss was not told");
        // A member that waits is what notices.
        let _ = here.receive(1, Duration::from_millis(50)).await;
    }
    one.publish(&events(1)).await.unwrap();
    let came = futures::future::select_all([take(&here, 1), take(&there, 1)].map(Box::pin));
    assert_eq!(came.await.0.len(), 1);
    assert_eq!(other.admin().stats().await.unwrap().losses, 1);

    // Where somebody meant it, its members are told.
    one.admin().delete(&name(), true).await.unwrap();
    let told = async {
        loop {
            if let Err(error) = there.receive(1, Duration::from_millis(50)).await {
                return error.kind();
            }
        }
    };
    let clock = Clock::system();
    tokio::select! {
        kind = told => assert_eq!(kind, ErrorKind::NotFound),
        () = clock.sleep(PATIENCE) => panic!("a member of a deleted subscription waits"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_removed_with_all_its_queues_and_no_other() {
    let broker = broker().await;
    let config = config(&broker, "removed");
    let open = |stream: &str| AmqpBackend::open(AmqpConfig::new(broker.url(), stream));
    let (gone, stays) = (open("removed").await.unwrap(), open("removed2").await);
    stays.as_ref().unwrap().admin().put(&spec(3)).await.unwrap();
    gone.admin().put(&spec(3)).await.unwrap();
    gone.publish(&events(2)).await.unwrap();
    let consumer = join(&gone).await;
    let (after, error) = (Duration::from_millis(1_100), String::new());
    let reason = "rejected".to_owned();
    let ends = [
        Settlement::Retry {
            after,
            error: error.clone(),
        },
        Settlement::DeadLetter { reason, error },
    ];
    for with in ends {
        let came = take(&consumer, 1).await.remove(0);
        consumer.settle(vec![(came.receipt, with)]).await.unwrap();
    }
    gone.close().await.unwrap();
    let there = async |queue: &str| {
        let (connection, channel) = stranger(&broker).await;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let table = FieldTable::default();
        let asked = channel.queue_declare(queue.into(), options, table).await;
        drop(connection);
        asked.is_ok()
    };
    let queues = [
        "s.all",
        "q.all",
        "d.all.1300",
        "dead.all",
        "book",
        "state",
        "unrouted",
        "written",
    ];
    for queue in queues {
        assert!(there(&format!("removed.{queue}")).await, "{queue} before");
    }
    for _ in 0..2 {
        AmqpBackend::remove(config.clone()).await.unwrap();
        for queue in queues {
            assert!(!there(&format!("removed.{queue}")).await, "{queue} after");
        }
    }
    assert!(there("removed2.s.all").await);
    stays.unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_asks_for_long_hears_no_refusal_of_long_ago() {
    let broker = broker().await;
    // That it was not there yet was answered, and closed a channel.
    let backend = AmqpBackend::open(config(&broker, "long")).await.unwrap();
    backend.admin().put(&spec(3)).await.unwrap();
    let consumer = join(&backend).await;
    // Each opens channels of its own; the server numbers 2,047.
    for n in 0..1_100 {
        let value = backend.state().get("key").await;
        assert!(value.is_ok(), "{n}: {value:?}");
    }
    // Members stay on the connection they have.
    backend.publish(&events(1)).await.unwrap();
    let came = take(&consumer, 1).await.remove(0);
    let done = vec![(came.receipt, Settlement::Ack)];
    assert_eq!(consumer.settle(done).await.unwrap(), [Settled::Done]);
    backend.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_retries_as_late_as_it_likes() {
    let broker = broker().await;
    let backend = AmqpBackend::open(config(&broker, "live")).await.unwrap();
    let spec = SubscriptionSpec {
        ephemeral: true,
        start: Start::Latest,
        ..spec(3)
    };
    backend.admin().put(&spec).await.unwrap();
    let consumer = join(&backend).await;
    backend.publish(&events(1)).await.unwrap();
    let came = take(&consumer, 1).await.remove(0);
    let (after, error) = (Duration::from_millis(1_100), String::new());
    let retry = Settlement::Retry { after, error };
    let settled = consumer.settle(vec![(came.receipt, retry)]).await.unwrap();
    assert_eq!(settled, [Settled::Done]);
    assert_eq!(take(&consumer, 1).await.remove(0).attempt, 2);
    backend.close().await.unwrap();
}

/// The exchange of a service, its mail queue, and one where everything is seen; and us beside it.
async fn mailer(broker: &Broker, channel: &Channel) -> Arc<AmqpBackend> {
    let (options, table) = (ExchangeDeclareOptions::default(), FieldTable::default());
    let kind = ExchangeKind::Topic;
    let declared = channel.exchange_declare("smap.events".into(), kind, options, table);
    declared.await.unwrap();
    for (queue, key) in [("smtp_send_email_v2", "email.#"), ("seen", "#")] {
        let (options, table) = (QueueDeclareOptions::default(), FieldTable::default());
        let declared = channel.queue_declare(queue.into(), options, table);
        declared.await.unwrap();
        let (options, table) = (QueueBindOptions::default(), FieldTable::default());
        let exchange = "smap.events".into();
        let bound = channel.queue_bind(queue.into(), exchange, key.into(), options, table);
        bound.await.unwrap();
    }
    let config = AmqpConfig {
        exchange: Some("smap.events".into()),
        queue: Some((name(), "smtp_send_email_v2".into())),
        form: WireForm::by_name("identity-mail"),
        ..config(broker, "mail")
    };
    let backend = AmqpBackend::open(config).await.unwrap();
    backend.admin().put(&spec(3)).await.unwrap();
    backend
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exchange_and_the_queue_of_others_are_used_as_they_are() {
    let broker = broker().await;
    let (_connection, channel) = stranger(&broker).await;
    let backend = mailer(&broker, &channel).await;
    let consumer = join(&backend).await;

    let theirs =
        br#"{"event_id":"e-1","timestamp":"2026-01-02T03:04:05Z","payload":{"data":{"to":"a"}}}"#;
    let (options, properties) = Default::default();
    let key = "email.verification.requested".into();
    let sent = channel.basic_publish("smap.events".into(), key, options, theirs, properties);
    sent.await.unwrap();
    let came = take(&consumer, 1).await.remove(0);
    assert_eq!(came.event.id().to_string(), "e-1");
    let kind = came.event.event_type().as_str();
    assert_eq!(kind, "email.verification.requested");
    assert_eq!(came.event.bytes(), br#"{"to":"a"}"#);
    // Its retry comes back in a form of ours, which tells the attempts.
    let (after, error) = (Duration::from_millis(1_100), String::new());
    let retry = Settlement::Retry { after, error };
    consumer.settle(vec![(came.receipt, retry)]).await.unwrap();
    let again = take(&consumer, 1).await.remove(0);
    assert_eq!((again.attempt, again.event.id()), (2, came.event.id()));
    let done = vec![(again.receipt, Settlement::Ack)];
    consumer.settle(done).await.unwrap();

    let data = Data::json(br#"{"ok":true}"#.to_vec());
    let ours = Event::builder("email.sent".parse().unwrap()).data(data);
    let ours = [ours.time(Clock::system().now()).build().unwrap()];
    for answer in backend.publish(&ours).await.unwrap() {
        answer.unwrap();
    }
    let seen = async || {
        let options = BasicGetOptions { no_ack: true };
        let got = channel.basic_get("seen".into(), options).await;
        got.unwrap().unwrap().delivery.data
    };
    assert_eq!(seen().await, theirs);
    let body: serde_json::Value = serde_json::from_slice(&seen().await).unwrap();
    assert_eq!(body["payload"]["data"]["ok"], true);
    take(&consumer, 1).await;
    backend.close().await.unwrap();
}

/// A process that dies of an event: nothing is closed, nothing beats any more.
struct Death {
    /// The attempt that it died in.
    attempt: u32,
    /// What was in its hands besides.
    beside: usize,
    /// The attempts of what it had acknowledged before.
    handled: Vec<u32>,
}

/// Runs what comes, `max` at a time, until the event named comes.
async fn die_of(poison: EventId, config: AmqpConfig, max: usize) -> Death {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let living = runtime.spawn(async move {
        let backend = AmqpBackend::open(config).await.unwrap();
        let consumer = join(&backend).await;
        let mut handled = Vec::new();
        loop {
            let came = take(&consumer, max).await;
            let more = consumer.receive(10, Duration::ZERO).await.unwrap();
            let deadly = came.iter().find(|one| *one.event.id() == poison);
            if let Some(deadly) = deadly {
                let attempt = deadly.attempt;
                let beside = came.len() + more.len() - 1;
                return (
                    backend,
                    consumer,
                    Death {
                        attempt,
                        beside,
                        handled,
                    },
                );
            }
            handled.extend(came.iter().map(|one| one.attempt));
            let all = came.iter().map(|one| (one.receipt, Settlement::Ack));
            consumer.settle(all.collect()).await.unwrap();
        }
    });
    let (_backend, _consumer, death) = living.await.unwrap();
    runtime.shutdown_background();
    death
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_its_processes_is_given_up_and_its_neighbours_are_not_charged() {
    let broker = broker().await;
    let config = config(&broker, "poison");
    let backend = AmqpBackend::open(config.clone()).await.unwrap();
    backend.admin().put(&spec(2)).await.unwrap();
    let published = events(3);
    backend.publish(&published).await.unwrap();
    let poison = published.first().unwrap().id();

    // The first had all three in hand. Whoever comes next gets one at a time.
    let first = die_of(poison.clone(), config.clone(), 3).await;
    assert_eq!((first.attempt, first.beside), (1, 2));
    let mut handled = Vec::new();
    for attempt in 1..=2 {
        let death = die_of(poison.clone(), config.clone(), 1).await;
        assert_eq!((death.attempt, death.beside), (attempt, 0));
        handled.extend(death.handled);
    }
    assert_eq!(handled, [1, 1], "attempts of its neighbours");

    let last = join(&backend).await;
    let letters = backend.dead_letters();
    let until = Clock::system().now() + PATIENCE;
    let letter = loop {
        assert!(Clock::system().now() < until, "it was not given up");
        let came = last.receive(10, Duration::from_millis(100)).await.unwrap();
        assert!(came.is_empty(), "it came again after its attempts");
        let listed = letters.list(&DeadLetterFilter::default(), None, 10).await;
        if let Some(letter) = listed.unwrap().items.pop() {
            break letter;
        }
    };
    let given_up = letter.body.event().map(Event::id);
    assert_eq!(given_up, Some(poison));
    assert_eq!(
        (letter.attempts, letter.reason.as_str()),
        (2, "max_attempts")
    );
    backend.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_low_on_disk_is_told_from_one_that_is_not_there() {
    let broker = Broker::start(rabbitmq(), Durability::Periodic)
        .await
        .unwrap();
    let config = AmqpConfig {
        publish_timeout: Duration::from_secs(2),
        ..config(&broker, "alarm")
    };
    let backend = AmqpBackend::open(config).await.unwrap();
    backend.admin().put(&spec(3)).await.unwrap();
    let settings = broker.dir().join("rabbitmq.conf");
    std::fs::write(&settings, "disk_free_limit.absolute = 1000000GB\n").unwrap();
    broker.restart().await.unwrap();

    // It blocks a connection when something is published over it, and hears nothing from then on.
    let until = Clock::system().now() + PATIENCE;
    let blocked = loop {
        assert!(Clock::system().now() < until, "it was not told");
        let published = backend.publish(&events(1)).await;
        if let Err(error) = published
            && error.to_string().contains("low on memory or disk")
            && error.kind() == ErrorKind::Unavailable
        {
            break error;
        }
    };
    assert!(blocked.to_string().contains("list_alarms"), "{blocked}");
    let health = backend.admin().health().await;
    assert!(!health.ok && health.detail.contains("low on"), "{health:?}");
    let advice = backend.admin().advice().await.unwrap();
    let weights: Vec<_> = advice.iter().map(|one| (one.check, one.weight)).collect();
    assert!(weights.contains(&("version", Weight::Good)), "{advice:?}");
    assert!(weights.contains(&("alarm", Weight::Bad)), "{advice:?}");

    backend.close().await.unwrap();
}

mod native {
    mod alone;
    mod confirmed;
    mod order;
    mod restart;
    mod settled;
    mod window;
}
