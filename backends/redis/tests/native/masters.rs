//! Streams whose server changes: a cluster whose slots move and whose masters die, and a master that
//! sentinels replace.

use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::{Broker, Durability, RedisCluster, RedisSentinels};
use fanfare_core::backend::Backend;
use fanfare_core::capability::Known;
use fanfare_core::error::ErrorKind;
use fanfare_core::event::Event;
use fanfare_redis::{RedisBackend, RedisConfig};
use tokio::sync::watch;

use super::stage::{
    command, config, counts, drain, events, publish, publish_surely, refused, server, subscribe,
};

const LEASE: Duration = Duration::from_secs(2);

fn at(url: String) -> RedisConfig {
    RedisConfig {
        url,
        ..config(([127, 0, 0, 1], 0).into())
    }
}

async fn cluster(replicas: bool) -> RedisCluster {
    RedisCluster::start(Durability::Always, replicas)
        .await
        .unwrap()
}

/// Publishes and consumes while `trouble` goes on, and returns once everything arrived.
async fn under_load(
    config: RedisConfig,
    events: &[Event],
    trouble: impl AsyncFnOnce(watch::Receiver<usize>),
) -> Arc<RedisBackend> {
    let backend = RedisBackend::open(config).await.unwrap();
    let consumer = subscribe(&backend, LEASE).await;
    let (progress, published) = watch::channel(0);
    let publishing = async {
        for event in events {
            publish_surely(&backend, event).await;
            progress.send_modify(|n| *n += 1);
        }
    };
    tokio::join!(publishing, trouble(published), drain(&consumer, events));
    backend
}

