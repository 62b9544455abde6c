//! The raw client of RabbitMQ over one connection: a topic exchange and a durable quorum queue, one
//! persistent and mandatory message for each event with the same headers and data, on one channel that
//! confirms; read by one consumer with the window of a quorum queue. What it acknowledged is settled like ours once it
//! is committed and a message that was written after it is confirmed; the next hundreds are read meanwhile.
//!
//! [`Form::Bare`] is the client that sends data without headers, and without `heard` one that never hears whether
//! its acknowledgements arrived, for comparison.

use fanfare::core::event::Event;
use fanfare::core::event_type::EventType;
use fanfare::core::id::EventId;
use fanfare::core::record;
use fanfare_conformance::broker::{Broker, Durability, rabbitmq};
use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    ExchangeKind,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Outcome;
use crate::trial::{Publish, Raw, Read};

const EXCHANGE: &str = "raw";
const QUEUE: &str = "raw.bench";
/// Holds one message, written to hear when everything before is.
const WRITTEN: &str = "raw.written";
const KEY: &str = "orders.order.placed";
/// The most messages that may be unacknowledged.
const WINDOW: u16 = 2_000;
/// Kept when the server restarts.
const PERSISTENT: u8 = 2;

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) form: Form,
    /// Messages in one acknowledgement.
    pub(crate) together: usize,
    /// Whether it is settled only once the server has written that down.
    pub(crate) heard: bool,
}

/// What a message carries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// All that an event is, as the backend writes it.
    Whole,
    /// The data.
    Bare,
}

impl Raw for Client {
    type Publisher = Publisher;
    type Reader = Reader;

    async fn server(self) -> Outcome<Broker> {
        Ok(Broker::start(rabbitmq(), Durability::Always).await?)
    }

    async fn publisher(self, url: &str) -> Outcome<Publisher> {
        let channel = connect(url).await?;
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await?;
        Ok(Publisher {
            channel,
            form: self.form,
        })
    }

    async fn reader(self, url: &str) -> Outcome<Reader> {
        let channel = connect(url).await?;
        let options = BasicQosOptions::default();
        channel.basic_qos(WINDOW, options).await?;
        let scribe = if self.heard {
            channel.tx_select().await?;
            Some(Scribe::start(url, channel.clone()).await?)
        } else {
            None
        };
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        let coming = channel.basic_consume(QUEUE.into(), "bench".into(), options, table);
        Ok(Reader {
            coming: coming.await?,
            channel,
            event_type: EventType::parse(KEY)?,
            together: self.together,
            scribe,
            open: 0,
            last: 0,
        })
    }
}

/// Publishes.
#[derive(Clone)]
pub(crate) struct Publisher {
    channel: Channel,
    form: Form,
}

impl Publish for Publisher {
    async fn publish(self, events: Vec<Event>) -> Outcome<()> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let mut sent = Vec::with_capacity(events.len());
        for event in &events {
            let properties = match self.form {
                Form::Whole => write(event),
                Form::Bare => BasicProperties::default(),
            };
            let sending = self.channel.basic_publish(
                EXCHANGE.into(),
                KEY.into(),
                options,
                event.bytes(),
                properties.with_delivery_mode(PERSISTENT),
            );
            sent.push(sending.await?);
        }
        for confirmation in sent {
            match confirmation.await? {
                Confirmation::Ack(None) => {}
                _ => return Err("not every event was stored".into()),
            }
        }
        Ok(())
    }
}

/// Reads as the one consumer.
pub(crate) struct Reader {
    coming: Consumer,
    channel: Channel,
    event_type: EventType,
    together: usize,
    scribe: Option<Scribe>,
    /// Read and not acknowledged.
    open: usize,
    last: u64,
}

impl Reader {
    async fn acknowledge(&mut self) -> Outcome<()> {
        let options = BasicAckOptions {
            multiple: self.together > 1,
        };
        self.open = 0;
        self.channel.basic_ack(self.last, options).await?;
        if let Some(scribe) = &self.scribe {
            scribe.acknowledged.send(())?;
        }
        Ok(())
    }
}

/// Has written down what was acknowledged: all that was meanwhile, again and again.
struct Scribe {
    acknowledged: watch::Sender<()>,
    writing: JoinHandle<Outcome<()>>,
}

