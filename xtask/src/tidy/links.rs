//! What documents point to is there: relative links, and paths of the project in backticks.

use std::path::Path;

use super::Source;

/// A word in backticks that starts like this is a path from the root.
const PLACES: [&str; 7] = [
    "crates/",
    "backends/",
    "examples/",
    "bench/",
    "docs/",
    "xtask/",
    ".ci/",
];

pub(super) fn check(source: &Source, root: &Path) -> Vec<String> {
    if !source.is("md") {
        return Vec::new();
    }
    let here = Path::new(&source.path).parent().unwrap_or(Path::new(""));
    let links = links(&source.text).map(|link| here.join(link));
    let paths = paths(&source.text).map(Into::into);
    links
        .chain(paths)
        .filter(|path| !root.join(path).exists())
        .map(|path| format!("{}: there is no {}", source.path, path.display()))
        .collect()
}

/// `[text](target)` where the target is a file; the part after `#` left out.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?.split('#').next()?;
        (!target.is_empty() && !target.contains("://")).then_some(target)
    })
}

fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| PLACES.iter().any(|place| word.starts_with(place)))
        .filter(|word| !word.contains([' ', '*', '<', '{']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(text: &str) -> usize {
        let (path, text) = ("docs/a.md".into(), text.into());
        check(&Source { path, text }, crate::root()).len()
    }

    #[test]
    fn a_dead_link_is_found() {
        assert_eq!(
            breaches("[here](../README.md#x), [there](https://example.com/)"),
            0
        );
        assert_eq!(breaches("`xtask/src/main.rs`, `crates/x y`, `fanfare`"), 0);
        assert_eq!(breaches("[gone](gone.md) and `crates/gone.rs`"), 2);
    }
}
