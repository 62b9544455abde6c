//! B7: from Pub/Sub to Streams by configuration alone.

use notifications::App;
use notifications::events::{ChatCreated, of_chat};
use notifications::handlers::notification::of_user;

use crate::stage::{PUBSUB, STREAMS, Stage, until};

const CHATS: u64 = 20;
const HANDLERS: [&str; 2] = ["notification", "projection"];

/// How many events each handler of a process was through with.
fn handled(app: &App) -> [u64; 2] {
    let stats = app.bus.stats().subscriptions;
    HANDLERS.map(|handler| {
        let mut named = stats.iter().filter(|one| one.name.as_str() == handler);
        named.next().unwrap().acknowledged
    })
}

async fn create_chats(app: &App) {
    for n in 0..CHATS {
        let participants = vec!["bob".to_owned()];
        let chat = ChatCreated {
            title: n.to_string(),
            participants,
        };
        let event = of_chat(&format!("chat-{n}"), &chat).unwrap();
        app.bus.publish(event).await.unwrap();
    }
}

fn told_once_each(app: &App) {
    let told = of_user(&app.store, "bob").unwrap();
    let mut texts: Vec<u64> = told.iter().map(|one| one.text.parse().unwrap()).collect();
    texts.sort_unstable();
    assert_eq!(texts, (0..CHATS).collect::<Vec<_>>());
}

#[test]
fn b07_the_two_configurations_differ_in_the_url_alone() {
    let lines = |file: &'static str| file.lines().filter(|line| !line.starts_with('#'));
    let pairs: Vec<_> = lines(PUBSUB).zip(lines(STREAMS)).collect();
    assert_eq!(lines(PUBSUB).count(), lines(STREAMS).count());
    for (one, other) in pairs {
        assert_eq!(one == other, !one.starts_with("events = "), "{one} {other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b07_with_pubsub_each_process_runs_each_handler_and_nobody_is_told_twice() {
    let stage = Stage::new().await;
    let (one, other) = (stage.app(PUBSUB).await, stage.app(PUBSUB).await);
    create_chats(&one).await;
    until("both handled all", async || {
        handled(&one) == [CHATS; 2] && handled(&other) == [CHATS; 2]
    })
    .await;
    told_once_each(&one);
}

#[tokio::test(flavor = "multi_thread")]
async fn b07_with_streams_one_process_runs_each_handler_also_of_what_came_while_none_ran() {
    let stage = Stage::new().await;
    let first = stage.app(STREAMS).await;
    first.bus.shutdown(crate::stage::LIMIT).await.unwrap();
    let bus = fanfare::connect(stage.config(STREAMS).events.reveal())
        .await
        .unwrap();
    let store = first.store.clone();
    create_chats(&App { bus, store }).await;
    let (one, other) = (stage.app(STREAMS).await, stage.app(STREAMS).await);
    let sum = || {
        let (one, other) = (handled(&one), handled(&other));
        [one[0] + other[0], one[1] + other[1]]
    };
    until("all is handled", async || sum() == [CHATS; 2]).await;
    told_once_each(&one);
}
