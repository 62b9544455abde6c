//! From what people publish to an event: typed events, builders and whole events, completed with
//! the defaults of the bus and the context of the caller. Checking limits is `publish`'s.

use std::sync::Arc;

use fanfare_core::Result;
use fanfare_core::clock::Clock;
use fanfare_core::data::Data;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::event::{Event, EventBuilder, extension};
use fanfare_core::event_type::EventType;
use serde::Serialize;

use crate::context::Context;

/// The extension that carries [`DomainEvent::VERSION`].
pub const VERSION_EXTENSION: &str = "dataversion";

/// A Rust type that is one event type; derive it with `#[derive(Event)]`.
///
/// The value itself is the event's data, as JSON.
pub trait DomainEvent: Serialize {
    /// The event type, such as `orders.placed`.
    const TYPE: &'static str;
    /// The version of the data's shape, carried as the extension `dataversion`.
    const VERSION: Option<&'static str> = None;
    /// The source; the bus's own when none.
    const SOURCE: Option<&'static str> = None;

    /// The ordering key.
    fn key(&self) -> Option<String> {
        None
    }

    /// What it is about, within the source.
    fn subject(&self) -> Option<String> {
        None
    }

    /// The event's builder, for setting more attributes before publishing.
    fn to_builder(&self) -> Result<EventBuilder> {
        let data = serde_json::to_vec(self).map_err(|e| {
            Error::new(ErrorKind::Invalid, format!("{} is not JSON", Self::TYPE)).because(e)
        })?;
        let mut builder = Event::builder(EventType::parse(Self::TYPE)?)
            .content_type("application/json")
            .data(Data::json(data));
        if let Some(version) = Self::VERSION {
            builder = builder.extension(VERSION_EXTENSION, version);
        }
        if let Some(source) = Self::SOURCE {
            builder = builder.source(source);
        }
        if let Some(key) = self.key() {
            builder = builder.key(key);
        }
        if let Some(subject) = self.subject() {
            builder = builder.subject(subject);
        }
        Ok(builder)
    }
}

/// What a bus fills in where the publisher said nothing.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    source: &'a Arc<str>,
    instance: Option<&'a Arc<str>>,
    clock: &'a Clock,
}

impl<'a> Origin<'a> {
    pub(crate) fn new(
        source: &'a Arc<str>,
        instance: Option<&'a Arc<str>>,
        clock: &'a Clock,
    ) -> Self {
        Self {
            source,
            instance,
            clock,
        }
    }

    /// Builds the event with source, time, instance and the ids of the current context, each
    /// unless it is set.
    pub fn complete(&self, mut builder: EventBuilder) -> Result<Event> {
        if !builder.has_source() {
            builder = builder.source(Arc::clone(self.source));
        }
        if let Some(instance) = self.instance {
            builder = builder.extension_if_absent(extension::INSTANCE_ID, Arc::clone(instance));
        }
        builder = builder.time_if_absent(self.clock.now());
        Context::with_current(|context| context.apply(builder)).build()
    }

    /// Adds the ids of the current context to a whole event; outside of one it stays as it is.
    pub fn adopt(&self, event: Event) -> Result<Event> {
        Context::with_current(|context| {
            if context.adds_nothing_to(&event) {
                Ok(event)
            } else {
                context.apply(event.to_builder()).build()
            }
        })
    }
}

/// Everything that can be published: an [`Event`], an [`EventBuilder`] or a [`DomainEvent`].
pub trait IntoEvent {
    /// The event, completed by `origin`.
    fn into_event(self, origin: &Origin<'_>) -> Result<Event>;
}

impl IntoEvent for Event {
    fn into_event(self, origin: &Origin<'_>) -> Result<Event> {
        origin.adopt(self)
    }
}

impl IntoEvent for &Event {
    fn into_event(self, origin: &Origin<'_>) -> Result<Event> {
        origin.adopt(self.clone())
    }
}

impl IntoEvent for EventBuilder {
    fn into_event(self, origin: &Origin<'_>) -> Result<Event> {
        origin.complete(self)
    }
}

impl<T: DomainEvent> IntoEvent for T {
    fn into_event(self, origin: &Origin<'_>) -> Result<Event> {
        origin.complete(self.to_builder()?)
    }
}
