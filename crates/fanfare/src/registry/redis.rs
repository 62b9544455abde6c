//! `redis:` URLs: what their parameters mean. Which schemes there are is the list's.

use std::path::PathBuf;
use std::sync::Arc;

use fanfare_core::backend::Backend;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::duration;
use fanfare_core::{Error, Result};
use fanfare_redis::{
    EntryForm, Form, Groups, PubSubConfig, RedisBackend, RedisConfig, RedisPubSub,
};

use super::{MAX_DATA_BYTES, take_duration, theirs};
use crate::address::Address;

/// `redis:` URLs, and those with `mode=pubsub`.
pub(super) async fn open(mut address: Address) -> Result<Arc<dyn Backend>> {
    match address.take("mode").as_deref() {
        None => Ok(RedisBackend::open(redis_config(address)?).await?),
        Some("pubsub") => Ok(RedisPubSub::open(pubsub_config(address)?).await?),
        Some(_) => {
            let detail = "`mode` in a redis: URL is `pubsub`, or is not there";
            Err(Error::invalid("/backend", detail))
        }
    }
}

/// See [`remove`](super::remove).
pub(super) async fn remove(mut address: Address, prefix: String) -> Result<()> {
    // Both modes keep their things under the same names.
    for only_pubsub in ["mode", "queue", "dead_letters"] {
        address.take(only_pubsub);
    }
    RedisBackend::remove(redis_config(address)?, &prefix).await
}

/// `redis://..?mode=pubsub&stream=NAME&queue=N&dead_letters=KEY`; on the channels of another service
/// `&wire=PRESET`, and `stream` is their prefix.
fn pubsub_config(mut address: Address) -> Result<PubSubConfig> {
    for keeps in [
        "max_bytes",
        "retention",
        "group",
        "consumer",
        "takeover",
        "wait_replicas",
    ] {
        if address.take(keeps).is_some() {
            let detail = format!("`{keeps}` means nothing where `mode=pubsub` keeps nothing");
            return Err(Error::invalid("/backend", detail));
        }
    }
    let dead_letters = address.take("dead_letters");
    let queue = address.take_number("queue")?;
    let mut config = PubSubConfig::new(redis_config(address)?);
    config.dead_letters = dead_letters;
    if let Some(events) = queue {
        config.queue_events = events;
    }
    Ok(config)
}

/// `redis://USER:PASSWORD@HOST:PORT/DATABASE?stream=NAME&max_bytes=N&retention=7d`; on a stream of
/// another service `&wire=PRESET`, and in its consumer group `&group=NAME&consumer=NAME&takeover=30s`.
/// Where replicas take over, `&wait_replicas=N`; for sentinels `&sentinel_user=NAME&sentinel_password=..`.
fn redis_config(mut address: Address) -> Result<RedisConfig> {
    let wire = address.take("wire");
    let stream = match wire {
        Some(_) => theirs::take_stream(&mut address)?,
        None => address.take_stream()?,
    };
    let mut config = RedisConfig::new(redis_url(&mut address)?, stream);
    config.tls_ca = address.take("ca").map(PathBuf::from);
    config.tls_identity = match (address.take("cert"), address.take("key")) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        _ => {
            let detail = "`cert` and `key` in a rediss: URL belong together";
            return Err(Error::invalid("/backend", detail));
        }
    };
    config.sentinel_user = (
        address.take("sentinel_user"),
        address.take("sentinel_password"),
    );
    if let Some(replicas) = address.take_number("wait_replicas")? {
        config.wait_replicas = replicas;
    }
    take_duration(
        &mut address,
        "response_timeout",
        &mut config.response_timeout,
    )?;
    take_duration(&mut address, "publish_timeout", &mut config.publish_timeout)?;
    config.max_data_bytes = MAX_DATA_BYTES;
    if let Some(bytes) = address.take_number("max_bytes")? {
        config.max_bytes = bytes;
    }
    if let Some(retention) = address.take("retention") {
        config.retention = duration::parse(&retention)?;
    }
    if let Some(wire) = wire {
        config.form = Form::Entries(EntryForm::preset(&wire).ok_or_else(theirs::unknown_wire)?);
    }
    config.groups = match address.take("group").as_deref() {
        None => Groups::None,
        Some("*") => Groups::All,
        Some(name) => Groups::One(SubscriptionName::parse(name)?),
    };
    config.consumer = address.take("consumer");
    if let Some(takeover) = address.take("takeover") {
        config.takeover = duration::parse(&takeover)?;
    }
    address.finish()?;
    Ok(config)
}

/// As the client reads it; a socket file has its database among the parameters.
fn redis_url(address: &mut Address) -> Result<String> {
    if address.scheme() != "redis+unix" {
        return Ok(format!("{}:{}", address.scheme(), address.path()));
    }
    let database: u32 = address.take_number("database")?.unwrap_or(0);
    Ok(format!("redis+unix://{}?db={database}", address.path()))
}
