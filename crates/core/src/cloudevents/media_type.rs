//! Questions about media types. Not a parser of their parameters.

/// JSON data.
pub const JSON: &str = "application/json";
/// Text data.
pub const TEXT: &str = "text/plain";
/// Data that nothing is known about.
pub const OCTETS: &str = "application/octet-stream";
/// One event in the CloudEvents JSON format.
pub const EVENT: &str = "application/cloudevents+json";
/// Many events in the CloudEvents JSON format.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// Whether it reads `type/subtype`, with or without parameters.
pub fn is_well_formed(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    essence(text)
        .split_once('/')
        .is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// Whether data of this media type are JSON: the subtype is `json` or ends in `+json`.
pub fn is_json(text: &str) -> bool {
    subtype(text).is_some_and(|s| s.eq_ignore_ascii_case("json") || ends_with(s, "+json"))
}

/// Whether data of this media type are text that a JSON string can show.
pub fn is_text(text: &str) -> bool {
    starts_with(text.trim_start(), "text/")
        || subtype(text).is_some_and(|s| s.eq_ignore_ascii_case("xml") || ends_with(s, "+xml"))
}

/// The media type without parameters.
pub(super) fn essence(text: &str) -> &str {
    text.split_once(';').map_or(text, |(e, _)| e).trim()
}

pub(super) fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

fn subtype(text: &str) -> Option<&str> {
    essence(text).split_once('/').map(|(_, subtype)| subtype)
}

fn ends_with(text: &str, suffix: &str) -> bool {
    let at = text.len().checked_sub(suffix.len());
    at.and_then(|at| text.get(at..))
        .is_some_and(|tail| tail.eq_ignore_ascii_case(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognised_by_its_subtype() {
        for yes in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/vnd.github+json",
            "text/json ;x=1",
        ] {
            assert!(is_json(yes), "{yes}");
        }
        for no in [
            "json",
            "application/jsonl",
            "text/plain",
            "application/json5",
            "",
        ] {
            assert!(!is_json(no), "{no}");
        }
    }

    #[test]
    fn a_media_type_has_two_parts() {
        assert!(is_well_formed("application/x.y+z; a=b"));
        for bad in ["json", "/", "a/", "/b", "a b/c", "a/b/c"] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }
}
