//! The wire forms of other services: fixtures are read and written back byte for byte, what their
//! publishers really send is taken, and mistakes are named at the member that makes them.

#![expect(clippy::panic, reason = "tests fail by panicking")]

use fanfare_core::codec::{Codec, presets};
use fanfare_core::data::Data;
use fanfare_core::event::{Event, ExtensionValue};
use fanfare_core::event_type::EventType;

fn each_line(name: &str, fixture: &str, address: Option<&str>) -> Vec<Event> {
    let codec = presets::by_name(name).unwrap_or_else(|| panic!("no preset {name}"));
    let address = address.and_then(|text| EventType::parse(text).ok());
    fixture
        .lines()
        .map(|line| {
            let read = codec.read(line.as_bytes(), address.as_ref());
            let event = read.unwrap_or_else(|e| panic!("{line}: {e}"));
            let written = codec
                .write(&event)
                .unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!(String::from_utf8_lossy(&written), line);
            event
        })
        .collect()
}

fn pointers(codec: &Codec, json: &str) -> Vec<String> {
    match codec.read(json.as_bytes(), None) {
        Ok(event) => panic!("{json} was read: {event:?}"),
        Err(error) => error
            .violations()
            .iter()
            .map(|v| v.pointer.clone())
            .collect(),
    }
}

#[test]
fn job_lifecycle_is_ordered_by_source() {
    let fixture = include_str!("fixtures/codec-job-lifecycle.jsonl");
    let events = each_line("job-lifecycle", fixture, None);
    let first = &events[0];
    assert_eq!(first.event_type().as_str(), "SOURCE_CREATED");
    assert_eq!(first.key(), Some("0d9e8f7a-6b5c-4d3e-9f2a-1b0c9d8e7f6a"));
    assert_eq!(first.subject(), first.key());
    assert_eq!(
        first.time().unwrap().to_string(),
        "2026-11-20T10:00:00.123456789Z"
    );
    assert_eq!(events[3].bytes(), b"null");
    // What publishers that exist send where a later one would know better.
    let odd = br#"{"changed_fields":[],"previous":null,"current":{"rate_limit":"10/s"}}"#;
    assert_eq!(events[1].bytes(), odd);
}

