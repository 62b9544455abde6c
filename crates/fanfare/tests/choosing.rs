//! The tables in `docs/guide/choosing-a-backend.md` are what the backends say of themselves, each opened
//! by its URL on a server of its own that is set as safely as can be.
//! `FANFARE_WRITE_DOCS=1 cargo test -p fanfare --test choosing` writes them.
#![cfg(test)]

use std::fs;
use std::path::Path;

use fanfare::address::Address;
use fanfare::registry;
use fanfare_conformance::broker::{Broker, Durability, Engine, nats, postgres, rabbitmq, redis};
use fanfare_conformance::offer::{
    NO_BOUND, NO_NETWORK, NO_TRANSACTION, NOBODY_ELSE, Offer, SETTLED_THERE, offer_table,
};

const BEGIN: &str = "<!-- generated: offers -->\n";
const END: &str = "<!-- end of generated -->\n";

type Lacks = &'static [(&'static str, &'static str)];

/// Its database is not the caller's.
const A_BROKER: Lacks = &[("outbox::", NO_TRANSACTION)];
/// Nothing but this process comes near it.
const EMBEDDED: Lacks = &[
    ("outbox::", NO_TRANSACTION),
    ("foreign::", NOBODY_ELSE),
    ("gap::a_lost_stream", NOBODY_ELSE),
    ("gap::a_publish", NO_NETWORK),
    ("gap::an_answer", NO_NETWORK),
    ("gap::a_subscription_comes", NO_NETWORK),
    ("gap::what_was_handled", NO_NETWORK),
    ("gap::the_health", NO_NETWORK),
];
/// Other services' streams.
const THEIRS: Lacks = &[("outbox::", NO_TRANSACTION), ("retention::", NO_BOUND)];
/// It hands over and forgets.
const A_QUEUE: Lacks = &[
    ("outbox::", NO_TRANSACTION),
    ("retention::", NO_BOUND),
    ("external::external_leases_outlive", SETTLED_THERE),
    ("restart::duplicates", "dedup = none"),
];
const A_DATABASE: Lacks = &[("foreign::", NOBODY_ELSE)];

async fn offer(name: &'static str, url: &str, lacks: Lacks) -> Offer {
    let backend = registry::open(Address::parse(url).unwrap()).await.unwrap();
    let capabilities = backend.capabilities();
    backend.close().await.unwrap();
    Offer {
        name,
        capabilities,
        lacks,
    }
}

async fn server(engine: Engine) -> Broker {
    Broker::start(engine, Durability::Always).await.unwrap()
}

#[tokio::test]
async fn the_tables_say_what_the_backends_say() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", dir.path().display());
    let (redis, postgres) = (server(redis()), server(postgres()));
    let (nats, rabbitmq) = (server(nats()), server(rabbitmq()));
    let (redis, postgres, nats, rabbitmq) = tokio::join!(redis, postgres, nats, rabbitmq);
    let at_redis = |parameters: &str| format!("{}?{parameters}", redis.url());
    let offers = [
        offer("memory", "memory:", EMBEDDED).await,
        offer("sqlite", &sqlite, EMBEDDED).await,
        offer("postgres", &postgres.url(), A_DATABASE).await,
        offer("redis", &redis.url(), A_BROKER).await,
        offer(
            "redis, `wire=`",
            &at_redis("stream=a&wire=cloudevents"),
            THEIRS,
        )
        .await,
        offer(
            "redis, `group=*`",
            &at_redis("stream=b&wire=cloudevents&group=*"),
            THEIRS,
        )
        .await,
        offer(
            "redis, `mode=pubsub`",
            &at_redis("stream=c&mode=pubsub"),
            A_BROKER,
        )
        .await,
        offer("nats", &nats.url(), A_BROKER).await,
        offer(
            "nats, `mode=core`",
            &format!("{}?stream=a&mode=core", nats.url()),
            A_BROKER,
        )
        .await,
        offer("amqp", &rabbitmq.url(), A_QUEUE).await,
    ];
    check(&offer_table(&offers));
}

fn check(tables: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/choosing-a-backend.md");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the begin marker");
    let (_, after) = rest.split_once(END).expect("the end marker");
    let fresh = format!("{before}{BEGIN}\n{tables}\n{END}{after}");
    if std::env::var_os("FANFARE_WRITE_DOCS").is_some() {
        fs::write(&page, &fresh).unwrap();
        return;
    }
    assert!(
        text == fresh,
        "docs/guide/choosing-a-backend.md is stale; run \
         FANFARE_WRITE_DOCS=1 cargo test -p fanfare --test choosing"
    );
}