/// Once replicas are waited for, a duplicate is as safe as its first.
async fn is_safe_only_with_a_replica(config: RedisConfig, replica: &Broker) {
    let backend = RedisBackend::open(config).await.unwrap();
    let event = &events(1)[0];
    publish_surely(&backend, event).await;
    assert!(publish(&backend, event).await.unwrap().duplicate);
    replica.pause().unwrap();
    for _ in 0..2 {
        let error = publish(&backend, event).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
        let why = format!("{error:?}");
        assert!(why.contains("0 of 1 replicas"), "{why}");
    }
    replica.resume().unwrap();
    publish_surely(&backend, event).await;
    assert!(publish(&backend, event).await.unwrap().duplicate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_followed_when_its_slot_moves() {
    let cluster = cluster(false).await;
    let events = events(300);
    let moving = async |mut published: watch::Receiver<usize>| {
        for round in 0..4 {
            published.wait_for(|n| *n >= 20 + 60 * round).await.unwrap();
            let from = cluster.master_of("orders").unwrap().address();
            let others = cluster.servers().iter();
            let to = others.filter(|one| one.address() != from).nth(round % 2);
            cluster.move_slot("orders", to.unwrap()).unwrap();
        }
    };
    let backend = under_load(at(cluster.url()), &events, moving).await;
    let counts = counts(&backend).await;
    assert_eq!((counts.published, counts.acknowledged), (300, 300));
    assert!(backend.admin().health().await.ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_a_master_of_a_cluster_dies() {
    let cluster = cluster(true).await;
    let events = events(200);
    let config = RedisConfig {
        wait_replicas: 1,
        ..at(cluster.url())
    };
    let killing = async |mut published: watch::Receiver<usize>| {
        published.wait_for(|n| *n >= 50).await.unwrap();
        let master = cluster.master_of("orders").unwrap();
        master.kill().unwrap();
        cluster.moved_from(master, "orders").await.unwrap();
        // As a replica of its heir, without which nothing is safe.
        master.restart().await.unwrap();
    };
    let backend = under_load(config, &events, killing).await;
    let counts = counts(&backend).await;
    assert_eq!((counts.published, counts.acknowledged), (200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_sentinels_replace_a_master() {
    let sentinels = RedisSentinels::start(Durability::Always).await.unwrap();
    let events = events(200);
    let config = RedisConfig {
        wait_replicas: 1,
        ..at(sentinels.url())
    };
    let killing = async |mut published: watch::Receiver<usize>| {
        published.wait_for(|n| *n >= 50).await.unwrap();
        let master = sentinels.master().unwrap();
        // One of the sentinels may die too.
        sentinels.sentinels()[0].kill().unwrap();
        master.kill().unwrap();
        sentinels.moved_from(master).await.unwrap();
        master.restart().await.unwrap();
    };
    let backend = under_load(config, &events, killing).await;
    let counts = counts(&backend).await;
    assert_eq!((counts.published, counts.acknowledged), (200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_too_few_replicas_have_is_unknown() {
    let sentinels = RedisSentinels::start(Durability::Always).await.unwrap();
    let replica = &sentinels.servers()[1];
    let careless = at(sentinels.url());
    let careful = RedisConfig {
        wait_replicas: 1,
        ..careless.clone()
    };
    let open = async |config| RedisBackend::open(config).await.unwrap().capabilities();
    assert_eq!(open(careful.clone()).await.power_safe, Known::Yes);
    assert_eq!(open(careless).await.power_safe, Known::No);
    is_safe_only_with_a_replica(careful, replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_was_cut_off_is_left_by_readers_too() {
    let sentinels = RedisSentinels::start(Durability::Always).await.unwrap();
    let careful = RedisConfig {
        wait_replicas: 1,
        ..at(sentinels.url())
    };
    let staying = RedisBackend::open(careful).await.unwrap();
    let consumer = subscribe(&staying, LEASE).await;
    let before = events(2);
    for event in &before {
        publish_surely(&staying, event).await;
    }
    drain(&consumer, &before).await;
    sentinels.cut_off_the_master().unwrap();
    let error = publish(&staying, &events(1)[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
    let coming = RedisBackend::open(at(sentinels.url())).await.unwrap();
    let after = events(3);
    for event in &after {
        publish_surely(&coming, event).await;
    }
    drain(&consumer, &after).await;
}

#[tokio::test]
async fn a_url_of_another_kind_of_server_is_refused() {
    let (cluster, alone) = (cluster(false).await, server().await);
    let sentinels = RedisSentinels::start(Durability::Off).await.unwrap();
    let alone = alone.address();
    let sentinel = sentinels.sentinels()[0].address();
    let mut elsewhere = cluster.servers().iter().map(Broker::address);
    let owner = cluster.master_of("orders").unwrap().address();
    let elsewhere = elsewhere.find(|one| *one != owner).unwrap();
    for (url, says) in [
        (format!("redis://{elsewhere}/"), "redis+cluster:"),
        (format!("redis://{sentinel}/"), "redis+sentinel:"),
        (format!("redis+cluster://{alone}/"), "not one of a cluster"),
        (format!("redis+cluster://{owner}/3"), "no databases"),
        (format!("redis+sentinel://{alone}/orders"), "not a sentinel"),
        (
            format!("redis+sentinel://{sentinel}/other"),
            "no such service",
        ),
        (format!("redis+sentinel://{sentinel}/"), "the service"),
    ] {
        let error = refused(at(url.clone())).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}: {error:?}");
        assert!(format!("{error:?}").contains(says), "{url}: {error:?}");
    }
    let apart = RedisConfig {
        stream: "or{ders".into(),
        ..at(cluster.url())
    };
    let error = refused(apart).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
}

#[tokio::test]
async fn sentinels_and_servers_have_their_own_passwords() {
    let sentinels = RedisSentinels::start(Durability::Off).await.unwrap();
    for one in sentinels.sentinels() {
        command(
            one,
            &["ACL", "SETUSER", "default", "resetpass", ">watchman"],
        )
        .await;
    }
    for one in sentinels.servers() {
        command(one, &["CONFIG", "SET", "requirepass", "keeper"]).await;
    }
    let url = sentinels.url().replace("://", "://:keeper@");
    let knowing = RedisConfig {
        sentinel_user: (None, Some("watchman".into())),
        ..at(format!("{url}/2"))
    };
    let backend = RedisBackend::open(knowing.clone()).await.unwrap();
    publish_surely(&backend, &events(1)[0]).await;
    for wrong in [
        RedisConfig {
            sentinel_user: (None, None),
            ..knowing.clone()
        },
        RedisConfig {
            url: sentinels.url(),
            ..knowing
        },
    ] {
        let error = refused(wrong).await;
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
    }
}
