//! Rules about one file at a time.

use super::Source;

/// The most lines of a Rust file.
const LINES: usize = 500;

/// Names that attract everything and explain nothing.
const DRAWERS: [&str; 6] = ["util", "utils", "common", "helpers", "types", "misc"];

/// The one place where metrics are named.
const TELEMETRY: &str = "crates/bus/src/telemetry";

/// Written in pieces, so that this file does not break its own rule.
const MARKS: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("HA", "CK:"),
    concat!("unimple", "mented!("),
];

pub(super) fn check(source: &Source) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut say = |what: String| breaches.push(format!("{}: {what}", source.path));
    if source.path.ends_with("Cargo.toml")
        && source.text.contains("[package]")
        && !source.text.contains("[lints]\nworkspace = true")
    {
        say("`[lints] workspace = true` is missing".into());
    }
    for (number, line) in source.text.lines().enumerate() {
        if let Some(mark) = MARKS.iter().find(|mark| line.contains(**mark)) {
            say(format!("line {}: unfinished: {mark}", number + 1));
        }
    }
    if source.is("rs") {
        rust(source, &mut say);
    }
    breaches
}

fn rust(source: &Source, say: &mut impl FnMut(String)) {
    if !source.text.starts_with("//! ") {
        say("the first line says with `//!` what the file is for".into());
    }
    let lines = source.text.lines().count();
    if lines > LINES {
        say(format!(
            "{lines} lines, at most {LINES}: split it by responsibility"
        ));
    }
    if source.path.ends_with("/mod.rs") {
        say("name.rs and name/, never mod.rs".into());
    }
    for part in source.path.split('/') {
        let stem = part.trim_end_matches(".rs");
        if DRAWERS.contains(&stem) {
            say(format!(
                "`{stem}` is a drawer: put each thing beside its use"
            ));
        }
    }
    if !source.path.starts_with(TELEMETRY) && !source.path.contains("/tests/") {
        for name in metric_names(&source.text) {
            say(format!("metric `{name}` is named outside {TELEMETRY}.rs"));
        }
    }
}

/// String literals before the tests that look like a metric's name: `fanfare_` and an ending that
/// metrics have, which crate names and schema names do not.
fn metric_names(text: &str) -> impl Iterator<Item = &str> {
    const ENDINGS: [&str; 6] = ["_total", "_seconds", "_bytes", "_size", "_active", "_depth"];
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.split('"').skip(1).step_by(2).filter(|literal| {
        (literal.starts_with("fanfare_") || literal.starts_with("eventbroker_"))
            && ENDINGS.iter().any(|ending| literal.ends_with(ending))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(path: &str, text: &str) -> usize {
        let (path, text) = (path.into(), text.into());
        check(&Source { path, text }).len()
    }

    #[test]
    fn each_rule_can_fail() {
        assert_eq!(breaches("a/src/fine.rs", "//! Fine.\n"), 0);
        assert_eq!(breaches("a/src/bare.rs", "fn main() {}\n"), 1);
        assert_eq!(breaches("a/src/misc.rs", "//! Fine.\n"), 1);
        assert_eq!(breaches("a/src/misc/fine.rs", "//! Fine.\n"), 1);
        assert_eq!(breaches("a/src/mod.rs", "//! Fine.\n"), 1);
        assert_eq!(breaches("a/src/long.rs", &"//! Long.\n".repeat(501)), 1);
        assert_eq!(breaches("a.md", concat!("TO", "DO later")), 1);
        assert_eq!(breaches("a/Cargo.toml", "[package]\nname = \"a\"\n"), 1);
    }

    #[test]
    fn a_metric_is_named_in_one_place() {
        let text = concat!("//! M.\nconst N: &str = \"fanfare_published", "_total\";\n");
        assert_eq!(breaches("crates/server/src/metrics.rs", text), 1);
        assert_eq!(breaches("crates/bus/src/telemetry.rs", text), 0);
        assert_eq!(
            breaches("a/src/a.rs", "//! A.\nlet f = \"fanfare_bus=info\";\n"),
            0
        );
    }
}
