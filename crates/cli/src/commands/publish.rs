//! `fanfare publish`: one event. Files of events are `import`'s.

use std::io::Read;

use fanfare::core::cloudevents;
use fanfare::core::data::Data;
use fanfare::core::event::Event;
use fanfare::core::event_type::EventType;
use fanfare::core::id::EventId;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::args::Common;
use crate::client::Refusal;
use crate::failure::{Failure, Result};

/// The source of events that name none.
const DEFAULT_SOURCE: &str = "/cli";
/// The most bytes read as data; the server's own limit is lower unless configured.
const MAX_DATA_BYTES: u64 = 64 * 1024 * 1024;

/// Publish one event.
#[derive(Debug, clap::Args)]
pub(crate) struct Publish {
    /// The event type, such as orders.placed.
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// JSON data; @FILE reads a file, - reads standard input.
    #[arg(long, short, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    data: Option<String>,
    /// The ordering key.
    #[arg(long, short)]
    key: Option<String>,
    /// Where it happened, a URI reference.
    #[arg(long, short, default_value = DEFAULT_SOURCE)]
    source: String,
    /// The id; publishing the same id of one source again stores nothing. Default: a new UUIDv7.
    #[arg(long)]
    id: Option<String>,
    /// What it is about, within the source.
    #[arg(long)]
    subject: Option<String>,
    /// When it happened, RFC 3339.
    #[arg(long)]
    time: Option<String>,
    /// The media type of the data; other than JSON takes any bytes.
    #[arg(long, default_value = "application/json", value_name = "TYPE")]
    content_type: String,
    /// A CloudEvents extension; may be repeated.
    #[arg(long = "extension", short = 'x', value_name = "NAME=VALUE", value_parser = parse_extension)]
    extensions: Vec<(String, String)>,
}

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
struct Published {
    id: String,
    position: Option<String>,
    duplicate: bool,
}

impl Publish {
    /// Publishes, and says where the event stands.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let (client, out) = (common.client()?, common.output());
        let event = self.event()?;
        let body = cloudevents::to_json(&event);
        let published: Published = client
            .post(&["v1", "events"], "application/cloudevents+json", body)
            .await
            .map_err(|refusal| unknown_outcome(refusal, &event))?;
        if out.json() {
            return out.object(&published);
        }
        let verb = if published.duplicate {
            "duplicate, stored before:"
        } else {
            "stored"
        };
        let place = published
            .position
            .map_or(String::new(), |position| format!(" at position {position}"));
        out.line(&format!("{verb} {}{place}", published.id))
    }

    fn event(&self) -> Result<Event> {
        let mut event = Event::builder(EventType::parse(&self.event_type)?).source(&*self.source);
        if let Some(id) = &self.id {
            event = event.id(EventId::parse(id)?);
        }
        if let Some(key) = &self.key {
            event = event.key(&**key);
        }
        if let Some(subject) = &self.subject {
            event = event.subject(&**subject);
        }
        if let Some(time) = &self.time {
            event = event.time(time.parse()?);
        }
        for (name, value) in &self.extensions {
            event = event.extension(name, &**value);
        }
        if let Some(data) = &self.data {
            let data = self.payload(read_data(data)?)?;
            event = event.content_type(&*self.content_type).data(data);
        }
        Ok(event.build()?)
    }

    fn payload(&self, bytes: Vec<u8>) -> Result<Data> {
        let json = self.content_type == "application/json" || self.content_type.ends_with("+json");
        if json {
            serde_json::from_slice::<IgnoredAny>(&bytes).map_err(|error| {
                Failure::usage(format!(
                    "--data is not JSON ({error}); quote text twice, as in '\"text\"', or give --content-type"
                ))
            })?;
            return Ok(Data::json(bytes));
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => Data::text(text),
            Err(error) => Data::binary(error.into_bytes()),
        })
    }
}

/// An answer that got lost says nothing about the event; its id makes trying again safe.
fn unknown_outcome(refusal: Refusal, event: &Event) -> Failure {
    if !refusal.outcome_unknown {
        return refusal.failure;
    }
    refusal.failure.with_context(&format!(
        "it is not known whether the event was stored; publishing it again with --id {} is safe",
        event.id()
    ))
}

fn read_data(data: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if data == "-" {
        std::io::stdin()
            .take(MAX_DATA_BYTES + 1)
            .read_to_end(&mut bytes)?;
    } else if let Some(path) = data.strip_prefix('@') {
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_DATA_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?;
    } else {
        bytes.extend_from_slice(data.as_bytes());
    }
    if bytes.len() as u64 > MAX_DATA_BYTES {
        return Err(Failure::usage("--data is larger than 64 MiB"));
    }
    Ok(bytes)
}

fn parse_extension(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    if fanfare::core::event::is_extension_name(name) {
        Ok((name.into(), value.into()))
    } else {
        Err(format!(
            "extension name `{name}` is not made of a-z and 0-9"
        ))
    }
}
