//! The part of `docs/spec/backend-contract.md` that is made from the code: promise, cases,
//! saboteurs. The words around it are written by hand.

use std::fmt::Write;

use crate::case::Case;
use crate::promise::{PROMISES, Promise};
use crate::saboteur::{self, Saboteur};

/// Every promise in full with its cases and the saboteurs that they catch, as Markdown.
pub fn contract_table() -> String {
    let saboteurs = saboteur::all();
    let mut out = String::new();
    for promise in PROMISES {
        // Writing to a string cannot fail.
        let _ = write_promise(&mut out, promise, &saboteurs);
    }
    out
}

fn write_promise(out: &mut String, promise: &Promise, saboteurs: &[&Saboteur]) -> std::fmt::Result {
    writeln!(out, "### {}. {}\n", promise.number, sentence(promise.title))?;
    writeln!(out, "{}\n", promise.text)?;
    if let Some(reason) = promise.planned {
        return writeln!(out, "*Planned, not promised: {reason}.*\n");
    }
    writeln!(out, "Cases:\n")?;
    for case in crate::cases().filter(|case| case.promise == promise.number) {
        writeln!(out, "- `{}` {}", case.topic, plain(case))?;
    }
    writeln!(out, "\n| saboteur | does | caught by |\n|---|---|---|")?;
    for saboteur in saboteurs.iter().filter(|s| s.promise == promise.number) {
        let caught: Vec<_> = saboteur.caught_by.iter().map(|case| words(case)).collect();
        let (name, does) = (saboteur.name, saboteur.does);
        writeln!(out, "| {name} | {does} | {} |", caught.join("; "))?;
    }
    writeln!(out)
}

fn plain(case: &Case) -> String {
    let condition = case.condition();
    let words = case.name.replace('_', " ");
    condition.map_or(words.clone(), |condition| {
        format!("{words} *({condition})*")
    })
}

/// `topic::some_case` as `some case`.
fn words(case: &str) -> String {
    let name = case.split_once("::").map_or(case, |(_, name)| name);
    name.replace('_', " ")
}

fn sentence(title: &str) -> String {
    let mut chars = title.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}
