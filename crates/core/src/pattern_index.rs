//! Which of very many patterns match an event type. Exact patterns are one hash lookup; the others
//! stand in a trie whose edges are interned segments, walked once per event type whatever the
//! number of patterns. Not thread-safe by itself: readers share a snapshot.

use std::collections::HashMap;

use crate::event_type::{EventType, MAX_SEGMENTS};
use crate::pattern::Pattern;

/// Values by pattern, found by event type.
#[derive(Debug, Clone)]
pub struct PatternIndex<T> {
    exact: HashMap<Box<str>, Vec<T>>,
    root: Node<T>,
    segments: Segments,
    len: usize,
}

impl<T> PatternIndex<T> {
    /// An empty index.
    pub fn new() -> Self {
        Self {
            exact: HashMap::new(),
            root: Node::default(),
            segments: Segments::default(),
            len: 0,
        }
    }

    /// How many values it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a value; the same pattern may hold many, and equal ones.
    pub fn insert(&mut self, pattern: &Pattern, value: T) {
        self.len += 1;
        if pattern.is_exact() {
            let values = self.exact.entry(pattern.as_str().into()).or_default();
            values.push(value);
            return;
        }
        let mut node = &mut self.root;
        for segment in pattern.segments() {
            node = match segment {
                "*" => node.one.get_or_insert_default(),
                "**" => node.many.get_or_insert_default(),
                literal => {
                    let id = self.segments.intern(literal);
                    node.literals.entry(id).or_default()
                }
            };
        }
        node.values.push(value);
    }

    /// Removes one value that equals `value`; answers whether there was one.
    pub fn remove(&mut self, pattern: &Pattern, value: &T) -> bool
    where
        T: PartialEq,
    {
        let removed = if pattern.is_exact() {
            let Some(values) = self.exact.get_mut(pattern.as_str()) else {
                return false;
            };
            let removed = take(values, value);
            if values.is_empty() {
                self.exact.remove(pattern.as_str());
            }
            removed
        } else {
            let mut path = pattern.segments();
            self.root.remove(&mut path, value, &mut self.segments)
        };
        if removed {
            self.len -= 1;
        }
        removed
    }

    /// Calls `visit` with every value whose pattern matches, in no particular order. Allocates
    /// nothing.
    pub fn matches(&self, event_type: &EventType, mut visit: impl FnMut(&T)) {
        if let Some(values) = self.exact.get(event_type.as_str()) {
            values.iter().for_each(&mut visit);
        }
        if self.root.is_leaf() {
            return;
        }
        let path = Path::new(event_type, &self.segments);
        self.root.visit(&path, 1, &mut visit);
    }
}

impl<T> Default for PatternIndex<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A place in the trie: what ends here, and what may come next.
#[derive(Debug, Clone)]
struct Node<T> {
    values: Vec<T>,
    literals: HashMap<u32, Node<T>>,
    one: Option<Box<Node<T>>>,
    many: Option<Box<Node<T>>>,
}

impl<T> Node<T> {
    /// `reached` has a bit for every number of segments that the pattern so far can have taken.
    /// Walking all of them at once visits every node at most once, so no value comes twice however
    /// many ways a `**` has to match.
    fn visit(&self, path: &Path, reached: u32, visit: &mut impl FnMut(&T)) {
        if reached & path.end != 0 {
            self.values.iter().for_each(&mut *visit);
        }
        if let Some(many) = &self.many {
            // Everything from the lowest bit to the end.
            let least = reached & reached.wrapping_neg();
            many.visit(path, (path.end << 1) - least, visit);
        }
        let open = reached & (path.end - 1);
        if open == 0 {
            return;
        }
        if let Some(one) = &self.one {
            one.visit(path, open << 1, visit);
        }
        if self.literals.is_empty() {
            return;
        }
        for (at, (id, same)) in path.segments.iter().enumerate() {
            let here = 1 << at;
            let alike = open & same;
            // Equal segments are followed together, from the first of them.
            if alike & here != 0
                && alike & (here - 1) == 0
                && let Some(next) = self.literals.get(id)
            {
                next.visit(path, alike << 1, visit);
            }
        }
    }

