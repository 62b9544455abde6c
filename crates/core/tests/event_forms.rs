//! Every event survives every form: CloudEvents JSON, HTTP binary mode, and the stored record; and
//! no input makes a reader panic.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fmt::Write as _;

use fanfare_core::cloudevents::{from_json, from_plain_json, http, to_json};
use fanfare_core::data::Data;
use fanfare_core::event::{Event, ExtensionValue};
use fanfare_core::event_type::EventType;
use fanfare_core::id::EventId;
use fanfare_core::record;
use fanfare_core::timestamp::Timestamp;
use fanfare_core::{ErrorKind, Result};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

const EARLIEST: i128 = -62_135_596_800_000_000_000;

fn text() -> impl Strategy<Value = String> {
    let forbidden = |c: char| {
        let code = u32::from(c);
        c.is_control() || code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
    };
    vec(
        any::<char>().prop_filter("allowed", move |c| !forbidden(*c)),
        1..20,
    )
    .prop_map(|chars| chars.into_iter().collect())
}

fn extension() -> impl Strategy<Value = ExtensionValue> {
    prop_oneof![
        any::<bool>().prop_map(ExtensionValue::Boolean),
        any::<i32>().prop_map(ExtensionValue::Integer),
        text().prop_map(ExtensionValue::from),
    ]
}

/// Data with a media type that fits them.
fn payload() -> impl Strategy<Value = (Option<&'static str>, Option<Data>)> {
    prop_oneof![
        Just((None, None)),
        Just((Some("application/json"), None)),
        Just((None, Some(Data::json("null")))),
        text().prop_map(|t| {
            let json = serde_json::to_vec(&serde_json::json!({ "text": t })).unwrap();
            (Some("application/json"), Some(Data::json(json)))
        }),
        "[ -~]{1,9}".prop_map(|t| (Some("text/plain; charset=utf-8"), Some(Data::text(t)))),
        vec(any::<u8>(), 1..50).prop_map(|b| (Some("image/png"), Some(Data::binary(b)))),
    ]
}

prop_compose! {
    fn event()(
        id in text(),
        source in "/[a-z/]{0,12}",
        event_type in "[A-Za-z0-9_-]{1,8}(\\.[A-Za-z0-9_-]{1,8}){0,3}",
        subject in option::of(text()),
        nanos in option::of(EARLIEST..Timestamp::MAX.as_nanos()),
        (content_type, data) in payload(),
        schema in option::of("https://[a-z]{1,9}/[a-z]{0,9}"),
        extensions in btree_map("x[a-z0-9]{1,10}", extension(), 0..5),
    ) -> Event {
        let mut builder = Event::builder(EventType::parse(&event_type).unwrap())
            .id(EventId::parse(&id).unwrap())
            .source(source);
        if let Some(subject) = subject {
            builder = builder.subject(subject);
        }
        if let Some(nanos) = nanos {
            builder = builder.time(Timestamp::from_nanos(nanos));
        }
        if let Some(content_type) = content_type {
            builder = builder.content_type(content_type);
        }
        if let Some(schema) = schema {
            builder = builder.schema(schema);
        }
        for (name, value) in extensions {
            builder = builder.extension(&name, value);
        }
        if let Some(data) = data {
            builder = builder.data(data);
        }
        builder.build().unwrap()
    }
}

/// HTTP knows only strings, and spells out that JSON is JSON.
fn as_http_shows(event: &Event) -> Event {
    let mut builder = event.to_builder();
    for (name, value) in event.extensions() {
        builder = builder.extension(name, value.to_string());
    }
    if event.data().is_some() && event.content_type().is_none() {
        builder = builder.content_type("application/json");
    }
    builder.build().unwrap()
}

fn decode(event: &Event, attributes: &[u8]) -> Result<Event> {
    record::decode(
        event.id().clone(),
        event.source().clone(),
        event.event_type().clone(),
        attributes,
        event
            .data()
            .map(|data| data.bytes().clone())
            .unwrap_or_default(),
    )
}

proptest! {
    #[test]
    fn json_gives_back_what_it_was_given(event in event()) {
        prop_assert_eq!(from_json(&to_json(&event)).unwrap(), event);
    }

    #[test]
    fn http_gives_back_what_it_can_show(event in event()) {
        let (headers, body) = http::to_binary(&event);
        for (_, value) in &headers {
            prop_assert!(value.bytes().all(|b| (0x20..0x7F).contains(&b)));
        }
        prop_assert_eq!(http::from_binary(headers, &body).unwrap(), as_http_shows(&event));
    }

    #[test]
    fn the_record_gives_back_what_it_was_given(event in event()) {
        let attributes = record::encode_attributes(&event);
        prop_assert_eq!(decode(&event, &attributes).unwrap(), event);
    }

    #[test]
    fn a_damaged_record_is_refused_or_means_what_it_says(
        event in event(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut attributes = record::encode_attributes(&event);
        let at = at.index(attributes.len());
        if cut {
            attributes.truncate(at);
            prop_assert_eq!(decode(&event, &attributes).unwrap_err().kind(), ErrorKind::Corrupt);
        } else {
            attributes[at] = byte;
            if let Ok(event) = decode(&event, &attributes) {
                prop_assert_eq!(record::encode_attributes(&event), attributes);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..200), event in event()) {
        let _ = from_json(&bytes);
        let _ = from_plain_json(&bytes);
        let _ = http::from_binary([("ce-id", &bytes), ("ce-subject", &bytes)], &bytes);
        let _ = decode(&event, &bytes);
    }
}

#[test]
fn the_frozen_record_decodes_forever() {
    let fixture = include_str!("fixtures/record-v1.hex").trim();
    let bytes: Vec<u8> = (0..fixture.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&fixture[at..at + 2], 16).unwrap())
        .collect();
    let event = Event::builder(EventType::parse("orders.placed").unwrap())
        .id(EventId::parse("7").unwrap())
        .source("/orders")
        .subject("größe")
        .time("2026-11-20T23:59:59.123456789Z".parse().unwrap())
        .content_type("text/plain")
        .schema("https://example.com/order.json")
        .key("customer-1")
        .extension("retries", -3)
        .extension("urgent", true)
        .extension("vip", false)
        .data(Data::text("hello"))
        .build()
        .unwrap();
    let mut hex = String::new();
    for byte in record::encode_attributes(&event) {
        write!(hex, "{byte:02x}").unwrap();
    }
    assert_eq!(hex, fixture);
    assert_eq!(decode(&event, &bytes).unwrap(), event);
}
