//! What people and programs see: lines, aligned tables, JSON lines. Control characters never reach
//! a terminal, and colour only reaches one. What a command shows is decided in its own file.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stderr, stdout};

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::failure::{Failure, Result};

/// Standard output as this command uses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

/// A colour that carries a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Faint,
    Strong,
    Good,
    Bad,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Faint => "2",
            Self::Strong => "1",
            Self::Good => "32",
            Self::Bad => "31",
        }
    }
}

impl Output {
    /// Looks at standard output and `NO_COLOR`.
    pub(crate) fn new(json: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            colour: stdout().is_terminal() && !no_colour,
        }
    }

    /// Whether `--json` was given.
    pub(crate) fn json(self) -> bool {
        self.json
    }

    /// `text`, cleaned, in a tone where there is colour.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let text = clean(text);
        if self.colour && tone != Tone::Plain {
            format!("\x1b[{}m{text}\x1b[0m", tone.code())
        } else {
            text.into_owned()
        }
    }

    /// Writes one line of painted or cleaned text.
    #[expect(clippy::unused_self, reason = "one way in for all output")]
    pub(crate) fn line(self, text: &str) -> Result<()> {
        let mut out = stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    /// Writes one JSON object on one line.
    pub(crate) fn object(self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
        self.line(&one_line_json(&text))
    }

    /// Writes a table: cells are cleaned, columns aligned, the last one not padded.
    pub(crate) fn table(self, table: &Table) -> Result<()> {
        let widths = table.widths();
        self.line(&self.row(&table.header, &widths, &table.right, Tone::Faint))?;
        self.rows(table)
    }

    /// Writes a table without its header, as the next page of a longer one.
    pub(crate) fn rows(self, table: &Table) -> Result<()> {
        let widths = table.widths();
        for row in &table.rows {
            self.line(&self.row(row, &widths, &table.right, Tone::Plain))?;
        }
        Ok(())
    }

    fn row(self, cells: &[String], widths: &[usize], right: &[bool], tone: Tone) -> String {
        let mut line = String::new();
        for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let padding = " ".repeat(width.saturating_sub(cell.width()));
            let last = index + 1 == cells.len();
            if right.get(index).copied().unwrap_or_default() {
                line.push_str(&padding);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                if !last {
                    line.push_str(&padding);
                }
            }
            if !last {
                line.push_str("  ");
            }
        }
        self.paint(tone, &line)
    }
}

/// Says something beside the output, on standard error.
pub(crate) fn note(text: &str) {
    // Nothing can be done when even this cannot be written.
    let _ = writeln!(stderr().lock(), "{}", clean(text));
}

/// Rows under a header. Columns whose name is given in capitals with a leading `#` are numbers.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a leading `#` aligns a column to the right.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self {
            header: columns
                .iter()
                .map(|name| name.trim_start_matches('#').into())
                .collect(),
            right: columns.iter().map(|name| name.starts_with('#')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        let cells = cells.map(|cell| match cell {
            "" => "-".to_owned(),
            cell => clean(cell).into_owned(),
        });
        self.rows.push(cells.into());
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|name| name.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        widths
    }
}

/// `text` with everything that a terminal might obey shown as an escape.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// At most `limit` characters of `text`, with an ellipsis where it was longer.
pub(crate) fn shorten(text: &str, limit: usize) -> Cow<'_, str> {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// JSON text on one line: white space between tokens is left out, unsafe characters in strings
/// are escaped, and every value keeps its digits, because nothing is parsed.
pub(crate) fn one_line_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        if in_string && is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else if in_string || !c.is_ascii_whitespace() {
            out.push(c);
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
    }
    out
}

/// JSON text in lines of two spaces a level, for people. Like [`one_line_json`] it keeps every digit.
pub(crate) fn pretty_json(text: &str) -> Vec<String> {
    let (mut lines, mut line, mut depth) = (Vec::new(), String::new(), 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    let compact = one_line_json(text);
    let mut rest = compact.chars().peekable();
    while let Some(c) = rest.next() {
        let next_closes = matches!(rest.peek(), Some('}' | ']'));
        match c {
            _ if in_string => line.push(c),
            '{' | '[' if !next_closes => {
                depth += 1;
                line.push(c);
                lines.push(std::mem::replace(&mut line, "  ".repeat(depth)));
            }
            ',' => {
                line.push(c);
                lines.push(std::mem::replace(&mut line, "  ".repeat(depth)));
            }
            '}' | ']' if !line.ends_with(['{', '[']) => {
                depth = depth.saturating_sub(1);
                lines.push(std::mem::replace(&mut line, "  ".repeat(depth)));
                line.push(c);
            }
            ':' => line.push_str(": "),
            _ => line.push(c),
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
    }
    lines.push(line);
    lines
}

/// Control characters, and those that reorder what is shown around them.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_no_payload() {
        assert_eq!(clean("a\x1b[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(clean("\u{9b}2J\u{202e}x"), "\\u{9b}2J\\u{202e}x");
        assert_eq!(clean("grüße 世界"), "grüße 世界");
    }

    #[test]
    fn json_stands_on_one_line_with_every_digit() {
        let text = "{ \"a b\" : [ 1.10,\n 12345678901234567890123 ], \"c\\\" \" : \"\u{9b}\\n\" }";
        let line = one_line_json(text);
        assert_eq!(
            line,
            "{\"a b\":[1.10,12345678901234567890123],\"c\\\" \":\"\\u009b\\n\"}"
        );
    }

    #[test]
    fn json_for_people_keeps_every_digit_too() {
        let text = r#"{"a":[1.10,{}, []],"b:[":"x, \" {","c":{"d":null}}"#;
        let lines = pretty_json(text);
        assert_eq!(
            lines,
            [
                "{",
                "  \"a\": [",
                "    1.10,",
                "    {},",
                "    []",
                "  ],",
                "  \"b:[\": \"x, \\\" {\",",
                "  \"c\": {",
                "    \"d\": null",
                "  }",
                "}",
            ]
        );
        assert_eq!(pretty_json("{}"), ["{}"]);
        assert_eq!(pretty_json("7"), ["7"]);
    }

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let mut table = Table::new(&["NAME", "#COUNT", "LAST"]);
        table.row(["世界", "7", "x"]);
        table.row(["abc", "1200", ""]);
        let out = Output {
            json: false,
            colour: false,
        };
        let widths = table.widths();
        let lines: Vec<String> = table
            .rows
            .iter()
            .map(|row| out.row(row, &widths, &table.right, Tone::Plain))
            .collect();
        assert_eq!(lines, ["世界      7  x", "abc    1200  -"]);
    }

    #[test]
    fn long_text_is_shortened_between_characters() {
        assert_eq!(shorten("grüße", 3), "grü…");
        assert_eq!(shorten("grüße", 5), "grüße");
    }
}
