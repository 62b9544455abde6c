//! The grammar of event types and sources, checked while compiling. It says what
//! `fanfare_core::event_type` says at run time, and stands here because nothing of ours may be
//! imported.

const MAX_TYPE_BYTES: usize = 200;
const MAX_SEGMENTS: usize = 16;

/// What is wrong with an event type, as a sentence.
pub(crate) fn check_event_type(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("event type is empty; write for example type = \"orders.placed\"".into());
    }
    if text.len() > MAX_TYPE_BYTES {
        let length = text.len();
        return Err(format!(
            "event type is {length} bytes long, at most {MAX_TYPE_BYTES} are allowed"
        ));
    }
    if text.split('.').count() > MAX_SEGMENTS {
        return Err(format!("event type has more than {MAX_SEGMENTS} segments"));
    }
    for segment in text.split('.') {
        if segment.is_empty() {
            return Err(format!("event type `{text}` has an empty segment"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if let Some(bad) = segment.chars().find(|c| !allowed(*c)) {
            let hint = if matches!(bad, '*' | '#' | '>') {
                "; wildcards belong to patterns of subscriptions"
            } else {
                ""
            };
            return Err(format!(
                "event type `{text}` contains `{}`; segments take A-Z a-z 0-9 _ and -{hint}",
                bad.escape_debug()
            ));
        }
    }
    Ok(())
}

/// What is wrong with a source, as a sentence.
pub(crate) fn check_source(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("source is empty; write a URI reference such as \"/orders\"".into());
    }
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "\"<>\\^`{|}".contains(c);
    match text.chars().find(|c| forbidden(*c)) {
        Some(bad) => Err(format!(
            "source contains `{}`; it must be a URI reference such as \"/orders\"",
            bad.escape_debug()
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_kept() {
        for good in ["a", "public.users.create", "SOURCE_CREATED", "a-b.c_d.9"] {
            assert!(check_event_type(good).is_ok(), "{good}");
        }
        let (long, deep) = ("a".repeat(201), ["a"; 17].join("."));
        for bad in ["", "a..b", ".a", "a.", "user*", "a b", "ü", &long, &deep] {
            assert!(check_event_type(bad).is_err(), "{bad}");
        }
        assert!(check_source("/orders").is_ok());
        assert!(check_source("my orders").is_err() && check_source("").is_err());
    }
}
