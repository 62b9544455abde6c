//! Server-sent events, from bytes to messages. Knows the wire format only; connecting again and
//! what a message says are `tail`'s.

use crate::failure::{Failure, Result};

/// The most bytes of one message; an event is far below.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// One message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// The `event` field; empty when unnamed.
    pub(crate) event: String,
    /// The `id` field.
    pub(crate) id: Option<String>,
    /// The `data` lines.
    pub(crate) data: String,
}

/// Collects bytes until messages are whole.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    after_return: bool,
    message: Message,
    has_data: bool,
}

impl Decoder {
    /// Takes more bytes and answers the messages that became whole.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        for &byte in bytes {
            // A line ends with LF, CR, or both.
            let second = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            if second {
                continue;
            }
            if matches!(byte, b'\n' | b'\r') {
                let line = std::mem::take(&mut self.line);
                messages.extend(self.take_line(&String::from_utf8_lossy(&line)));
            } else {
                self.line.push(byte);
            }
        }
        if self.line.len() + self.message.data.len() > MAX_MESSAGE_BYTES {
            return Err(Failure::failed("the server sent a message above 64 MiB"));
        }
        Ok(messages)
    }

    fn take_line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            // Browsers drop messages without data; a bare `event: bye` is still worth hearing.
            let said = std::mem::take(&mut self.has_data) || !message.event.is_empty();
            return said.then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.message.event),
            "id" => self.message.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
                self.has_data = true;
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_wherever_the_bytes_are_cut() {
        let wire = ": hello\r\n\r\nid: 7\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nevent: bye\rdata:x\r\rid: 9\n\n";
        for size in 1..wire.len() {
            let mut decoder = Decoder::default();
            let messages: Vec<_> = wire
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| decoder.feed(chunk).unwrap())
                .collect();
            assert_eq!(messages.len(), 2, "chunks of {size}");
            assert_eq!(messages[0].id.as_deref(), Some("7"));
            assert_eq!(messages[0].data, "{\"a\":\n1}");
            assert_eq!(messages[1].event, "bye");
        }
    }
}
