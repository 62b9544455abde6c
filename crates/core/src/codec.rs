//! Reading and writing the JSON of services that are not CloudEvents: a codec is a tree of member
//! names, each with the place in the event that it shows. [`presets`] are the forms that are met
//! most; others are built from [`Member`]s. Not for CloudEvents themselves: those are
//! [`crate::cloudevents`], one of the two that a [`WireForm`] may be.

mod read;
mod write;

pub mod presets;

use std::borrow::Cow;
use std::sync::Arc;

use crate::cloudevents;
use crate::error::Result;
use crate::event::Event;
use crate::event_type::EventType;

/// What the JSON of an event looks like where other services read and write it too. What a form has
/// no place for is not kept.
#[derive(Debug, Clone)]
pub enum WireForm {
    /// CloudEvents, which keeps everything.
    CloudEvents,
    /// The form of services of one kind.
    Mapped(Codec),
}

impl WireForm {
    /// `cloudevents`, or a [preset](presets) by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "cloudevents" => Some(Self::CloudEvents),
            _ => presets::by_name(name).map(Self::Mapped),
        }
    }

    /// The event's JSON; refused where it lacks what the form requires.
    pub fn write(&self, event: &Event) -> Result<Vec<u8>> {
        match self {
            Self::CloudEvents => Ok(cloudevents::to_json(event)),
            Self::Mapped(codec) => codec.write(event),
        }
    }

    /// The event of its JSON; `told`: the event type that the transport tells, for forms without one.
    pub fn read(&self, json: &[u8], told: Option<&EventType>) -> Result<Event> {
        match self {
            Self::CloudEvents => cloudevents::from_json(json),
            Self::Mapped(codec) => codec.read(json, told),
        }
    }
}

/// The JSON form of an event, as a mapping of members to places.
#[derive(Debug, Clone)]
pub struct Codec {
    members: Vec<Member>,
    source: Arc<str>,
}

impl Codec {
    /// A codec of these members, written in this order.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        Self {
            members: members.into_iter().collect(),
            source: Arc::from("/"),
        }
    }

    /// The source of events whose form does not tell; `/` unless set.
    #[must_use]
    pub fn source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.source = source.into();
        self
    }
}

/// One member of the JSON object.
#[derive(Debug, Clone)]
pub struct Member {
    name: Cow<'static, str>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Object(Vec<Member>),
    Field(Field),
}

#[derive(Debug, Clone)]
struct Field {
    place: Place,
    shape: Shape,
    absent: Absent,
}

impl Member {
    /// A member that shows `place`; a string unless said otherwise.
    pub fn new(name: impl Into<Cow<'static, str>>, place: Place) -> Self {
        let shape = match place {
            Place::Time => Shape::Time,
            Place::Data => Shape::Json,
            _ => Shape::Text,
        };
        Self {
            name: name.into(),
            kind: Kind::Field(Field {
                place,
                shape,
                absent: Absent::Omit,
            }),
        }
    }

    /// A member that shows the extension `extension`.
    pub fn extension(
        name: impl Into<Cow<'static, str>>,
        extension: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(name, Place::Extension(extension.into()))
    }

    /// An object of members; written even where it is empty.
    pub fn object(
        name: impl Into<Cow<'static, str>>,
        members: impl IntoIterator<Item = Self>,
    ) -> Self {
        Self {
            name: name.into(),
            kind: Kind::Object(members.into_iter().collect()),
        }
    }

    /// A number without a fraction.
    #[must_use]
    pub fn integer(self) -> Self {
        self.with(|field| field.shape = Shape::Integer)
    }

    /// An RFC 3339 time.
    #[must_use]
    pub fn time(self) -> Self {
        self.with(|field| field.shape = Shape::Time)
    }

    /// Any JSON, kept as it is.
    #[must_use]
    pub fn json(self) -> Self {
        self.with(|field| field.shape = Shape::Json)
    }

    /// Reading and writing fail without it.
    #[must_use]
    pub fn required(self) -> Self {
        self.with(|field| field.absent = Absent::Refuse)
    }

    /// Zero and what is empty count as nothing, and are not written.
    #[must_use]
    pub fn unless_empty(self) -> Self {
        self.with(|field| field.absent = Absent::OmitEmpty)
    }

    /// Written as `null` where there is nothing to show.
    #[must_use]
    pub fn or_null(self) -> Self {
        self.with(|field| field.absent = Absent::Null)
    }

    /// Written as this text where there is nothing to show.
    #[must_use]
    pub fn or(self, text: &'static str) -> Self {
        self.with(|field| field.absent = Absent::Text(text))
    }

    fn with(mut self, change: impl FnOnce(&mut Field)) -> Self {
        if let Kind::Field(field) = &mut self.kind {
            change(field);
        }
        self
    }
}

/// A place in the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The id.
    Id,
    /// The event type.
    Type,
    /// The source.
    Source,
    /// The thing it is about, whose events are ordered: both subject and key.
    Entity,
    /// The subject alone.
    Subject,
    /// When it happened. Where the member writes that moment in another way than Fanfare does, as with
    /// another offset, its text is kept as the extension `timetext`.
    Time,
    /// The payload, always JSON.
    Data,
    /// An extension.
    Extension(Cow<'static, str>),
    /// The trace id: the extension `traceid`, or that part of `traceparent`.
    Trace,
    /// A segment, counted from 0, of an event type that has exactly three. Where the member says
    /// otherwise it is kept as the extension of the segment's name.
    Segment(usize),
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Integer,
    Time,
    Json,
}

/// What happens where there is nothing to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Omit,
    OmitEmpty,
    Null,
    Text(&'static str),
    Refuse,
}

impl Field {
    /// Whether this JSON is as good as nothing.
    fn is_nothing(&self, json: &str) -> bool {
        self.absent == Absent::OmitEmpty && matches!(json, "0" | "{}" | "[]")
    }
}

const TRACE_ID: &str = "traceid";
/// A time as it was written.
const TIME_TEXT: &str = "timetext";
const SEGMENTS: [&str; 3] = ["schema", "entity", "operation"];