    fn remove<'a>(
        &mut self,
        path: &mut impl Iterator<Item = &'a str>,
        value: &T,
        segments: &mut Segments,
    ) -> bool
    where
        T: PartialEq,
    {
        let Some(segment) = path.next() else {
            return take(&mut self.values, value);
        };
        let slot = match segment {
            "*" => &mut self.one,
            "**" => &mut self.many,
            literal => {
                let Some(id) = segments.id(literal) else {
                    return false;
                };
                let Some(next) = self.literals.get_mut(&id) else {
                    return false;
                };
                let removed = next.remove(path, value, segments);
                if removed {
                    segments.release(literal);
                }
                if next.is_empty() {
                    self.literals.remove(&id);
                }
                return removed;
            }
        };
        let removed = slot
            .as_mut()
            .is_some_and(|next| next.remove(path, value, segments));
        if slot.as_ref().is_some_and(|next| next.is_empty()) {
            *slot = None;
        }
        removed
    }

    fn is_leaf(&self) -> bool {
        self.literals.is_empty() && self.one.is_none() && self.many.is_none()
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.is_leaf()
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            literals: HashMap::new(),
            one: None,
            many: None,
        }
    }
}

/// The segments of an event type, ready to be looked up.
struct Path {
    /// The id of each segment, and a bit for every segment that equals it.
    segments: [(u32, u32); MAX_SEGMENTS],
    /// The bit behind the last segment.
    end: u32,
}

impl Path {
    fn new(event_type: &EventType, known: &Segments) -> Self {
        let mut segments = [(Segments::UNKNOWN, 0); MAX_SEGMENTS];
        let mut end = 1;
        for (slot, segment) in segments.iter_mut().zip(event_type.segments()) {
            slot.0 = known.id(segment).unwrap_or(Segments::UNKNOWN);
            end <<= 1;
        }
        let ids = segments.map(|(id, _)| id);
        for (id, same) in &mut segments {
            let equal = ids.iter().enumerate().filter(|(_, other)| *other == id);
            *same = equal.fold(0, |bits, (at, _)| bits | 1 << at);
        }
        Self { segments, end }
    }
}

/// A number for every segment that a pattern in the trie names, and how many name it.
#[derive(Debug, Clone, Default)]
struct Segments {
    ids: HashMap<Box<str>, (u32, usize)>,
    free: Vec<u32>,
}

impl Segments {
    const UNKNOWN: u32 = u32::MAX;

    fn id(&self, segment: &str) -> Option<u32> {
        self.ids.get(segment).map(|(id, _)| *id)
    }

    fn intern(&mut self, segment: &str) -> u32 {
        if let Some((id, uses)) = self.ids.get_mut(segment) {
            *uses += 1;
            return *id;
        }
        // With nothing free, the numbers in use are 0 to len - 1.
        let next = u32::try_from(self.ids.len()).unwrap_or(Self::UNKNOWN);
        let id = self.free.pop().unwrap_or(next);
        self.ids.insert(segment.into(), (id, 1));
        id
    }

    fn release(&mut self, segment: &str) {
        let Some((id, uses)) = self.ids.get_mut(segment) else {
            return;
        };
        *uses -= 1;
        if *uses == 0 {
            self.free.push(*id);
            self.ids.remove(segment);
        }
    }
}

fn take<T: PartialEq>(values: &mut Vec<T>, value: &T) -> bool {
    let found = values.iter().position(|v| v == value);
    if let Some(at) = found {
        values.swap_remove(at);
    }
    found.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_once_however_many_ways_match() {
        let mut index = PatternIndex::new();
        index.insert(&"**.a.**".parse().unwrap(), 1);
        let mut found = Vec::new();
        index.matches(&"a.a.b.a".parse().unwrap(), |value| found.push(*value));
        assert_eq!(found, [1]);
    }

    #[test]
    fn removing_everything_leaves_nothing_behind() {
        let mut index = PatternIndex::new();
        let patterns: Vec<Pattern> = ["a.b", "a.*", "a.**.b", "**", "a.*.c.**"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        for pattern in &patterns {
            index.insert(pattern, 1);
            index.insert(pattern, 2);
        }
        assert!(!index.remove(&patterns[1], &3));
        assert!(!index.remove(&"a.*.d".parse().unwrap(), &1));
        for pattern in &patterns {
            assert!(index.remove(pattern, &1) && index.remove(pattern, &2));
            assert!(!index.remove(pattern, &2));
        }
        assert!(index.is_empty() && index.exact.is_empty() && index.root.is_empty());
        assert!(index.segments.ids.is_empty());
    }
}
