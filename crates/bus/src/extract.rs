//! Extractors: what a handler's arguments may be. Each takes its part of the request, or answers
//! what becomes of the delivery when it cannot.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_core::Result;
use fanfare_core::data::DataKind;
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::error::Error;
use fanfare_core::event::{Event, extension};
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use serde::de::DeserializeOwned;

use crate::bus::Bus;
use crate::handler::{Outcome, Request};
use crate::retry::reason;

/// Takes its part of a request.
pub trait FromRequest: Sized + Send + 'static {
    /// The part, or what becomes of the delivery.
    fn from_request(request: &Request) -> Result<Self, Outcome>;

    /// Whether what it needs was given; asked once, when the subscription starts.
    fn check(states: &States) -> Result<()> {
        let _ = states;
        Ok(())
    }
}

/// The values given with `state`, one per type.
#[derive(Clone, Default)]
pub struct States(Vec<(TypeId, Arc<dyn Any + Send + Sync>)>);

impl States {
    /// Adds a value; the last of a type counts.
    pub fn insert<T: Clone + Send + Sync + 'static>(&mut self, value: T) {
        self.0.insert(0, (TypeId::of::<T>(), Arc::new(value)));
    }

    /// The value of a type.
    pub fn get<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        let (_, value) = self.0.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
        value.downcast_ref::<T>().cloned()
    }

    pub(crate) fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().cloned());
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "States({})", self.0.len())
    }
}

/// The data, read as JSON. Data that do not fit become a dead letter with the reason
/// `undecodable`: another attempt would read the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest for Data<T> {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        decode(request.event()).map(Self).map_err(|error| {
            Outcome::Settle(Settlement::DeadLetter {
                reason: reason::UNDECODABLE.into(),
                error,
            })
        })
    }
}

/// Reads the data of `event` as a `T`.
pub fn decode<T: DeserializeOwned>(event: &Event) -> Result<T, String> {
    let Some(data) = event.data() else {
        return serde_json::from_slice(b"null").map_err(|_| "the event has no data".to_owned());
    };
    let read = match data.kind() {
        DataKind::Json => serde_json::from_slice(data.bytes()),
        DataKind::Text => {
            let text = String::from_utf8_lossy(data.bytes()).into_owned();
            serde_json::from_value(serde_json::Value::String(text))
        }
        DataKind::Binary => return Err("the data are binary; take `Raw`".to_owned()),
    };
    read.map_err(|e| format!("the data are not a {}: {e}", type_name::<T>()))
}

/// The data as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl FromRequest for Raw {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        let bytes = request.event().data().map(|data| data.bytes().clone());
        Ok(Self(bytes.unwrap_or_default()))
    }
}

/// A value given with `state`; a subscription that lacks one does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromRequest for State<T> {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        request
            .state::<T>()
            .map(Self)
            .ok_or_else(|| Outcome::Fail(format!("no state of type {}", type_name::<T>())))
    }

    fn check(states: &States) -> Result<()> {
        match states.get::<T>() {
            Some(_) => Ok(()),
            None => Err(Error::invalid(
                "/state",
                format!(
                    "the handler asks for `{}`, give it with `.state(..)`",
                    type_name::<T>()
                ),
            )),
        }
    }
}

/// Which attempt this is, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl FromRequest for Attempt {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        Ok(Self(request.delivery().attempt))
    }
}

impl FromRequest for Event {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        Ok(request.event().clone())
    }
}

impl FromRequest for Delivery {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        Ok(request.delivery().clone())
    }
}

impl FromRequest for Position {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        Ok(request.delivery().position)
    }
}

impl FromRequest for SubscriptionName {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        Ok(request.subscription().clone())
    }
}

impl FromRequest for Request {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        Ok(request.clone())
    }
}

impl FromRequest for Bus {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        // The bus is only gone while it is dropped: another member, or the next start, takes over.
        request.bus().ok_or(Outcome::Settle(Settlement::Release))
    }
}

/// Everything about the event but its data.
#[derive(Debug, Clone)]
pub struct Metadata(Event);

impl Metadata {
    /// The user on whose behalf it happened.
    pub fn user_id(&self) -> Option<&str> {
        self.0.extension_str(extension::USER_ID)
    }

    /// The user's session.
    pub fn session_id(&self) -> Option<&str> {
        self.0.extension_str(extension::SESSION_ID)
    }

    /// The request that led to it.
    pub fn request_id(&self) -> Option<&str> {
        self.0.extension_str(extension::REQUEST_ID)
    }

    /// The conversation it belongs to.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.extension_str(extension::CORRELATION_ID)
    }

    /// The id of the event that caused it.
    pub fn causation_id(&self) -> Option<&str> {
        self.0.extension_str(extension::CAUSATION_ID)
    }

    /// The W3C trace context.
    pub fn traceparent(&self) -> Option<&str> {
        self.0.extension_str(extension::TRACEPARENT)
    }
}

impl std::ops::Deref for Metadata {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.0
    }
}

impl FromRequest for Metadata {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        Ok(Self(request.event().clone()))
    }
}
