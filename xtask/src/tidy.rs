//! The rules of the house that no compiler checks: who may import whom, how a file opens and how
//! long it may be, where metric names live, that documents point to what is there, that each promise
//! has its cases and each row of a system its tests, what licences others' crates have. Runs as a
//! test too. Not a linter of style: that is rustfmt and clippy.

mod files;
mod law;
mod licences;
mod links;
mod promises;

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, root, systems};

/// Files that have rules.
const KINDS: [&str; 5] = [".rs", ".toml", ".md", ".sql", ".sh"];

/// Directories that hold what programs wrote.
const NOT_OURS: [&str; 3] = ["target", "fanfare-data", "node_modules"];

/// A file of the project.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Whether its name ends in `.kind`.
    fn is(&self, kind: &str) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|extension| extension == kind)
    }
}

/// Prints every breach; fails when there is one.
pub(crate) fn run() -> Result {
    let breaches = breaches()?;
    for breach in &breaches {
        println!("{breach}");
    }
    match breaches.len() {
        0 => {
            println!("tidy");
            Ok(())
        }
        n => Err(format!("{n} rules broken").into()),
    }
}

fn breaches() -> Result<Vec<String>> {
    let sources = sources()?;
    let mut breaches = law::check()?;
    breaches.extend(sources.iter().flat_map(files::check));
    breaches.extend(
        sources
            .iter()
            .flat_map(|source| links::check(source, root())),
    );
    breaches.extend(promises::check(&sources));
    breaches.extend(systems::check(&sources));
    breaches.extend(licences::check(&sources)?);
    Ok(breaches)
}

/// Everything under the root but build output, in a steady order.
pub(crate) fn sources() -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(root().join(&dir))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = dir.join(&name);
            if entry.file_type()?.is_dir() {
                if !name.starts_with('.') && !NOT_OURS.contains(&name.as_str()) {
                    open.push(path);
                }
            } else if KINDS.iter().any(|kind| name.ends_with(kind)) {
                let text = fs::read_to_string(entry.path())?;
                let path = path.to_string_lossy().into_owned();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_house_is_tidy() {
        let breaches = super::breaches().unwrap();
        assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
    }
}
