//! `amqp:` URLs: what their parameters mean. Which schemes there are is the list's.

use std::path::PathBuf;
use std::sync::Arc;

use fanfare_amqp::{AmqpBackend, AmqpConfig};
use fanfare_core::backend::Backend;
use fanfare_core::codec::WireForm;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::{Error, Result};

use super::{MAX_DATA_BYTES, take_duration, theirs};
use crate::address::Address;

/// The most that a quorum queue hands to one consumer.
const MAX_PREFETCH: u16 = 2_000;

/// `amqp:` URLs.
pub(super) async fn open(address: Address) -> Result<Arc<dyn Backend>> {
    Ok(AmqpBackend::open(amqp_config(address)?).await?)
}

/// See [`remove`](super::remove).
pub(super) async fn remove(address: Address, stream: String) -> Result<()> {
    AmqpBackend::remove(amqp_config(address.with_parameter("stream", stream))?).await
}

/// `amqp://USER:PASSWORD@HOST:PORT/VHOST?stream=NAME&prefetch=N`; the virtual host `/` is written `%2f`.
/// With `amqps:`, `&ca=FILE`. On what others declared `&exchange=NAME`, `&queue=SUBSCRIPTION:NAME`, in their form `&wire=PRESET`.
fn amqp_config(mut address: Address) -> Result<AmqpConfig> {
    let stream = address.take_stream()?;
    let url = format!("{}:{}", address.scheme(), address.path());
    let mut config = AmqpConfig::new(url, stream);
    config.max_data_bytes = MAX_DATA_BYTES;
    config.tls_ca = address.take("ca").map(PathBuf::from);
    config.exchange = address.take("exchange");
    if let Some(queue) = address.take("queue") {
        let Some((subscription, queue)) = queue.split_once(':') else {
            let detail = "`queue` in an amqp: URL is SUBSCRIPTION:QUEUE";
            return Err(Error::invalid("/backend", detail));
        };
        config.queue = Some((SubscriptionName::parse(subscription)?, queue.to_owned()));
    }
    if let Some(wire) = address.take("wire") {
        config.form = Some(WireForm::by_name(&wire).ok_or_else(theirs::unknown_wire)?);
    }
    if let Some(prefetch) = address.take_number("prefetch")? {
        if !(1..=MAX_PREFETCH).contains(&prefetch) {
            let detail = format!("`prefetch` in an amqp: URL is 1 to {MAX_PREFETCH}");
            return Err(Error::invalid("/backend", detail));
        }
        config.prefetch = Some(prefetch);
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
    use fanfare_core::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn what_is_wrong_in_an_amqp_url_says_why() {
        for url in [
            "amqp://ada:hunter2@host?x=1",
            "amqp://ada:hunter2@host/%2f?stream=a b",
            "amqp://host?prefetch=many",
            "amqp://host?prefetch=0",
            "amqp://host?response_timeout=soon",
            "amqp://host?wire=morse",
            "amqp://host?queue=mail",
            "amqp://host?queue=a b:mail",
        ] {
            let error = open(Address::parse(url).unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
