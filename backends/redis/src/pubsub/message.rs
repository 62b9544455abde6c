//! What stands in a message: a frame of one event, or the JSON of the services whose channels these
//! are.

use bytes::Bytes;
use fanfare_core::error::{Error, Result};
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;

use crate::form::Form;
use crate::frame;

/// The message of an event; refused where the form has no place for what it requires.
pub(super) fn write(form: &Form, event: &Event) -> Result<Vec<u8>> {
    match form {
        Form::Frames => Ok(frame::encode_all(std::iter::once(event))),
        Form::Entries(form) => form.write_json(event),
    }
}

/// What came on the channel of this event type.
pub(super) fn read(form: &Form, event_type: &EventType, message: &Bytes) -> Result<Event> {
    let event = match form {
        Form::Frames => {
            let mut events = frame::decode(message.clone())?;
            let event = events.pop().filter(|_| events.is_empty());
            event.ok_or_else(|| Error::invalid("", "a message holds one event"))?
        }
        Form::Entries(form) => form.read_json(message, Some(event_type))?,
    };
    if event.event_type() != event_type {
        let detail = format!(
            "`{}` came on the channel of `{event_type}`",
            event.event_type()
        );
        return Err(Error::invalid("/type", detail));
    }
    Ok(event)
}
