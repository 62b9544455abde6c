//! Patterns and the index of patterns against a matcher that is too simple to be wrong.

use fanfare_core::event_type::EventType;
use fanfare_core::pattern::Pattern;
use fanfare_core::pattern_index::PatternIndex;
use proptest::collection::vec;
use proptest::prelude::*;

/// What the words say: `*` is one segment, `**` is zero or more.
fn reference(pattern: &[&str], text: &[&str]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        (["**", rest @ ..], [_, tail @ ..]) => reference(rest, text) || reference(pattern, tail),
        (["**", rest @ ..], []) => reference(rest, text),
        (["*", rest @ ..], [_, tail @ ..]) => reference(rest, tail),
        ([literal, rest @ ..], [head, tail @ ..]) => literal == head && reference(rest, tail),
        _ => false,
    }
}

fn expected(written: &str, text: &str) -> bool {
    if matches!(written, "*" | "#") {
        return true;
    }
    let split = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let mut pattern = split(&written.replace('#', "**"));
    if pattern.last().is_some_and(|last| last == ">") {
        pattern.pop();
        pattern.extend(["*".to_owned(), "**".to_owned()]);
    }
    let pattern: Vec<_> = pattern.iter().map(String::as_str).collect();
    reference(&pattern, &text.split('.').collect::<Vec<_>>())
}

/// Every dotted text of 1 to `longest` segments.
fn every(segments: &[&str], longest: usize) -> Vec<String> {
    let mut all: Vec<String> = segments.iter().map(ToString::to_string).collect();
    let mut last = all.clone();
    for _ in 1..longest {
        last = last
            .iter()
            .flat_map(|head| segments.iter().map(move |tail| format!("{head}.{tail}")))
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

fn found(index: &PatternIndex<usize>, event_type: &EventType) -> Vec<usize> {
    let mut found = Vec::new();
    index.matches(event_type, |value| found.push(*value));
    found.sort_unstable();
    found
}

#[test]
fn all_small_patterns_match_all_small_types_as_the_words_say() {
    let types: Vec<EventType> = every(&["a", "b"], 5)
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let mut index = PatternIndex::new();
    let mut patterns = Vec::new();
    for written in every(&["a", "b", "*", "**", "#", ">"], 4) {
        if let Ok(pattern) = Pattern::parse(&written) {
            index.insert(&pattern, patterns.len());
            patterns.push((written, pattern));
        }
    }
    assert!(patterns.len() > 500);
    for event_type in &types {
        let mut matching = Vec::new();
        for (number, (written, pattern)) in patterns.iter().enumerate() {
            let matches = expected(written, event_type.as_str());
            assert_eq!(
                pattern.matches(event_type),
                matches,
                "{written} {event_type}"
            );
            if matches {
                matching.push(number);
            }
        }
        assert_eq!(found(&index, event_type), matching, "{event_type}");
    }
}

#[test]
fn the_longest_pattern_is_read_again_from_its_canonical_text() {
    let head = "x".repeat(198);
    if let Ok(pattern) = Pattern::parse(&format!("{head}.>")) {
        assert_eq!(Pattern::parse(pattern.as_str()).unwrap(), pattern);
    }
}

#[test]
fn sixteen_segments_and_two_wildcards_end_quickly() {
    let pattern = Pattern::parse("**.a.a.a.a.a.a.b.**").unwrap();
    let event_type: EventType = ["a"; 16].join(".").parse().unwrap();
    assert!(!pattern.matches(&event_type));
    let mut index = PatternIndex::new();
    index.insert(&pattern, 0);
    assert!(found(&index, &event_type).is_empty());
    index.insert(&"**.a.*.a.**".parse().unwrap(), 1);
    assert_eq!(found(&index, &event_type), [1]);
}

fn pattern() -> impl Strategy<Value = String> {
    vec(
        prop::sample::select(vec!["a", "b", "cc", "*", "**", "#"]),
        1..8,
    )
    .prop_map(|segments| segments.join("."))
    .prop_filter("at most two **", |text| Pattern::parse(text).is_ok())
}

proptest! {
    #[test]
    fn canonical_text_is_stable_and_means_the_same(
        written in pattern(),
        text in "(a|b|cc)(\\.(a|b|cc)){0,7}",
    ) {
        let pattern = Pattern::parse(&written).unwrap();
        prop_assert_eq!(Pattern::parse(pattern.as_str()).unwrap(), pattern.clone());
        prop_assert_eq!(pattern.matches_str(&text), expected(&written, &text));
    }

    #[test]
    fn the_index_holds_what_was_inserted_and_not_removed(
        steps in vec((any::<bool>(), pattern()), 1..40),
        texts in vec("(a|b|cc|d)(\\.(a|b|cc|d)){0,7}", 1..8),
    ) {
        let mut index = PatternIndex::new();
        let mut model: Vec<Pattern> = Vec::new();
        for (insert, written) in &steps {
            let pattern = Pattern::parse(written).unwrap();
            let held = model.iter().position(|p| *p == pattern);
            if *insert {
                index.insert(&pattern, pattern.clone());
                model.push(pattern);
            } else {
                prop_assert_eq!(index.remove(&pattern, &pattern), held.is_some());
                held.map(|at| model.remove(at));
            }
        }
        prop_assert_eq!(index.len(), model.len());
        for text in &texts {
            let mut found: Vec<Pattern> = Vec::new();
            index.matches(&text.parse().unwrap(), |p| found.push(p.clone()));
            let mut matching: Vec<_> =
                model.iter().filter(|p| expected(p.as_str(), text)).cloned().collect();
            found.sort();
            matching.sort();
            prop_assert_eq!(found, matching);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,40}", dotted in "[ab*#>.?]{0,220}") {
        let _ = Pattern::parse(&text);
        let _ = Pattern::parse(&dotted);
    }
}
