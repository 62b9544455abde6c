//! Raw Redis Streams over one multiplexed connection: one entry for each event, with the same attributes
//! and data, read by a consumer group 100 at a time.
//!
//! It recognises duplicates by source and id like the backend does, in a script per event or batch;
//! [`Form::Bare`] is the bare client for comparison, which does not.

use fanfare::core::event::Event;
use fanfare::core::event_type::EventType;
use fanfare::core::id::EventId;
use fanfare::core::record;
use fanfare_conformance::broker::{self, Broker, Durability};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, Script};

use crate::Outcome;
use crate::trial::{Publish, Raw, Read};

/// Entries in one read.
const READ: usize = 100;
/// How long a read waits, in milliseconds.
const BLOCK: usize = 1_000;
/// How long ids are remembered, in seconds; as long as the backend does at least.
const WINDOW: u64 = 600;
const STREAM: &str = "raw";
const GROUP: &str = "bench";

/// KEYS: stream. ARGV: window, then for each event: identity, attributes, data.
const APPEND: &str = "
local answers = {}
for i = 2, #ARGV, 3 do
  if redis.call('SET', 'id:' .. ARGV[i], 1, 'NX', 'EX', ARGV[1]) then
    answers[#answers + 1] = redis.call('XADD', KEYS[1], '*', 'i', ARGV[i], 'a', ARGV[i + 1], 'd', ARGV[i + 2])
  else
    answers[#answers + 1] = false
  end
end
return answers
";

/// How it is done, on a server with this setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) durability: Durability,
    pub(crate) form: Form,
}

/// What a publish does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// Recognises duplicates, as the backend does.
    Exact,
    /// Appends and nothing else.
    Bare,
}

impl Raw for Client {
    type Publisher = Publisher;
    type Reader = Reader;

    /// One whose log is not rewritten in the middle of a run.
    async fn server(self) -> Outcome<Broker> {
        let broker = Broker::start(broker::redis(), self.durability).await?;
        let mut connection = connect(&broker.url()).await?;
        let () = redis::cmd("CONFIG")
            .arg(&["SET", "auto-aof-rewrite-percentage", "0"])
            .query_async(&mut connection)
            .await?;
        Ok(broker)
    }

    async fn publisher(self, url: &str) -> Outcome<Publisher> {
        Ok(Publisher {
            connection: connect(url).await?,
            script: Script::new(APPEND),
            form: self.form,
        })
    }

    async fn reader(self, url: &str) -> Outcome<Reader> {
        let mut connection = connect(url).await?;
        let () = connection
            .xgroup_create_mkstream(STREAM, GROUP, "0")
            .await?;
        Ok(Reader {
            connection,
            event_type: EventType::parse("orders.order.placed")?,
            read: Vec::new(),
        })
    }
}

/// Publishes.
#[derive(Clone)]
pub(crate) struct Publisher {
    connection: MultiplexedConnection,
    script: Script,
    form: Form,
}

impl Publish for Publisher {
    async fn publish(mut self, events: Vec<Event>) -> Outcome<()> {
        match self.form {
            Form::Exact => {
                let mut call = self.script.key(STREAM);
                call.arg(WINDOW);
                for event in &events {
                    call.arg(identity(event));
                    call.arg(record::encode_attributes(event));
                    call.arg(event.bytes());
                }
                let answers: Vec<Option<String>> = call.invoke_async(&mut self.connection).await?;
                if answers.len() != events.len() {
                    return Err("not every event was answered".into());
                }
            }
            Form::Bare => {
                let mut pipeline = redis::pipe();
                for event in &events {
                    pipeline.cmd("XADD").arg(STREAM).arg("*");
                    pipeline.arg("i").arg(identity(event));
                    pipeline.arg("a").arg(record::encode_attributes(event));
                    pipeline.arg("d").arg(event.bytes());
                    pipeline.ignore();
                }
                pipeline.query_async::<()>(&mut self.connection).await?;
            }
        }
        Ok(())
    }
}

/// Reads as the one consumer of a group, and acknowledges what it read before.
pub(crate) struct Reader {
    connection: MultiplexedConnection,
    event_type: EventType,
    read: Vec<String>,
}

impl Read for Reader {
    /// Acknowledges what was read before on the way.
    async fn step(&mut self, handle: impl Fn(&Event) + Send + Sync) -> Outcome<usize> {
        let options = StreamReadOptions::default()
            .group(GROUP, "one")
            .count(READ)
            .block(BLOCK);
        let mut pipeline = redis::pipe();
        let acknowledging = !self.read.is_empty();
        if acknowledging {
            pipeline.xack(STREAM, GROUP, &self.read).ignore();
        }
        pipeline.xread_options(&[STREAM], &[">"], &options);
        let (reply,): (Option<StreamReadReply>,) =
            pipeline.query_async(&mut self.connection).await?;
        self.read.clear();
        for entry in reply
            .into_iter()
            .flat_map(|reply| reply.keys)
            .flat_map(|key| key.ids)
        {
            let field = |name: &str| -> Outcome<Vec<u8>> {
                entry
                    .get(name)
                    .ok_or_else(|| format!("no field {name}").into())
            };
            let id: String = entry.get("i").ok_or("no id")?;
            let id = EventId::parse(&id)?;
            let event = record::decode(
                id,
                "/bench".into(),
                self.event_type.clone(),
                &field("a")?,
                field("d")?,
            )?;
            handle(&event);
            self.read.push(entry.id);
        }
        Ok(self.read.len())
    }

    async fn finish(mut self) -> Outcome<()> {
        let () = self.connection.xack(STREAM, GROUP, &self.read).await?;
        Ok(())
    }
}

async fn connect(url: &str) -> Outcome<MultiplexedConnection> {
    let client = redis::Client::open(url)?;
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    Ok(connection.await?)
}

fn identity(event: &Event) -> String {
    event.id().to_string()
}
