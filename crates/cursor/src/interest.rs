//! Which events are a subscription's: its patterns, and since which position each set is in force.

use fanfare_core::event_type::EventType;
use fanfare_core::pattern::PatternSet;

/// Pattern sets in the order they came into force.
#[derive(Debug, Clone, PartialEq)]
pub struct Interest(Vec<(u64, PatternSet)>);

impl Interest {
    /// One set from the beginning.
    pub fn new(patterns: PatternSet) -> Self {
        Self(vec![(0, patterns)])
    }

    /// As stored: each set with the first position it holds for.
    pub fn from_parts(parts: Vec<(u64, PatternSet)>) -> Self {
        Self(parts)
    }

    /// Each set with the first position it holds for.
    pub fn parts(&self) -> &[(u64, PatternSet)] {
        &self.0
    }

    /// Another set from `position` on.
    pub fn change(&mut self, position: u64, patterns: PatternSet) {
        self.0.retain(|(from, _)| *from < position);
        self.0.push((position, patterns));
    }

    /// Forgets sets that no position from `position` on needs.
    pub fn forget_below(&mut self, position: u64) {
        let needed = self
            .0
            .iter()
            .rposition(|(from, _)| *from <= position)
            .unwrap_or(0);
        self.0.drain(..needed);
    }

    /// Whether the event at `position` is the subscription's.
    pub fn matches(&self, position: u64, event_type: &EventType) -> bool {
        let in_force = self.0.iter().rev().find(|(from, _)| *from <= position);
        in_force.is_some_and(|(_, patterns)| patterns.matches(event_type))
    }
}
