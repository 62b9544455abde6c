//! What is printed as it is measured, and kept for the results file. Markdown, read well as text.

use std::fmt::Write as _;
use std::path::Path;

use crate::Outcome;

/// The text so far.
pub(crate) struct Report(String);

impl Report {
    pub(crate) fn new() -> Self {
        Self(String::new())
    }

    /// A paragraph.
    pub(crate) fn say(&mut self, text: &str) {
        self.put(&format!("{text}\n\n"));
    }

    /// A heading.
    pub(crate) fn section(&mut self, title: &str) {
        self.put(&format!("## {title}\n\n"));
    }

    /// A table whose columns are as wide as they need to be.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            head.get(column)
                .map_or(0, |h| h.chars().count())
                .max(widest)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let mut text = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            for (cell, width) in cells.zip(&widths) {
                let _ = write!(text, "| {cell:width$} ");
            }
            text.push_str("|\n");
        };
        line(&mut head.iter().copied());
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        line(&mut rule.iter().map(String::as_str));
        for row in rows {
            line(&mut row.iter().map(String::as_str));
        }
        text.push('\n');
        self.put(&text);
    }

    /// Writes everything to `file`.
    pub(crate) fn write(&self, file: &Path) -> Outcome<()> {
        let head = "# Results\n\nWritten by `cargo run --release -p fanfare-bench`; ratios count, \
                    absolute figures are this machine's.\n\n";
        std::fs::write(file, format!("{head}{}\n", self.0.trim_end()))?;
        Ok(())
    }

    #[expect(clippy::print_stdout, reason = "what the program is for")]
    fn put(&mut self, text: &str) {
        print!("{text}");
        self.0.push_str(text);
    }
}

/// A number with thin groups of three, as people read it.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
