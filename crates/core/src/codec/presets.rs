//! The wire forms of five kinds of service, ready to use. Each has a fixture in
//! `tests/fixtures/codec-*.jsonl` that is read and written back byte for byte.

use super::{Codec, Member, Place};
use crate::event::extension;

/// The preset of this name, as configuration files spell it.
pub fn by_name(name: &str) -> Option<Codec> {
    Some(match name {
        "job-lifecycle" => job_lifecycle(),
        "notifications" => notifications(),
        "crud-audit" => crud_audit(),
        "identity-mail" => identity_mail(),
        "workflow" => workflow(),
        _ => return None,
    })
}

/// `{event_id, event_type, source_id, timestamp, payload}`: the entry field `event` of job
/// lifecycle streams. `source_id` names the thing whose events are ordered.
pub fn job_lifecycle() -> Codec {
    Codec::new([
        Member::new("event_id", Place::Id).required(),
        Member::new("event_type", Place::Type).required(),
        Member::new("source_id", Place::Entity).required(),
        Member::new("timestamp", Place::Time).required(),
        Member::new("payload", Place::Data).or_null(),
    ])
    .source("/source-manager")
}

/// `{id, event_type, aggregate_id, aggregate_type, occurred_at, version, metadata{..}, payload}`:
/// domain events on Pub/Sub channels.
pub fn notifications() -> Codec {
    let metadata = [
        Member::extension("user_id", extension::USER_ID),
        Member::extension("correlation_id", extension::CORRELATION_ID),
        Member::extension("causation_id", extension::CAUSATION_ID),
        Member::extension("timestamp", "metadatatime").time(),
        Member::extension("ip_address", "ipaddress"),
        Member::extension("user_agent", "useragent"),
    ];
    Codec::new([
        Member::new("id", Place::Id).required(),
        Member::new("event_type", Place::Type).required(),
        Member::new("aggregate_id", Place::Entity).required(),
        Member::extension("aggregate_type", "aggregatetype"),
        Member::new("occurred_at", Place::Time).required(),
        Member::extension("version", "aggregateversion").integer(),
        Member::object("metadata", metadata),
        Member::new("payload", Place::Data).or_null(),
    ])
}

/// `{id, source, type, status, payload, user_id, .., retry_count}`: the event broker of database
/// applications, without the members that are empty. What belongs to a delivery (status, times, error, retry count) is shown from
/// extensions of the same name, which whoever writes the answer sets.
pub fn crud_audit() -> Codec {
    Codec::new([
        Member::new("id", Place::Id).required(),
        Member::new("source", Place::Source).required(),
        Member::new("type", Place::Type).required(),
        Member::extension("status", "status").or("pending"),
        Member::new("payload", Place::Data),
        Member::extension("user_id", extension::USER_ID)
            .integer()
            .unless_empty(),
        Member::extension("session_id", extension::SESSION_ID),
        Member::extension("instance_id", extension::INSTANCE_ID),
        Member::new("schema", Place::Segment(0)),
        Member::new("entity", Place::Segment(1)),
        Member::new("operation", Place::Segment(2)),
        Member::new("created_at", Place::Time).required(),
        Member::extension("processed_at", "processedat").time(),
        Member::extension("completed_at", "completedat").time(),
        Member::extension("error", "error"),
        Member::extension("metadata", "metadata")
            .json()
            .unless_empty(),
        Member::extension("retry_count", "retrycount")
            .integer()
            .unless_empty(),
    ])
}

/// `{event_id, timestamp, payload{data}}`: messages whose event type is their routing key.
pub fn identity_mail() -> Codec {
    Codec::new([
        Member::new("event_id", Place::Id).required(),
        Member::new("timestamp", Place::Time).required(),
        Member::object("payload", [Member::new("data", Place::Data).required()]),
    ])
}

/// `{id, type, payload, metadata{source, trace_id, user_id, request_id}, timestamp}`: messages of
/// workflow engines.
pub fn workflow() -> Codec {
    let metadata = [
        Member::new("source", Place::Source).required(),
        Member::new("trace_id", Place::Trace),
        Member::extension("user_id", extension::USER_ID),
        Member::extension("request_id", extension::REQUEST_ID),
    ];
    Codec::new([
        Member::new("id", Place::Id).required(),
        Member::new("type", Place::Type).required(),
        Member::new("payload", Place::Data).or_null(),
        Member::object("metadata", metadata),
        Member::new("timestamp", Place::Time).required(),
    ])
}
