//! What is printed as it is measured, and kept for the results file. Markdown, read well as text.

use std::fmt::Write as _;
use std::path::Path;

use crate::Outcome;

const HEAD: &str = "# Results\n\nWritten by `cargo run --release -p fanfare-bench`; ratios count, absolute \
                    figures are this machine's.\n\n";

/// The text so far, by section.
pub(crate) struct Report {
    /// What it was taken on.
    machine: String,
    /// Titles and what stands below them.
    sections: Vec<(String, String)>,
    /// What the titles of comparisons must contain to be made.
    only: String,
}

impl Report {
    pub(crate) fn new(machine: &str, only: &str) -> Self {
        let mut report = Self {
            machine: String::new(),
            sections: Vec::new(),
            only: only.to_owned(),
        };
        report.say(machine);
        report
    }

    /// Whether the comparison of this title is to be made.
    pub(crate) fn wants(&self, title: &str) -> bool {
        title.contains(&self.only)
    }

    /// A paragraph.
    pub(crate) fn say(&mut self, text: &str) {
        self.put(&format!("{text}\n\n"));
    }

    /// A heading.
    pub(crate) fn section(&mut self, title: &str) {
        self.sections.push((title.to_owned(), String::new()));
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

    /// Writes every section to `file`, in place of the one with its title that may be there; others
    /// stay. Only a file without sections is told the machine: whoever measures elsewhere begins anew.
    pub(crate) fn write(&self, file: &Path) -> Outcome<()> {
        let there = std::fs::read_to_string(file).unwrap_or_default();
        let mut parts = there.split("\n## ");
        let head = parts.next().unwrap_or_default().trim_end().to_owned();
        let mut sections: Vec<(String, String)> = parts.map(section).collect();
        for (title, text) in &self.sections {
            match sections.iter_mut().find(|(known, _)| known == title) {
                Some((_, old)) => old.clone_from(text),
                None => sections.push((title.clone(), text.clone())),
            }
        }
        let mut text = if head.is_empty() {
            format!("{HEAD}{}", self.machine.trim_end())
        } else {
            head
        };
        for (_, section) in &sections {
            let _ = write!(text, "\n\n{}", section.trim());
        }
        text.push('\n');
        Ok(std::fs::write(file, text)?)
    }

    #[expect(clippy::print_stdout, reason = "what the program is for")]
    fn put(&mut self, text: &str) {
        print!("{text}");
        match self.sections.last_mut() {
            Some((_, section)) => section.push_str(text),
            None => self.machine.push_str(text),
        }
    }
}

/// A section of a file that was split before each title.
fn section(text: &str) -> (String, String) {
    let title = text.lines().next().unwrap_or_default();
    (title.to_owned(), format!("## {text}"))
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
