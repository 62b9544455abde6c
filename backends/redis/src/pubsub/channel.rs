//! Which channel carries an event, and what to ask Redis for so that a subscription hears its
//! patterns. A glob of Redis may be wider than a pattern, never narrower: what comes is matched again.

use fanfare_core::event_type::EventType;
use fanfare_core::pattern::{Pattern, PatternSet};

/// The channels of one stream: its prefix and an event type.
#[derive(Debug, Clone)]
pub(super) struct Channels {
    prefix: String,
}

/// A channel, or a glob over channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selector {
    /// As Redis is asked for it, and names it beside each message.
    pub(super) name: String,
    pub(super) is_glob: bool,
    /// The part behind the prefix.
    tail: String,
}

impl Channels {
    pub(super) fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    pub(super) fn of(&self, event_type: &EventType) -> String {
        format!("{}{event_type}", self.prefix)
    }

    /// The event type that a channel carries; none for a channel that is not ours.
    pub(super) fn event_type(&self, channel: &str) -> Option<EventType> {
        EventType::parse(channel.strip_prefix(&self.prefix)?).ok()
    }

    /// What to ask for, without what something wider hears already.
    pub(super) fn selectors(&self, patterns: &PatternSet) -> Vec<Selector> {
        let (exact, wild): (Vec<_>, Vec<_>) = patterns.iter().partition(|p| p.is_exact());
        let mut selectors: Vec<Selector> = Vec::new();
        let mut tails: Vec<String> = wild.into_iter().map(glob).collect();
        if tails.iter().any(|tail| tail == "*") {
            tails = vec!["*".into()];
        }
        tails.dedup();
        let prefix = escaped(&self.prefix);
        selectors.extend(tails.into_iter().map(|tail| Selector {
            name: format!("{prefix}{tail}"),
            is_glob: true,
            tail,
        }));
        for pattern in exact {
            if !selectors.iter().any(|there| there.hears(pattern.as_str())) {
                selectors.push(Selector {
                    name: format!("{}{pattern}", self.prefix),
                    is_glob: false,
                    tail: pattern.as_str().into(),
                });
            }
        }
        selectors
    }
}

impl Selector {
    /// Whether Redis sends it what stands on the channel of this event type.
    fn hears(&self, event_type: &str) -> bool {
        if self.is_glob {
            glob_matches(&self.tail, event_type)
        } else {
            self.tail == event_type
        }
    }
}

/// Redis sends a message once for each selector that hears it. The one that counts came by the first
/// of them: it was asked for before the others, so that it hears whatever they hear.
pub(super) fn counts(selectors: &[Selector], came_by: &str, event_type: &EventType) -> bool {
    let first = selectors.iter().find(|s| s.hears(event_type.as_str()));
    first.is_some_and(|first| first.name == came_by)
}

/// The narrowest glob that a `*` of any length allows: `a.*.b` as it is, `a.**` as `a*`, `a.**.b`
/// as `a.*b`.
fn glob(pattern: &Pattern) -> String {
    let mut out = String::new();
    let mut after_many = true;
    let last = pattern.segments().count() - 1;
    for (index, segment) in pattern.segments().enumerate() {
        let many = segment == "**";
        // `a.**` matches `a` too: a `**` at the end takes the dot before it.
        let ends_in_many = many && index == last;
        if !(after_many || ends_in_many) {
            out.push('.');
        }
        match segment {
            "**" | "*" if out.ends_with('*') => {}
            "**" | "*" => out.push('*'),
            literal => out.push_str(literal),
        }
        after_many = many;
    }
    out
}

/// As Redis matches a glob that has no other sign than `*`.
fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|head| text.strip_prefix(head)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    true
}

/// A prefix in which no character means anything to a glob.
fn escaped(prefix: &str) -> String {
    let mut out = String::with_capacity(prefix.len());
    for c in prefix.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(patterns: &[&str]) -> PatternSet {
        PatternSet::parse(patterns.iter().copied()).unwrap()
    }

    fn names(patterns: &[&str]) -> Vec<String> {
        let selectors = Channels::new("events.").selectors(&set(patterns));
        selectors
            .into_iter()
            .map(|selector| selector.name)
            .collect()
    }

    #[test]
    fn an_exact_pattern_is_a_channel_and_others_are_globs() {
        assert_eq!(names(&["ChatCreated"]), ["events.ChatCreated"]);
        assert_eq!(names(&["a.*"]), ["events.a.*"]);
        assert_eq!(names(&["a.**"]), ["events.a*"]);
        assert_eq!(names(&["a.**.b"]), ["events.a.*b"]);
        assert_eq!(names(&["**.b"]), ["events.*b"]);
        assert_eq!(names(&["a.*.**"]), ["events.a.*"]);
        assert_eq!(names(&["*"]), ["events.*"]);
        assert_eq!(names(&["**", "a.b", "c.*"]), ["events.*"]);
        assert_eq!(names(&["a.*", "a.b", "b.c"]), ["events.a.*", "events.b.c"]);
    }

    #[test]
    fn a_glob_hears_all_that_its_pattern_matches() {
        let types = ["a", "a.b", "a.b.c", "b", "a.x.y.b", "ab", "b.a", "a.b.b"];
        for text in [
            "a", "*.b", "a.*", "a.**", "a.**.b", "**.b", "a.*.**", "**.b.**", "*.*",
        ] {
            let pattern: Pattern = text.parse().unwrap();
            let heard = Channels::new("p:").selectors(&set(&[text]));
            for event_type in types {
                let matches = pattern.matches_str(event_type);
                assert!(
                    !matches || heard[0].hears(event_type),
                    "{text} {event_type}"
                );
            }
        }
    }

    #[test]
    fn of_several_copies_one_counts() {
        let heard = Channels::new("p:").selectors(&set(&["a.*", "*.b", "a.c"]));
        let event_type: EventType = "a.b".parse().unwrap();
        let copies = heard.iter().filter(|s| s.hears("a.b"));
        let counted = copies
            .clone()
            .filter(|s| counts(&heard, &s.name, &event_type));
        assert_eq!((copies.count(), counted.count()), (2, 1));
    }

    #[test]
    fn a_prefix_is_taken_literally() {
        let channels = Channels::new("we[i]rd*:");
        let heard = channels.selectors(&set(&["*"]));
        assert_eq!(heard[0].name, "we\\[i\\]rd\\*:*");
        let event_type = channels.event_type("we[i]rd*:a.b").unwrap();
        assert_eq!(channels.of(&event_type), "we[i]rd*:a.b");
        assert!(channels.event_type("other:a.b").is_none());
        assert!(channels.event_type("we[i]rd*:not a type").is_none());
    }
}
