//! `nats:` URLs: what their parameters mean. Which schemes there are is the list's.

use std::sync::Arc;

use fanfare_core::backend::Backend;
use fanfare_core::timestamp::duration;
use fanfare_core::{Error, Result};
use fanfare_nats::{CoreConfig, Form, MessageForm, NatsBackend, NatsConfig, NatsCore};

use super::{MAX_DATA_BYTES, take_duration, theirs};
use crate::address::Address;

/// `nats:` URLs, and those with `mode=core`.
pub(super) async fn open(mut address: Address) -> Result<Arc<dyn Backend>> {
    match address.take("mode").as_deref() {
        None => Ok(NatsBackend::open(nats_config(address)?).await?),
        Some("core") => Ok(NatsCore::open(core_config(address)?).await?),
        Some(_) => {
            let detail = "`mode` in a nats: URL is `core`, or is not there";
            Err(Error::invalid("/backend", detail))
        }
    }
}

/// See [`remove`](super::remove).
pub(super) async fn remove(mut address: Address, prefix: String) -> Result<()> {
    // Both modes keep their things under the same names.
    for only_core in ["mode", "queue", "dead_letters"] {
        address.take(only_core);
    }
    NatsBackend::remove(nats_config(address)?, &prefix).await
}

/// `nats://..?mode=core&stream=NAME&queue=N&dead_letters=N`.
fn core_config(mut address: Address) -> Result<CoreConfig> {
    for keeps in ["max_bytes", "retention", "dedup_window", "wire", "subjects"] {
        if address.take(keeps).is_some() {
            let detail = format!("`{keeps}` means nothing with `mode=core`");
            return Err(Error::invalid("/backend", detail));
        }
    }
    let (queue, letters) = (
        address.take_number("queue")?,
        address.take_number("dead_letters")?,
    );
    let mut config = CoreConfig::new(nats_config(address)?);
    config.queue_events = queue.unwrap_or(config.queue_events);
    config.dead_letters = letters.unwrap_or(config.dead_letters);
    Ok(config)
}

/// `nats://USER:PASSWORD@HOST:PORT?stream=NAME&max_bytes=N&retention=7d&dedup_window=2m&replicas=3`; on
/// a stream of another service `&wire=PRESET&subjects=PREFIX`.
fn nats_config(mut address: Address) -> Result<NatsConfig> {
    let wire = address.take("wire");
    let stream = match wire {
        Some(_) => theirs::take_stream(&mut address)?,
        None => address.take_stream()?,
    };
    let url = format!("{}:{}", address.scheme(), address.path());
    let mut config = NatsConfig::new(url, stream);
    if let Some(wire) = wire {
        let prefix = address.take("subjects");
        let prefix = prefix.unwrap_or_else(|| "events".into());
        let form = MessageForm::preset(&wire, prefix).ok_or_else(theirs::unknown_wire)?;
        config.form = Form::Messages(form);
    }
    config.max_data_bytes = MAX_DATA_BYTES;
    if let Some(bytes) = address.take_number("max_bytes")? {
        config.max_bytes = bytes;
    }
    if let Some(retention) = address.take("retention") {
        config.retention = duration::parse(&retention)?;
    }
    if let Some(window) = address.take("dedup_window") {
        config.dedup_window = duration::parse(&window)?;
    }
    if let Some(replicas) = address.take_number("replicas")? {
        config.replicas = replicas;
    }
    take_duration(
        &mut address,
        "response_timeout",
        &mut config.response_timeout,
    )?;
    take_duration(&mut address, "publish_timeout", &mut config.publish_timeout)?;
    address.finish()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use fanfare_conformance::broker::{Broker, Durability, nats as server};
    use fanfare_core::ErrorKind;
    use fanfare_core::event::Event;
    use fanfare_core::timestamp::Timestamp;

    use super::*;

    #[tokio::test]
    async fn a_url_opens_the_stream_of_another_service() {
        let broker = Broker::start(server(), Durability::Periodic).await.unwrap();
        let parameters = "stream=EVENTS&wire=crud-audit&subjects=app.events";
        let url = format!("{}?{parameters}", broker.url());
        let backend = open(Address::parse(&url).unwrap()).await.unwrap();
        // Their form requires a time, and a subject has no place for such a source.
        let event = Event::builder("public.users.create".parse().unwrap());
        let timeless = event.clone().source("database").build().unwrap();
        let event = event.time(Timestamp::EPOCH);
        let good = event.clone().source("database").build().unwrap();
        let homeless = event.source("https://a.b").build().unwrap();
        let mut answers = backend.publish(&[timeless, homeless, good]).await.unwrap();
        answers.pop().unwrap().unwrap();
        for answer in answers {
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Invalid);
        }
        backend.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_wrong_in_a_nats_url_says_why() {
        for url in [
            "nats://ada:hunter2@host?x=1",
            "nats://host?stream=a.b",
            "nats://host?retention=soon",
            "nats://host?replicas=9",
            "nats://host?mode=jetstream",
            "nats://host?mode=core&retention=1d",
            "nats://host?queue=10",
            "nats://host?wire=crud-audit",
            "nats://host?stream=EVENTS&wire=morse",
            "nats://host?stream=EVENTS&wire=crud-audit&subjects=a..b",
            "nats://host?stream=EVENTS&subjects=events",
            "nats://host?stream=EVENTS&wire=crud-audit&mode=core",
        ] {
            let error = open(Address::parse(url).unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
