//! How events stand in messages: in frames of our own, or each as the JSON of a service that is there
//! already, on its subjects.

use bytes::Bytes;
use fanfare_core::cloudevents;
use fanfare_core::codec::WireForm;
use fanfare_core::data::{Data, DataKind};
use fanfare_core::error::{Error, Result};
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_fleet::Slot;

use crate::names::{Names, message_id};

/// The longest prefix of subjects.
const MAX_PREFIX_BYTES: usize = 128;

/// The form of a log's messages.
#[derive(Debug, Clone, Default)]
pub enum Form {
    /// Ours.
    #[default]
    Frames,
    /// JSON that others read and write too, on a stream that is theirs. Nothing is ever removed from
    /// it: others may still need it.
    Messages(MessageForm),
}

/// One event per message: its JSON, on a subject that says its type. What a form has no place for is
/// not kept.
#[derive(Debug, Clone)]
pub struct MessageForm {
    json: WireForm,
    prefix: String,
    /// Whether the source stands before the type.
    says_source: bool,
}

/// An event on its way to the log.
pub(crate) struct Outgoing {
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    /// What the server tells copies by.
    pub(crate) id: String,
}

impl MessageForm {
    /// `cloudevents`, or a [preset](fanfare_core::codec::presets): on the subjects `PREFIX.TYPE`, and
    /// `PREFIX.SOURCE.TYPE` where it is `crud-audit`.
    pub fn preset(name: &str, prefix: impl Into<String>) -> Option<Self> {
        Some(Self {
            json: WireForm::by_name(name)?,
            prefix: prefix.into(),
            says_source: name == "crud-audit",
        })
    }

    pub(crate) fn check(&self) -> Result<()> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let good = |token: &str| !token.is_empty() && token.chars().all(allowed);
        if self.prefix.len() <= MAX_PREFIX_BYTES && self.prefix.split('.').all(good) {
            return Ok(());
        }
        let detail = "subjects begin with words of A-Z a-z 0-9 _ and - with points between them";
        Err(Error::invalid("/subjects", detail))
    }

    /// All of its subjects.
    pub(crate) fn subjects(&self) -> String {
        format!("{}.>", self.prefix)
    }

    /// Whether a stream of these subjects may hold some of its own.
    pub(crate) fn may_stand_in(&self, filter: &str) -> bool {
        let mut filter = filter.split('.');
        for token in self.prefix.split('.') {
            match filter.next() {
                Some(">") => return true,
                Some(any) if any == "*" || any == token => {}
                _ => return false,
            }
        }
        filter.next().is_some()
    }

    fn write(&self, event: &Event) -> Result<Outgoing> {
        let json = self.json.write(event)?;
        let (prefix, event_type) = (&self.prefix, event.event_type());
        let subject = if self.says_source {
            let source = event.source();
            if !is_token(source) {
                let detail = "the source is a word of the subject: no points, blanks or wildcards";
                return Err(Error::invalid("/source", detail));
            }
            format!("{prefix}.{source}.{event_type}")
        } else {
            format!("{prefix}.{event_type}")
        };
        // As it will be read: a form may have no place for the source.
        let read = self.json.read(&json, Some(event_type));
        Ok(Outgoing {
            subject,
            id: message_id(read.as_ref().unwrap_or(event)),
            payload: json.into(),
        })
    }

    /// None: on no subject of its own. What the JSON says counts, not what its subject says beside it.
    fn read(&self, subject: &str, payload: &Bytes) -> Option<Result<Event>> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        let told = match rest.split_once('.') {
            Some((_, told)) if self.says_source => told,
            _ => rest,
        };
        let told = EventType::parse(told).ok();
        let event = self.json.read(payload, told.as_ref());
        Some(match self.json {
            WireForm::CloudEvents => event.map(|e| with_blanks(&e, payload).unwrap_or(e)),
            WireForm::Mapped(_) => event,
        })
    }
}

impl Form {
    /// Whether the log is another service's.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self, Self::Messages(_))
    }

    /// How many bytes of data fit into so many of a message: CloudEvents show binary ones in four
    /// letters for three bytes.
    pub(crate) fn most_data(&self, room: usize) -> usize {
        match self {
            Self::Messages(form) if matches!(form.json, WireForm::CloudEvents) => room / 4 * 3,
            _ => room,
        }
    }

    pub(crate) fn write(&self, event: &Event, names: &Names) -> Result<Outgoing> {
        match self {
            Self::Messages(form) => form.write(event),
            Self::Frames => Ok(Outgoing {
                subject: names.event(event.event_type()),
                payload: fanfare_fleet::encode(std::slice::from_ref(event)).into(),
                id: message_id(event),
            }),
        }
    }

    /// What a message is; none where it is nothing of ours.
    pub(crate) fn read(&self, subject: &str, payload: &Bytes) -> Option<Slot> {
        let event = match self {
            Self::Messages(form) => form.read(subject, payload)?.ok(),
            Self::Frames => one(payload),
        };
        Some(event.map_or_else(|| Slot::Raw(payload.clone()), Slot::Event))
    }
}