impl Scribe {
    async fn start(url: &str, channel: Channel) -> Outcome<Self> {
        let pen = connect(url).await?;
        let mut one = FieldTable::default();
        one.insert("x-queue-type".into(), text("quorum"));
        one.insert("x-max-length".into(), AMQPValue::LongInt(1));
        let options = QueueDeclareOptions::durable();
        pen.queue_declare(WRITTEN.into(), options, one).await?;
        pen.confirm_select(ConfirmSelectOptions::default()).await?;
        let (acknowledged, mut more) = watch::channel(());
        let writing = tokio::spawn(async move {
            while more.changed().await.is_ok() {
                commit(&channel, &pen).await?;
            }
            Ok(())
        });
        Ok(Self {
            acknowledged,
            writing,
        })
    }

    /// All of it.
    async fn finish(self) -> Outcome<()> {
        drop(self.acknowledged);
        self.writing.await?
    }
}

/// Commits, and hears from `pen` that it is on the disk.
async fn commit(channel: &Channel, pen: &Channel) -> Outcome<()> {
    channel.tx_commit().await?;
    ask(channel).await?;
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let sending = pen.basic_publish("".into(), WRITTEN.into(), options, b"", properties);
    match sending.await?.await? {
        Confirmation::Ack(None) => Ok(()),
        _ => Err("nothing says that it was written".into()),
    }
}

/// Answered once the queue has heard what was sent before.
async fn ask(channel: &Channel) -> Outcome<()> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let asked = channel.queue_declare(QUEUE.into(), passive, FieldTable::default());
    asked.await?;
    Ok(())
}

impl Read for Reader {
    async fn step(&mut self, handle: impl Fn(&Event) + Send + Sync) -> Outcome<usize> {
        let message = self.coming.next().await.ok_or("the consumer ended")??;
        handle(&read(&message.properties, message.data, &self.event_type)?);
        self.last = message.delivery_tag;
        self.open += 1;
        if self.open == self.together {
            self.acknowledge().await?;
        }
        Ok(1)
    }

    async fn finish(mut self) -> Outcome<()> {
        if self.open > 0 {
            self.acknowledge().await?;
        }
        if let Some(scribe) = self.scribe {
            scribe.finish().await?;
        }
        // Acknowledgements are not answered; what is asked behind them is.
        ask(&self.channel).await
    }
}

/// A channel, and what it needs.
async fn connect(url: &str) -> Outcome<Channel> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let (options, none) = (
        ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        },
        FieldTable::default,
    );
    channel
        .exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, options, none())
        .await?;
    let mut quorum = none();
    quorum.insert("x-queue-type".into(), text("quorum"));
    let options = QueueDeclareOptions::durable();
    channel.queue_declare(QUEUE.into(), options, quorum).await?;
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(
        QUEUE.into(),
        EXCHANGE.into(),
        "orders.#".into(),
        options,
        none(),
    );
    bound.await?;
    Ok(channel)
}

fn write(event: &Event) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("id".into(), text(&event.id().to_string()));
    headers.insert("source".into(), text(event.source()));
    headers.insert("type".into(), text(event.event_type().as_str()));
    let attributes = record::encode_attributes(event);
    headers.insert("a".into(), AMQPValue::ByteArray(attributes.into()));
    BasicProperties::default().with_headers(headers)
}

fn read(properties: &BasicProperties, data: Vec<u8>, event_type: &EventType) -> Outcome<Event> {
    let headers = properties.headers().as_ref().ok_or("no headers")?;
    let header = |name: &str| {
        let mut all = headers.inner().iter();
        all.find_map(|(key, value)| (key.as_str() == name).then_some(value))
    };
    let (Some(AMQPValue::LongString(id)), Some(AMQPValue::ByteArray(attributes))) =
        (header("id"), header("a"))
    else {
        return Err("a message of somebody else".into());
    };
    Ok(record::decode(
        EventId::parse(std::str::from_utf8(id.as_bytes())?)?,
        "/bench".into(),
        event_type.clone(),
        attributes.as_slice(),
        data,
    )?)
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.as_bytes().to_vec().into())
}