#[test]
fn a_time_comes_back_as_it_was_written() {
    let fixture = include_str!("fixtures/codec-crud-audit.jsonl");
    let event = &each_line("crud-audit", fixture, None)[2];
    assert_eq!(
        event.time().unwrap().to_string(),
        "2026-11-20T10:00:00.123456789Z"
    );
    assert_eq!(
        event.extension_str("timetext"),
        Some("2026-11-20T11:00:00.123456789+01:00")
    );
    // Not where the time is another meanwhile.
    let later = event.to_builder();
    let later = later.time("2026-11-20T10:00:01Z".parse().unwrap());
    let written = presets::crud_audit().write(&later.build().unwrap());
    let written = String::from_utf8(written.unwrap()).unwrap();
    assert!(
        written.ends_with(r#""created_at":"2026-11-20T10:00:01Z"}"#),
        "{written}"
    );
}

#[test]
fn notifications_carry_their_metadata_as_extensions() {
    let fixture = include_str!("fixtures/codec-notifications.jsonl");
    let events = each_line("notifications", fixture, None);
    assert_eq!(events[0].extension_str("userid"), Some("u-1"));
    assert_eq!(events[0].extension_str("correlationid"), Some("c-1"));
    assert_eq!(
        events[0].extension("aggregateversion"),
        Some(&ExtensionValue::Integer(1))
    );
    // Too large for a CloudEvents integer, and still written as a number.
    assert_eq!(
        events[1].extension_str("aggregateversion"),
        Some("9007199254740993")
    );
}

#[test]
fn crud_audit_shows_the_segments_of_its_type() {
    let fixture = include_str!("fixtures/codec-crud-audit.jsonl");
    let events = each_line("crud-audit", fixture, None);
    assert_eq!(events[0].extension("schema"), None);
    assert_eq!(events[1].extension_str("schema"), Some("public"));
    assert_eq!(
        events[1].extension_str("metadata"),
        Some(r#"{"b":1,"a":[null]}"#)
    );
    assert_eq!(&**events[1].source(), "system");
    let fresh = Event::builder(EventType::parse("public.users.delete").unwrap())
        .source("frontend")
        .time("2026-11-20T10:00:00Z".parse().unwrap())
        .build()
        .unwrap();
    let written = presets::crud_audit().write(&fresh).unwrap();
    let written = String::from_utf8_lossy(&written);
    assert!(written.contains(r#""status":"pending""#), "{written}");
    assert!(written.contains(r#""operation":"delete""#), "{written}");
}

#[test]
fn crud_audit_has_no_member_that_is_empty() {
    let json = r#"{"id":"e-1","source":"system","type":"a.b","status":"","payload":{},"user_id":0,
        "session_id":"","instance_id":"","schema":"","created_at":"2026-11-20T10:00:00Z",
        "processed_at":null,"error":"","metadata":{},"retry_count":0}"#;
    let codec = presets::crud_audit();
    let event = codec.read(json.as_bytes(), None).unwrap();
    assert_eq!(event.extensions().len(), 0);
    let ours = event.to_builder().extension("retrycount", 0);
    let ours = ours.extension("metadata", "{}").build().unwrap();
    let sparse = br#"{"id":"e-1","source":"system","type":"a.b","status":"pending","payload":{},"created_at":"2026-11-20T10:00:00Z"}"#;
    for event in [event, ours] {
        assert_eq!(codec.write(&event).unwrap(), sparse);
    }
}

#[test]
fn a_user_id_that_is_no_integer_has_no_place_in_crud_audit() {
    let event = Event::builder(EventType::parse("a.b").unwrap())
        .extension("userid", "ada")
        .time("2026-11-20T10:00:00Z".parse().unwrap())
        .build()
        .unwrap();
    let error = presets::crud_audit().write(&event).unwrap_err();
    assert_eq!(error.violations()[0].pointer, "/user_id");
}

#[test]
fn identity_mail_takes_its_type_from_the_address() {
    let fixture = include_str!("fixtures/codec-identity-mail.jsonl");
    let routing_keys = [
        "email.verification.requested",
        "subscription.created",
        "subscription.cancelled",
        "subscription.status_changed",
        "project.created",
    ];
    assert_eq!(fixture.lines().count(), routing_keys.len());
    for (line, key) in fixture.lines().zip(routing_keys) {
        let event = &each_line("identity-mail", line, Some(key))[0];
        assert_eq!(event.event_type().as_str(), key);
        let data = String::from_utf8_lossy(event.bytes());
        assert!(line.ends_with(&format!(r#"{{"data":{data}}}}}"#)), "{data}");
        assert_eq!(pointers(&presets::identity_mail(), line), ["/type"]);
    }
}

#[test]
fn workflow_shows_the_trace_of_the_context() {
    let fixture = include_str!("fixtures/codec-workflow.jsonl");
    let events = each_line("workflow", fixture, None);
    assert_eq!(events[0].extension_str("requestid"), Some("r-1"));
    let traced = events[1]
        .to_builder()
        .extension(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .build()
        .unwrap();
    let written = presets::workflow().write(&traced).unwrap();
    assert!(
        String::from_utf8_lossy(&written)
            .contains(r#""trace_id":"0af7651916cd43dd8448eb211c80319c""#)
    );
}

#[test]
fn empty_texts_nulls_and_unknown_members_are_taken() {
    let json = r#"{"id":"1","event_type":"A","aggregate_id":"x","occurred_at":"2026-11-20T11:00:00+01:00",
        "metadata":null,"aggregate_type":"","version":null,"surprise":[1]}"#;
    let event = presets::notifications()
        .read(json.as_bytes(), None)
        .unwrap();
    assert_eq!(event.data(), None);
    let extensions: Vec<_> = event.extensions().map(|(name, _)| name).collect();
    assert_eq!(extensions, ["partitionkey", "timetext"]);
    assert_eq!(event.time().unwrap().to_string(), "2026-11-20T10:00:00Z");
}

#[test]
fn every_mistake_is_named_at_its_member() {
    let codec = presets::notifications();
    let mut found = pointers(
        &codec,
        r#"{"id":"","event_type":"a..b","occurred_at":"now","version":"x",
            "metadata":{"user_id":7,"timestamp":"then"},"payload":{},"payload":{}}"#,
    );
    found.sort();
    assert_eq!(
        found,
        [
            "/aggregate_id",
            "/event_type",
            "/id",
            "/metadata/timestamp",
            "/metadata/user_id",
            "/occurred_at",
            "/payload",
            "/version",
        ]
    );
    assert_eq!(pointers(&codec, "[]"), [""]);
    assert_eq!(
        pointers(
            &presets::identity_mail(),
            r#"{"event_id":"1","timestamp":"2026-11-20T10:00:00Z","payload":[]}"#
        ),
        ["/payload", "/type"]
    );
}

#[test]
fn what_the_form_cannot_show_is_refused() {
    let bare = Event::builder(EventType::parse("A").unwrap())
        .build()
        .unwrap();
    let error = presets::job_lifecycle().write(&bare).unwrap_err();
    assert_eq!(error.violations().len(), 2, "{error}");
    let binary = bare
        .to_builder()
        .data(Data::binary(vec![0]))
        .build()
        .unwrap();
    let error = presets::identity_mail().write(&binary).unwrap_err();
    assert!(
        error
            .violations()
            .iter()
            .any(|v| v.pointer == "/payload/data"),
        "{error}"
    );
}
