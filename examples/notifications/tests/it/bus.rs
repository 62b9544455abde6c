//! B1, and how it ends: the bus as an interface, on the application's channels.

use std::time::Duration;

use fanfare::prelude::*;
use notifications::events::{ChatCreated, StatusChanged, of_chat};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::stage::{LIMIT, PUBSUB, Stage, until, within};

fn created() -> ChatCreated {
    ChatCreated {
        title: "Roof".into(),
        participants: vec!["bob".into()],
    }
}

fn done() -> StatusChanged {
    StatusChanged {
        status: "done".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b01_types_are_published_subscribed_unsubscribed_and_shut_down() {
    let stage = Stage::new().await;
    let config = stage.config(PUBSUB);
    let here = fanfare::connect(config.events.reveal()).await.unwrap();
    let elsewhere = fanfare::connect(config.events.reveal()).await.unwrap();
    let (tell, mut handled) = mpsc::channel(100);
    for (bus, place, name, kind) in [
        (&here, "here", "first", "ChatCreated"),
        (&here, "here", "second", "ChatCreated"),
        (&here, "here", "status", "StatusChanged"),
        (&elsewhere, "elsewhere", "first", "ChatCreated"),
    ] {
        let tell = tell.clone();
        let say_so = move || {
            let tell = tell.clone();
            async move { tell.send((place, name)).await }
        };
        bus.subscribe(name, kind).handle(say_so).await.unwrap();
    }
    let next = async |handled: &mut mpsc::Receiver<_>, n| {
        let mut some = Vec::new();
        for _ in 0..n {
            some.push(within(handled.recv()).await.unwrap());
        }
        some.sort_unstable();
        some
    };

    here.publish(of_chat("c", &created()).unwrap())
        .await
        .unwrap();
    let all = [
        ("elsewhere", "first"),
        ("here", "first"),
        ("here", "second"),
    ];
    assert_eq!(next(&mut handled, 3).await, all);

    let ended = here
        .unsubscribe("ChatCreated", Duration::from_secs(5))
        .await;
    assert_eq!(ended.unwrap(), 2);
    here.publish(of_chat("c", &created()).unwrap())
        .await
        .unwrap();
    here.publish(of_chat("c", &done()).unwrap()).await.unwrap();
    let rest = [("elsewhere", "first"), ("here", "status")];
    assert_eq!(next(&mut handled, 2).await, rest);

    for bus in [&here, &elsewhere] {
        bus.shutdown(Duration::from_secs(5)).await.unwrap();
        let refused = bus.publish(of_chat("c", &done()).unwrap()).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Closed);
    }
    assert!(handled.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn b07_shutdown_waits_for_running_handlers_and_leaves_no_task() {
    static GATE: Semaphore = Semaphore::const_new(0);
    let stage = Stage::new().await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let app = stage.app(PUBSUB).await;
    let (tell, mut told) = mpsc::channel(10);
    let slow = move || {
        let tell = tell.clone();
        async move {
            tell.send("began").await?;
            GATE.acquire().await.unwrap().forget();
            tell.send("ended").await
        }
    };
    app.bus.subscribe("slow", "*").handle(slow).await.unwrap();
    app.bus
        .publish(of_chat("c", &created()).unwrap())
        .await
        .unwrap();
    assert_eq!(within(told.recv()).await, Some("began"));

    let bus = app.bus.clone();
    let shutdown = tokio::spawn(async move { bus.shutdown(LIMIT).await });
    until("it takes nothing new", async || {
        let refused = app.bus.publish(of_chat("c", &done()).unwrap()).await;
        refused.is_err_and(|error| error.kind() == ErrorKind::Closed)
    })
    .await;
    assert!(!shutdown.is_finished());
    GATE.add_permits(1);
    let report = within(shutdown).await.unwrap().unwrap();
    assert_eq!(told.recv().await, Some("ended"));
    assert_eq!((report.cut_off, report.unsettled), (0, 0));
    drop(app);
    until("no task is left", async || tasks() <= before).await;
}
