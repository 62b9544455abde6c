//! A subscription that somebody destroyed in the database: the servers that were pulled from are the
//! last that know what it was.

use fanfare_conformance::broker::{Broker, Durability, Proxy, postgres};
use fanfare_server::ServerConfig;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::harness::{PATIENCE, Running, answer, problem, refused, start_on};

const PULL: &str = "/v1/subscriptions/s/pull";
/// Everything about subscriptions, but not that somebody meant one to be gone.
const DESTROY: &str = "TRUNCATE fanfare.subscription, fanfare.lease, fanfare.waiting, fanfare.story, \
                       fanfare.lane, fanfare.tally";
/// How many claims wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
                       WHERE wait_event_type = 'Lock' AND query LIKE '%.claim(%'";

/// A server whose line to the database can be broken.
struct Far {
    server: Running,
    line: Proxy,
}

impl Far {
    async fn start(broker: &Broker) -> Self {
        let line = Proxy::start(broker.address()).await.unwrap();
        let url = broker.url_at(line.address());
        let backend = fanfare::backend(&url).await.unwrap();
        Self {
            server: start_on(backend, ServerConfig::default()).await,
            line,
        }
    }

    /// Publishes an event; the break of the line may still be felt.
    async fn publish(&self, id: &str) {
        let event = json!({ "type": "a", "id": id });
        let request = || self.server.post("/v1/events").json(&event);
        while request().send().await.unwrap().status() == StatusCode::SERVICE_UNAVAILABLE {}
    }

    /// Pulls and acknowledges until the event comes; the break of the line may still be felt.
    async fn take(&self, id: &str) {
        loop {
            let pull = self.server.post(PULL).json(&json!({ "wait": "1s" }));
            let response = pull.send().await.unwrap();
            if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                continue;
            }
            assert_eq!(
                response.status(),
                StatusCode::OK,
                "{:?}",
                response.text().await
            );
            let pulled: Value = response.json().await.unwrap();
            let pulled = pulled["deliveries"].as_array().unwrap();
            self.server.settle("s", "ack", pulled).await;
            if pulled.iter().any(|d| d["event"]["id"] == id) {
                return;
            }
        }
    }
}

async fn session(broker: &Broker) -> Client {
    let (client, connection) = tokio_postgres::connect(&broker.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Breaks the line of each while its pull is on the way.
async fn break_pulls(broker: &Broker, servers: &[Far]) {
    let (lock, watch) = (session(broker).await, session(broker).await);
    let hold = "BEGIN; LOCK fanfare.subscription";
    lock.batch_execute(hold).await.unwrap();
    let pulls: Vec<_> = servers
        .iter()
        .map(|far| tokio::spawn(far.server.post(PULL).send()))
        .collect();
    let waiting = async || -> i64 { watch.query_one(WAITING, &[]).await.unwrap().get(0) };
    while usize::try_from(waiting().await).unwrap() < servers.len() {}
    for far in servers {
        far.line.cut();
    }
    for pull in pulls {
        problem(pull.await.unwrap().unwrap(), 503, "outcome_unknown").await;
    }
    lock.batch_execute("COMMIT").await.unwrap();
    // It may be the one that a deadlock with somebody at work ends.
    while lock.batch_execute(DESTROY).await.is_err() {}
}

#[tokio::test]
async fn a_destroyed_subscription_comes_back_although_every_pull_had_failed() {
    let broker = Broker::start(postgres(), Durability::Off).await.unwrap();
    let servers = [Far::start(&broker).await, Far::start(&broker).await];
    let [first, second] = &servers;
    first.server.subscribe("s", "a").await;
    first.publish("1").await;
    first.take("1").await;
    // It has heard of the subscription too.
    second.server.call(PULL, json!({})).await;

    let test = async {
        break_pulls(&broker, &servers).await;
        first.publish("2").await;
        second.take("2").await;
        first.publish("3").await;
        first.take("3").await;
        // One that is gone on purpose is not made again.
        let delete = first.server.delete("/v1/subscriptions/s?force=true");
        answer(delete, 204).await;
        for far in &servers {
            refused(far.server.post(PULL), 404, "not_found").await;
        }
    };
    tokio::time::timeout(PATIENCE * 3, test).await.unwrap();
    for far in servers {
        far.server.shut_down().await;
    }
}
