//! Ordered subscriptions between processes: one at a time has it, and the next goes on where it was.

use crate::*;

fn ordered(attempts: u32) -> SubscriptionSpec {
    SubscriptionSpec {
        ordered: true,
        ..spec(attempts)
    }
}

/// Of each key so many, one after the other.
fn keyed(keys: &[&str], each: usize) -> Vec<Event> {
    let one = |n: usize, key: &str| {
        let event = Event::builder("orders.placed".parse().unwrap());
        let event = event.key(key).subject(n.to_string());
        event.build().unwrap()
    };
    let round = |n| keys.iter().map(move |key| one(n, key));
    (0..each).flat_map(round).collect()
}

/// Key, number and attempt.
fn places(came: &[Delivery]) -> Vec<(String, String, u32)> {
    let place = |one: &Delivery| {
        let (key, number) = (one.event.key().unwrap(), one.event.subject().unwrap());
        (key.to_owned(), number.to_owned(), one.attempt)
    };
    came.iter().map(place).collect()
}

fn place(key: &str, number: &str, attempt: u32) -> (String, String, u32) {
    (key.to_owned(), number.to_owned(), attempt)
}

async fn ack(consumer: &Arc<dyn Consumer>, came: &[Delivery]) {
    let all = came.iter().map(|one| (one.receipt, Settlement::Ack));
    let settled = consumer.settle(all.collect()).await.unwrap();
    assert!(
        settled.iter().all(|one| *one == Settled::Done),
        "{settled:?}"
    );
}

