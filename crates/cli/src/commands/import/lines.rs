//! A file's lines as events: each line is read within a bound, checked, and given its id. Knows
//! nothing of the server.

use std::fmt::Write;
use std::io::{BufRead, Read};

use fanfare::core::cloudevents;
use fanfare::core::event::{Event, EventBuilder};
use fanfare::core::id::EventId;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::failure::Result;

/// The longest line, in bytes; far above what a server takes.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;

/// A line that is an event.
#[derive(Debug)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: u64,
    /// The event, with id and source.
    pub(crate) event: Event,
}

/// A line that is not.
#[derive(Debug)]
pub(crate) struct BadLine {
    /// From 1.
    pub(crate) number: u64,
    /// Every rule that it breaks.
    pub(crate) reason: String,
}

/// Reads lines one after another, never more than one at a time.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: R,
    file: String,
    source: String,
    from: u64,
    number: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

/// Tells a CloudEvent from the plain form.
#[derive(Debug, Deserialize)]
struct Peek {
    specversion: Option<IgnoredAny>,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `file` from number `from` on.
    pub(crate) fn new(input: R, file: &str, from: u64) -> Self {
        Self {
            input,
            file: file.to_owned(),
            source: format!("/import/{}", path_segment(file)),
            from,
            number: 0,
            bytes: 0,
            buffer: Vec::new(),
        }
    }

    /// How many bytes were read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line that is not empty; none at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Result<Line, BadLine>>> {
        loop {
            if !self.read()? {
                return Ok(None);
            }
            self.number += 1;
            if self.number < self.from || self.buffer.trim_ascii().is_empty() {
                continue;
            }
            let event = self.event().map_err(|reason| BadLine {
                number: self.number,
                reason,
            });
            return Ok(Some(event.map(|event| Line {
                number: self.number,
                event,
            })));
        }
    }

    /// Reads one line into the buffer, only its beginning when it is too long.
    fn read(&mut self) -> Result<bool> {
        self.buffer.clear();
        let read = (&mut self.input)
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut self.buffer)?;
        self.bytes += read as u64;
        if read as u64 > MAX_LINE_BYTES && self.buffer.last() != Some(&b'\n') {
            self.bytes += self.input.skip_until(b'\n')? as u64;
        }
        Ok(read > 0)
    }

    fn event(&self) -> Result<Event, String> {
        if self.buffer.len() as u64 > MAX_LINE_BYTES {
            return Err("the line is longer than 16 MiB".into());
        }
        let text = std::str::from_utf8(&self.buffer)
            .map_err(|error| format!("the line is not UTF-8: {error}"))?;
        // What editors put before the first line is not part of it.
        let text = text.trim_start_matches('\u{feff}').trim();
        let peek: Peek = serde_json::from_str(text)
            .map_err(|error| format!("the line is not a JSON object: {}", without_line(&error)))?;
        let event = if peek.specversion.is_some() {
            cloudevents::from_json(text.as_bytes())
        } else {
            cloudevents::from_plain_json(text.as_bytes())
                .and_then(|builder| self.complete(builder, text))
        };
        event.map_err(|error| error.to_string())
    }

    /// Gives id and source to an event that has none.
    fn complete(&self, mut builder: EventBuilder, text: &str) -> fanfare::core::Result<Event> {
        if !builder.has_id() {
            let number = self.number.to_string();
            builder = builder.id(EventId::derived(&[&self.file, &number, text]));
        }
        if !builder.has_source() {
            builder = builder.source(self.source.as_str());
        }
        builder.build()
    }
}

/// A JSON error without its line, which is always 1 here.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => format!("{message} at column {}", error.column()),
        None => text,
    }
}

/// A file name as a path segment of a URI: what is not allowed there is percent-encoded.
fn path_segment(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], from: u64) -> Vec<Result<Line, BadLine>> {
        let mut lines = Lines::new(text, "a b.jsonl", from);
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn ids_depend_on_file_line_and_number_alone() {
        let text = b"{\"type\":\"a.b\",\"data\":1}\n{\"type\":\"a.b\",\"data\":1}\r\n";
        let ids = |lines: Vec<Result<Line, BadLine>>| -> Vec<String> {
            let events = lines.into_iter().map(|line| line.unwrap().event);
            events.map(|event| event.id().to_string()).collect()
        };
        let first = ids(read(text, 1));
        assert_eq!(first, ids(read(text, 1)));
        assert_ne!(first[0], first[1], "the same line twice is two events");
        assert_eq!(ids(read(text, 2)), first[1..]);
        let line = read(text, 1).remove(0).unwrap();
        assert_eq!(&**line.event.source(), "/import/a%20b.jsonl");
    }

    #[test]
    fn bad_lines_are_named_and_the_others_go_on() {
        let text = b"\xef\xbb\xbf{\"type\":\"a\"}\n\n{\"type\":\"\"}\n[1]\n{\xff}\n{\"type\":\"a\",\"dta\":1}\n{\"type\":\"z\"}";
        let lines = read(text, 1);
        let shown: Vec<_> = lines
            .iter()
            .map(|line| match line {
                Ok(line) => (line.number, true),
                Err(bad) => (bad.number, false),
            })
            .collect();
        assert_eq!(
            shown,
            [
                (1, true),
                (3, false),
                (4, false),
                (5, false),
                (6, false),
                (7, true)
            ]
        );
    }

    #[test]
    fn a_whole_cloud_event_keeps_its_id() {
        let text = br#"{"specversion":"1.0","id":"7","source":"/s","type":"a"}"#;
        let line = read(text, 1).remove(0).unwrap();
        assert_eq!(line.event.id().to_string(), "7");
    }
}
