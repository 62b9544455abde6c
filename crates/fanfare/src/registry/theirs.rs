//! What the URLs of streams of other services have in common.

use fanfare_core::{Error, Result};

use crate::address::Address;

/// Others name their streams as they like.
pub(super) fn take_stream(address: &mut Address) -> Result<String> {
    let stream = address.take("stream").unwrap_or_default();
    if (1..=256).contains(&stream.len()) && stream.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(stream);
    }
    let detail = "with `wire`, `stream` names the other service's stream, without blanks";
    Err(Error::invalid("/backend", detail))
}

pub(super) fn unknown_wire() -> Error {
    Error::invalid(
        "/backend",
        "`wire` in a backend URL is one of cloudevents, job-lifecycle, notifications, crud-audit, \
         identity-mail and workflow",
    )
}
