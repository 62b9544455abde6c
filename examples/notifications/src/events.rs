//! What happens in a chat, as all services of the application write it: `{id, event_type,
//! aggregate_id, .., metadata, payload}`. These are the payloads; the envelope is the bus's, told
//! by `wire=notifications`.

use std::net::IpAddr;

use fanfare::bus::extract::FromRequest;
use fanfare::bus::handler::Request;
use fanfare::core::event::{EventBuilder, extension};
use fanfare::core::id::EventId;
use fanfare::core::timestamp::Timestamp;
use fanfare::prelude::*;
use serde::{Deserialize, Serialize};

/// A chat, or a task, which is a chat with an assignee and a status.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "ChatCreated")]
pub struct ChatCreated {
    /// What it is about.
    pub title: String,
    /// Who is in it, beside whoever created it.
    pub participants: Vec<String>,
}

/// The task is somebody's now; who is not in the chat yet comes in.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "UserAssigned")]
pub struct UserAssigned {
    /// Whose.
    pub user_id: String,
}

/// The task has got on.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "StatusChanged")]
pub struct StatusChanged {
    /// How far.
    pub status: String,
}

/// Somebody said something.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "MessagePosted")]
pub struct MessagePosted {
    /// What.
    pub text: String,
}

/// Who asks for a change, and from where.
#[derive(Debug)]
pub struct Caller {
    /// The user.
    pub user: String,
    /// The user's address.
    pub address: Option<IpAddr>,
    /// The user's program.
    pub agent: Option<String>,
}

/// The event of a change to `chat`. Those of one chat are handled in order.
pub fn of_chat(chat: &str, change: &impl DomainEvent) -> fanfare::core::Result<EventBuilder> {
    let event = change.to_builder()?.key(chat);
    Ok(event
        .extension("aggregatetype", "Chat")
        .extension("aggregateversion", 1))
}

/// The same because somebody asked for it.
pub fn asked_by(
    caller: Caller,
    chat: &str,
    change: &impl DomainEvent,
    now: Timestamp,
) -> fanfare::core::Result<EventBuilder> {
    let mut event = of_chat(chat, change)?
        .time(now)
        .extension(extension::USER_ID, caller.user)
        .extension("metadatatime", now.to_string());
    if let Some(address) = caller.address {
        event = event.extension("ipaddress", address.to_string());
    }
    if let Some(agent) = caller.agent {
        event = event.extension("useragent", agent);
    }
    Ok(event)
}

/// What handlers want to know of an event beside its payload.
#[derive(Debug, Clone)]
pub struct About {
    /// The event; the same however often it is delivered.
    pub id: EventId,
    /// The chat.
    pub chat: String,
    /// Who did it; empty where nobody did.
    pub by: String,
    /// When it happened, in microseconds since 1970.
    pub at: i64,
}

impl FromRequest for About {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        let event = request.event();
        let chat = event.key().ok_or_else(|| Outcome::reject("no chat"))?;
        let by = event.extension_str(extension::USER_ID).unwrap_or_default();
        Ok(Self {
            id: event.id().clone(),
            chat: chat.to_owned(),
            by: by.to_owned(),
            at: event.time().map_or(0, Timestamp::as_micros),
        })
    }
}
