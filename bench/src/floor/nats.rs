//! The raw client of JetStream over one connection: one message for each event, with the same id for the
//! server to tell copies by, and the same attributes and data; read by a durable pull consumer in
//! batches, each message acknowledged.
//!
//! [`Form::Bare`] is the client that sends no id, for comparison.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context, Message};
use bytes::Bytes;
use fanfare::core::event::Event;
use fanfare::core::event_type::EventType;
use fanfare::core::id::EventId;
use fanfare::core::record;
use fanfare_conformance::broker::{Broker, Durability, nats};
use futures::StreamExt as _;

use crate::Outcome;
use crate::trial::{Publish, Raw, Read};

/// Messages in one pull.
const READ: usize = 1_000;
/// The most messages that may be unacknowledged.
const OPEN: i64 = 20_000;
const STREAM: &str = "raw";
const SUBJECT: &str = "raw.orders.order.placed";

/// What a publish does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// Recognises duplicates, as the backend does.
    Exact,
    /// Stores and nothing else.
    Bare,
}

impl Raw for Form {
    type Publisher = Publisher;
    type Reader = Reader;

    async fn server(self) -> Outcome<Broker> {
        Ok(Broker::start(nats(), Durability::Periodic).await?)
    }

    async fn publisher(self, url: &str) -> Outcome<Publisher> {
        let context = connect(url).await?;
        Ok(Publisher {
            context,
            form: self,
        })
    }

    async fn reader(self, url: &str) -> Outcome<Reader> {
        let context = connect(url).await?;
        let stream = context.get_stream(STREAM).await?;
        let config = pull::Config {
            durable_name: Some("bench".into()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: OPEN,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let messages = consumer.stream().max_messages_per_batch(READ);
        Ok(Reader {
            messages: messages.messages().await?,
            event_type: EventType::parse("orders.order.placed")?,
            last: None,
        })
    }
}

/// Publishes.
#[derive(Clone)]
pub(crate) struct Publisher {
    context: Context,
    form: Form,
}

impl Publish for Publisher {
    async fn publish(self, events: Vec<Event>) -> Outcome<()> {
        let mut stored = Vec::with_capacity(events.len());
        for event in &events {
            let payload = write(event);
            let sent = match self.form {
                Form::Bare => self.context.publish(SUBJECT, payload).await?,
                Form::Exact => {
                    let mut headers = HeaderMap::new();
                    headers.insert("Nats-Msg-Id", event.id().to_string());
                    let sent = self.context.publish_with_headers(SUBJECT, headers, payload);
                    sent.await?
                }
            };
            stored.push(sent);
        }
        for stored in stored {
            stored.await?;
        }
        Ok(())
    }
}

/// Reads as the one consumer, and acknowledges each message.
pub(crate) struct Reader {
    messages: pull::Stream,
    event_type: EventType,
    last: Option<Message>,
}

impl Read for Reader {
    /// Takes one, looks at it, and acknowledges the one before.
    async fn step(&mut self, handle: impl Fn(&Event) + Send + Sync) -> Outcome<usize> {
        let message = self.messages.next().await.ok_or("the consumer ended")??;
        handle(&read(&message.payload, &self.event_type)?);
        if let Some(before) = self.last.replace(message) {
            before.ack().await?;
        }
        Ok(1)
    }

    async fn finish(self) -> Outcome<()> {
        match self.last {
            Some(last) => Ok(last.double_ack().await?),
            None => Ok(()),
        }
    }
}

async fn connect(url: &str) -> Outcome<Context> {
    let context = jetstream::new(async_nats::connect(url).await?);
    let config = Config {
        name: STREAM.into(),
        subjects: vec!["raw.>".into()],
        ..Config::default()
    };
    context.create_stream(config).await?;
    Ok(context)
}

/// Id, attributes and data behind the lengths of the first two.
fn write(event: &Event) -> Bytes {
    let id = event.id().to_string();
    let attributes = record::encode_attributes(event);
    let lengths = [id.len(), attributes.len()].map(|length| u32::try_from(length).unwrap_or(0));
    let [first, second] = lengths.map(u32::to_be_bytes);
    let parts = [
        &first[..],
        &second,
        id.as_bytes(),
        &attributes,
        event.bytes(),
    ];
    Bytes::from(parts.concat())
}

fn read(payload: &Bytes, event_type: &EventType) -> Outcome<Event> {
    let mut rest = payload.clone();
    let mut part = |length: usize| {
        let whole = rest.len() >= length;
        whole
            .then(|| rest.split_to(length))
            .ok_or("a short message")
    };
    let mut length = || -> Outcome<usize> {
        let bytes = part(4)?;
        let bytes: [u8; 4] = bytes[..].try_into()?;
        Ok(usize::try_from(u32::from_be_bytes(bytes))?)
    };
    let (id, attributes) = (length()?, length()?);
    let id = part(id)?;
    let attributes = part(attributes)?;
    let id = EventId::parse(std::str::from_utf8(&id)?)?;
    let source = "/bench".into();
    Ok(record::decode(
        id,
        source,
        event_type.clone(),
        &attributes,
        rest,
    )?)
}
