//! `fanfare tail`: follow events live, across restarts of the server. Past events are `events`'.

use std::time::Duration;

use fanfare::core::clock::Clock;
use fanfare::core::pattern::Pattern;
use serde::Deserialize;

use crate::args::Common;
use crate::client::{Client, Refusal};
use crate::commands::events::Item;
use crate::failure::{Failure, Result};
use crate::output::{Output, Tone, note, one_line_json, shorten};
use crate::sse::{Decoder, Message};

/// How many characters of data a line shows.
const DATA_PREVIEW: usize = 120;
/// How long to wait before connecting again, doubling up to the longest.
const RECONNECT_FIRST: Duration = Duration::from_millis(250);
const RECONNECT_LONGEST: Duration = Duration::from_secs(10);

/// Follow events as they are published.
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// Whose type matches, such as 'orders.*'.
    #[arg(default_value = "**")]
    pattern: String,
    /// Begin in the past: a time, or a duration back from now such as 1h.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Stop after so many events.
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
}

/// How a connection ended.
enum End {
    /// Enough was seen.
    Enough,
    /// The server ended it, or it broke; go on from the last position.
    Lost(String),
}

/// Where the following stands, across connections.
struct Follow {
    client: Client,
    out: Output,
    query: Vec<(&'static str, String)>,
    last_id: Option<String>,
    left: Option<u64>,
    delay: Duration,
}

impl Tail {
    /// Follows until enough was seen or the user stops it.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let pattern = Pattern::parse(&self.pattern)?;
        let mut query = vec![("type", pattern.as_str().to_owned())];
        query.extend(self.since.map(|since| ("since", since)));
        let mut follow = Follow {
            client: common.client()?,
            out: common.output(),
            query,
            last_id: None,
            left: self.limit,
            delay: RECONNECT_FIRST,
        };
        let mut response = follow.connect().await.map_err(|refusal| refusal.failure)?;
        let clock = Clock::system();
        loop {
            let reason = match follow.read(&mut response).await? {
                End::Enough => return Ok(()),
                End::Lost(reason) => reason,
            };
            note(&format!("{reason}; connecting again"));
            response = loop {
                clock.sleep(follow.delay).await;
                follow.delay = (follow.delay * 2).min(RECONNECT_LONGEST);
                match follow.connect().await {
                    Ok(response) => break response,
                    // Not there yet, still draining, or busy.
                    Err(refusal) if refusal.temporary => {}
                    Err(refusal) => return Err(refusal.failure),
                }
            };
        }
    }
}

impl Follow {
    async fn connect(&self) -> Result<reqwest::Response, Refusal> {
        self.client
            .stream(&["v1", "tail"], &self.query, self.last_id.as_deref())
            .await
    }

    async fn read(&mut self, response: &mut reqwest::Response) -> Result<End> {
        let mut decoder = Decoder::default();
        loop {
            let chunk = match self.client.chunk(response).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(End::Lost("the server ended the stream".into())),
                Err(failure) => return Ok(End::Lost(failure.to_string())),
            };
            for message in decoder.feed(&chunk)? {
                if self.left == Some(0) {
                    return Ok(End::Enough);
                }
                if let Some(end) = self.show(&message)? {
                    return Ok(end);
                }
            }
            if self.left == Some(0) {
                return Ok(End::Enough);
            }
        }
    }

    fn show(&mut self, message: &Message) -> Result<Option<End>> {
        self.delay = RECONNECT_FIRST;
        match message.event.as_str() {
            "" | "message" => self.show_event(message).map(|()| None),
            "gap" => {
                let gap: Gap = serde_json::from_str(&message.data).unwrap_or_default();
                note(&format!(
                    "events from {} to {} are gone: retention removed them",
                    gap.from, gap.to
                ));
                Ok(None)
            }
            "lagged" => Ok(Some(End::Lost("this reader was too slow".into()))),
            "bye" => Ok(Some(End::Lost("the server is stopping".into()))),
            // A later server may say more.
            _ => Ok(None),
        }
    }

    fn show_event(&mut self, message: &Message) -> Result<()> {
        if self.out.json() {
            self.out.line(&one_line_json(&message.data))?;
        } else {
            let item: Item = serde_json::from_str(&message.data)
                .map_err(|error| Failure::failed(format!("cannot read an event: {error}")))?;
            self.out.line(&self.pretty(&item))?;
        }
        if let Some(id) = &message.id {
            self.last_id = Some(id.clone());
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(())
    }

    fn pretty(&self, item: &Item) -> String {
        let event = &item.event;
        let time = item.recorded.as_deref().or(item.position.as_deref());
        let key = event
            .partitionkey
            .as_deref()
            .map_or(String::new(), |key| format!(" key={key}"));
        let data = event.data_line();
        format!(
            "{}  {}  {}{}  {}",
            self.out.paint(Tone::Faint, time.unwrap_or_default()),
            self.out.paint(Tone::Strong, &event.r#type),
            self.out.paint(Tone::Faint, &event.id),
            self.out.paint(Tone::Faint, &key),
            self.out.paint(Tone::Plain, &shorten(&data, DATA_PREVIEW)),
        )
    }
}

/// A stretch of the log that is gone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Gap {
    from: String,
    to: String,
}
