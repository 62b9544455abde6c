//! Cursors of listings: opaque to clients, bound to their filter. A cursor also pins the moments
//! that `since` and `until` meant on the first page, so that "the last hour" stays the same hour.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare::core::timestamp::Timestamp;
use uuid::Uuid;

use crate::http::problem::{Code, Problem};

/// Where a listing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// What the next page comes after.
    pub(crate) after: String,
    /// What `since` meant.
    pub(crate) since: Option<Timestamp>,
    /// What `until` meant.
    pub(crate) until: Option<Timestamp>,
}

/// The first field of every cursor: another version is refused, not misread.
const VERSION: &str = "1";

impl Cursor {
    /// The text for clients; `filter` is everything that chose the listing, as it was given.
    pub(crate) fn seal(&self, filter: &str) -> String {
        let moment = |t: Option<Timestamp>| t.map_or(String::new(), |t| t.as_nanos().to_string());
        let (since, until) = (moment(self.since), moment(self.until));
        let print = print(filter);
        let text = format!("{VERSION} {print} {since} {until} {}", self.after);
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Reads what [`Cursor::seal`] wrote for the same filter.
    pub(crate) fn open(text: &str, filter: &str) -> Result<Self, Problem> {
        let read = || {
            let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
            let mut fields = text.splitn(5, ' ');
            let (version, print) = (fields.next()?, fields.next()?.to_owned());
            let moment = |field: &str| match field {
                "" => Some(None),
                nanos => Some(Some(Timestamp::from_nanos(nanos.parse().ok()?))),
            };
            let (since, until) = (moment(fields.next()?)?, moment(fields.next()?)?);
            let after = fields.next()?.to_owned();
            let cursor = Self {
                after,
                since,
                until,
            };
            (version == VERSION).then_some((print, cursor))
        };
        let (bound, cursor) =
            read().ok_or_else(|| Problem::new(Code::InvalidCursor, "this is not a cursor"))?;
        if bound != print(filter) {
            let detail = "the cursor belongs to a listing with another filter";
            return Err(Problem::new(Code::InvalidCursor, detail));
        }
        Ok(cursor)
    }
}

fn print(filter: &str) -> String {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, filter.as_bytes());
    id.simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_for_its_own_filter_only() {
        let cursor = Cursor {
            after: "12 3".into(),
            since: Some(Timestamp::from_millis(5)),
            until: None,
        };
        let sealed = cursor.seal("type=a");
        assert_eq!(Cursor::open(&sealed, "type=a").unwrap(), cursor);
        for (text, filter) in [
            (&*sealed, "type=b"),
            ("", "type=a"),
            ("x!", "type=a"),
            ("MQ", ""),
        ] {
            let problem = Cursor::open(text, filter).unwrap_err();
            assert_eq!(problem.code(), Code::InvalidCursor);
        }
    }
}