/// The event with the blanks around its JSON data, which reading leaves out; none where there are none,
/// or where they are not its: then Fanfare would not have written this message.
fn with_blanks(event: &Event, json: &Bytes) -> Option<Event> {
    let data = event.data().filter(|data| data.kind() == DataKind::Json)?;
    let end = json.strip_suffix(b"}")?;
    let start = end.trim_ascii_end().len().checked_sub(data.bytes().len())?;
    let start = json.get(..start)?.trim_ascii_end().len();
    if end.len() - start == data.bytes().len() {
        return None;
    }
    let whole = Data::json(json.slice(start..end.len()));
    let event = event.to_builder().data(whole).build().ok()?;
    (cloudevents::to_json(&event) == *json).then_some(event)
}

/// The event of a frame that holds one.
fn one(payload: &Bytes) -> Option<Event> {
    let mut events = fanfare_fleet::decode(payload.clone()).ok()?;
    let event = events.pop();
    event.filter(|_| events.is_empty())
}

/// Whether it can stand between two points of a subject.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b > b' ' && b != 0x7f && !b".*>".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(name: &str, prefix: &str) -> MessageForm {
        MessageForm::preset(name, prefix).unwrap()
    }

    #[test]
    fn a_stream_holds_the_form_where_their_subjects_meet() {
        let form = form("workflow", "app.events");
        for holds in [">", "app.>", "app.events.>", "*.events.*", "app.*.a.b"] {
            assert!(form.may_stand_in(holds), "{holds}");
        }
        for not in ["app", "app.events", "app.jobs.>", "other.>"] {
            assert!(!form.may_stand_in(not), "{not}");
        }
    }

    #[test]
    fn prefixes_are_words() {
        for good in ["events", "app.events", "a-b_c.1"] {
            assert!(form("workflow", good).check().is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", "a..b", "a b", "a.*", "a.>", "$JS"] {
            assert!(form("workflow", bad).check().is_err(), "{bad}");
        }
        assert!(MessageForm::preset("morse", "events").is_none());
    }

    #[test]
    fn the_subject_tells_the_type_where_the_form_does_not() {
        let json = Bytes::from_static(
            br#"{"event_id":"1","timestamp":"2026-11-20T10:00:00Z","payload":{"data":{}}}"#,
        );
        let form = Form::Messages(form("identity-mail", "smap.events"));
        let slot = form.read("smap.events.project.created", &json).unwrap();
        assert_eq!(
            slot.event().unwrap().event_type().as_str(),
            "project.created"
        );
        assert!(form.read("smap.other.project.created", &json).is_none());
        assert!(form.read("smap.eventsproject.created", &json).is_none());
        let raw = form.read("smap.events.project created", &json).unwrap();
        assert!(matches!(raw, Slot::Raw(_)));
    }

    #[test]
    fn blanks_around_data_are_kept_where_we_wrote_them() {
        let form = form("cloudevents", "events");
        let event = Event::builder("a.b".parse().unwrap());
        let event = event.data(Data::json(" [1 ]\n")).build().unwrap();
        let json = form.write(&event).unwrap().payload;
        let read = |json: &Bytes| form.read("events.a.b", json).unwrap().unwrap();
        assert_eq!(read(&json), event);
        let theirs = String::from_utf8(json.to_vec()).unwrap();
        let theirs = theirs.replace(r#""data":"#, r#""data" : "#).into();
        assert_eq!(read(&theirs).bytes(), b"[1 ]");
    }

    #[test]
    fn a_source_that_is_no_word_has_no_subject() {
        let event = |source: &str| {
            let event = Event::builder("public.users.create".parse().unwrap()).source(source);
            let event = event.time("2026-11-20T10:00:00Z".parse().unwrap());
            event.build().unwrap()
        };
        let form = form("crud-audit", "events");
        let subject = form.write(&event("database")).unwrap().subject;
        assert_eq!(subject, "events.database.public.users.create");
        for bad in ["https://a.b", "a*"] {
            assert!(form.write(&event(bad)).is_err(), "{bad}");
        }
    }
}