/// Takes the first of each key and then dies; answers them.
async fn die_with(count: usize, config: AmqpConfig) -> Vec<Delivery> {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let living = runtime.spawn(async move {
        let backend = AmqpBackend::open(config).await.unwrap();
        let consumer = join(&backend).await;
        let came = take(&consumer, count).await;
        (backend, consumer, came)
    });
    let (_backend, _consumer, came) = living.await.unwrap();
    runtime.shutdown_background();
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_over_from_the_dead_goes_on_in_order_and_runs_alone_what_ran() {
    let broker = broker().await;
    let config = config(&broker, "heirs");
    let backend = AmqpBackend::open(config.clone()).await.unwrap();
    backend.admin().put(&ordered(5)).await.unwrap();
    backend.publish(&keyed(&["a", "b"], 3)).await.unwrap();
    let ran = die_with(2, config.clone()).await;
    assert_eq!(places(&ran), [place("a", "0", 1), place("b", "0", 1)]);
    // Dies of the one that it was given alone.
    let alone = die_with(1, config.clone()).await;
    assert_eq!(places(&alone), [place("a", "0", 1)]);

    let heir = join(&backend).await;
    let mut came = Vec::new();
    for (key, attempt) in [("a", 2), ("b", 1)] {
        let one = take(&heir, 1).await;
        assert_eq!(places(&one), [place(key, "0", attempt)]);
        let more = heir.receive(10, Duration::from_millis(50)).await.unwrap();
        assert!(more.is_empty(), "{:?} beside it", places(&more));
        ack(&heir, &one).await;
    }
    while came.len() < 4 {
        let some = take(&heir, 1).await;
        ack(&heir, &some).await;
        came.extend(places(&some));
    }
    for key in ["a", "b"] {
        let of_key = came.iter().filter(|(of, ..)| of == key);
        let numbers: Vec<_> = of_key
            .map(|(_, n, attempt)| (n.as_str(), *attempt))
            .collect();
        assert_eq!(numbers, [("1", 1), ("2", 1)], "{key}");
    }
    backend.close().await.unwrap();
}

/// Has the lock of the book as long as the connection lasts.
async fn hold_book(broker: &Broker, stream: &str) -> Connection {
    let lock = format!("{stream}.lock");
    loop {
        let (connection, channel) = stranger(broker).await;
        let (options, table) = (QueueDeclareOptions::default(), FieldTable::default());
        let alone = QueueDeclareOptions {
            exclusive: true,
            ..options
        };
        let declared = channel.queue_declare(lock.as_str().into(), alone, table);
        if declared.await.is_ok() {
            return connection;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receive_ends_in_time_while_somebody_else_has_the_book() {
    let broker = broker().await;
    let config = config(&broker, "busy_book");
    let backend = AmqpBackend::open(config.clone()).await.unwrap();
    backend.admin().put(&ordered(5)).await.unwrap();
    backend.publish(&keyed(&["a", "b"], 1)).await.unwrap();
    die_with(2, config).await;
    let heir = join(&backend).await;
    let first = take(&heir, 1).await;
    ack(&heir, &first).await;

    // The other one is to run alone as well, which is noted before.
    let busy = hold_book(&broker, "busy_book").await;
    let (clock, wait) = (Clock::system(), Duration::from_millis(50));
    let began = clock.now();
    let none = heir.receive(1, wait).await.unwrap();
    let took = clock.now().since(began);
    assert!(none.is_empty(), "not noted: {:?}", places(&none));
    assert!(took < Duration::from_secs(6), "{took:?}");
    busy.close(200, "done".into()).await.unwrap();
    let second = take(&heir, 1).await;
    assert_eq!(places(&second), [place("b", "0", 1)]);
    ack(&heir, &second).await;
    backend.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_who_runs_it_is_given_up_and_its_key_goes_on() {
    let broker = broker().await;
    let config = config(&broker, "ordered_poison");
    let backend = AmqpBackend::open(config.clone()).await.unwrap();
    backend.admin().put(&ordered(2)).await.unwrap();
    backend.publish(&keyed(&["a"], 2)).await.unwrap();
    for attempt in [1, 1, 2] {
        let died_of = die_with(1, config.clone()).await;
        assert_eq!(places(&died_of), [place("a", "0", attempt)]);
    }
    let last = join(&backend).await;
    let next = take(&last, 1).await;
    assert_eq!(places(&next), [place("a", "1", 1)]);
    ack(&last, &next).await;
    let filter = DeadLetterFilter::default();
    let letters = backend.dead_letters().list(&filter, None, 10).await;
    let letters = letters.unwrap().items;
    assert_eq!((letters.len(), letters[0].attempts), (1, 2));
    backend.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_good_order_leaves_retries_and_attempts_and_keeps_nobody_waiting() {
    let broker = broker().await;
    let config = config(&broker, "left");
    let open = || AmqpBackend::open(config.clone());
    let (one, other) = (open().await.unwrap(), open().await.unwrap());
    let lasting = SubscriptionSpec {
        lease: Duration::from_mins(5),
        ..ordered(5)
    };
    one.admin().put(&lasting).await.unwrap();
    let (here, clock) = (join(&one).await, Clock::system());
    one.publish(&keyed(&["a", "b"], 2)).await.unwrap();
    let came = take(&here, 2).await;
    let there = join(&other).await;
    let (after, error) = (Duration::from_secs(3), String::new());
    let due = clock.now() + after;
    let retry = Settlement::Retry { after, error };
    here.settle(vec![(came[0].receipt, retry)]).await.unwrap();
    let beside = there.receive(10, Duration::from_millis(100)).await.unwrap();
    assert!(beside.is_empty(), "two have it: {:?}", places(&beside));
    one.close().await.unwrap();

    // Far sooner than anybody's lease ends.
    for number in ["0", "1"] {
        let of_b = take(&there, 1).await;
        assert_eq!(places(&of_b), [place("b", number, 1)]);
        ack(&there, &of_b).await;
    }
    let again = take(&there, 1).await;
    assert!(clock.now() >= due, "too early");
    assert_eq!(places(&again), [place("a", "0", 2)]);
    ack(&there, &again).await;
    let last = take(&there, 1).await;
    assert_eq!(places(&last), [place("a", "1", 1)]);
    ack(&there, &last).await;
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_members_leaves_the_subscription_to_others() {
    let broker = broker().await;
    let config = config(&broker, "unsubscribed");
    let open = || AmqpBackend::open(config.clone());
    let (one, other) = (open().await.unwrap(), open().await.unwrap());
    for (spec, count) in [(spec(3), 20), (ordered(3), 2)] {
        let name = name();
        one.admin().put(&spec).await.unwrap();
        let here = join(&one).await;
        one.publish(&keyed(&["a", "b"], 10)).await.unwrap();
        take(&here, 1).await;
        here.close().await.unwrap();
        let there = join(&other).await;
        take(&there, count).await;
        there.close().await.unwrap();
        one.admin().delete(&name, true).await.unwrap();
    }
    one.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_on_a_queue_of_somebody_elses_is_refused() {
    let broker = broker().await;
    let (_connection, channel) = stranger(&broker).await;
    let (options, table) = (QueueDeclareOptions::default(), FieldTable::default());
    let declared = channel.queue_declare("theirs.mail".into(), options, table);
    declared.await.unwrap();
    let config = AmqpConfig {
        queue: Some((name(), "theirs.mail".into())),
        ..config(&broker, "refused_order")
    };
    let backend = AmqpBackend::open(config).await.unwrap();
    let refused = backend.admin().put(&ordered(3)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    let missing = backend.admin().get(&name()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    backend.close().await.unwrap();
}
