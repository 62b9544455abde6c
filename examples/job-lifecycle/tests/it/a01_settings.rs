//! A1: where Redis is.

use std::time::Duration;

use fanfare::config::Environment;
use fanfare::core::ErrorKind;
use fanfare::core::clock::Clock;
use fanfare::registry;
use fanfare_conformance::broker::{Broker, Durability, redis};
use job_lifecycle::settings::Events;
use tokio::net::TcpListener;

fn read(said: &[(&str, &str)]) -> fanfare::core::Result<Events> {
    let environment = |name: &str| {
        let found = said.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let environment: Environment<'_> = &environment;
    Events::read(environment)
}

#[test]
fn a01_redis_is_where_the_environment_says() {
    let events = read(&[]).unwrap();
    let shown = events.stream.to_string();
    assert_eq!(
        shown,
        "redis://localhost:6379/0?stream=source-events&wire=job-lifecycle"
    );
    assert!(!events.enabled);
    let given = [
        ("REDIS_ADDRESS", "box:7"),
        ("REDIS_PASSWORD", "s3/cr@t"),
        ("REDIS_DB", "3"),
    ];
    let events = read(&given).unwrap();
    assert_eq!(events.stream.host(), Some(("box", Some(7))));
    assert!(events.stream.path().ends_with("@box:7/3"));
    assert!(!format!("{events:?}").contains("s3"), "{events:?}");
}

#[test]
fn a01_an_empty_address_is_a_clear_error() {
    for empty in ["", " "] {
        let error = read(&[("REDIS_ADDRESS", empty)]).unwrap_err();
        assert_eq!(error.to_string(), "REDIS_ADDRESS is empty: it is host:port");
    }
    let error = read(&[("REDIS_DB", "three")]).unwrap_err();
    assert_eq!(error.to_string(), "REDIS_DB cannot be `three`");
}

#[tokio::test]
async fn a01_password_and_database_are_used() {
    let broker = Broker::start(redis(), Durability::Off).await.unwrap();
    let admin = redis::Client::open(broker.url()).unwrap();
    let mut admin = admin.get_multiplexed_async_connection().await.unwrap();
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("requirepass").arg("p/s: @%w");
    set.exec_async(&mut admin).await.unwrap();
    let address = broker.address().to_string();
    let wrong = read(&[("REDIS_ADDRESS", &address)]).unwrap();
    let refused = registry::open(wrong.stream).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{refused}");
    let said = [
        ("REDIS_ADDRESS", &*address),
        ("REDIS_PASSWORD", "p/s: @%w"),
        ("REDIS_DB", "3"),
    ];
    let bus = job_lifecycle::redis_stream::open(&read(&said).unwrap().stream)
        .await
        .unwrap();
    let event = fanfare::core::event::Event::builder("SOURCE_DELETED".parse().unwrap());
    bus.publish(event.key("s").source("/")).await.unwrap();
    bus.shutdown(Duration::ZERO).await.unwrap();
    redis::cmd("SELECT")
        .arg(3)
        .exec_async(&mut admin)
        .await
        .unwrap();
    let mut length = redis::cmd("XLEN");
    length.arg("source-events");
    let length: u64 = length.query_async(&mut admin).await.unwrap();
    assert_eq!(length, 1);
}

#[tokio::test]
async fn a01_a_server_that_does_not_answer_a_ping_is_given_up_after_five_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let clock = Clock::system();
    let began = clock.now();
    let events = read(&[("REDIS_ADDRESS", &address)]).unwrap();
    let error = registry::open(events.stream).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let took = clock.now().since(began);
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(9),
        "{took:?}"
    );
}
