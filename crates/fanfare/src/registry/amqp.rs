//! `amqp:` URLs: what their parameters mean. Which schemes there are is the list's.

use std::sync::Arc;

use fanfare_amqp::{AmqpBackend, AmqpConfig};
use fanfare_core::backend::Backend;
use fanfare_core::codec::WireForm;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::{Error, Result};

use super::{MAX_DATA_BYTES, theirs};
use crate::address::Address;

/// `amqp://USER:PASSWORD@HOST:PORT/VHOST?stream=NAME`; the virtual host `/` is written `%2f`. On what
/// others declared `&exchange=NAME`, `&queue=SUBSCRIPTION:NAME`, in their form `&wire=PRESET`.
pub(super) async fn open(mut address: Address) -> Result<Arc<dyn Backend>> {
    let stream = address.take_stream()?;
    let url = format!("{}:{}", address.scheme(), address.path());
    let mut config = AmqpConfig::new(url, stream);
    config.max_data_bytes = MAX_DATA_BYTES;
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
    address.finish()?;
    Ok(AmqpBackend::open(config).await?)
}
