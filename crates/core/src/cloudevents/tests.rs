//! The forms against the examples of the CloudEvents texts, and against what must be refused.

use super::http::{Mode, from_binary, to_binary};
use super::*;
use crate::data::DataKind;
use crate::event::{Event, ExtensionValue};

fn structured(members: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"a.b"{members}}}"#)
}

fn violations(json: &str) -> Vec<String> {
    let error = from_json(json.as_bytes()).unwrap_err();
    let mut pointers: Vec<_> = error
        .violations()
        .iter()
        .map(|v| v.pointer.clone())
        .collect();
    pointers.sort();
    pointers
}

fn read(members: &str) -> Event {
    from_json(structured(members).as_bytes()).unwrap()
}

const JSON_EXAMPLE: &str = r#"{
    "specversion" : "1.0",
    "type" : "com.example.someevent",
    "source" : "/mycontext",
    "subject": null,
    "id" : "C234-1234-1234",
    "time" : "2018-04-05T17:31:00Z",
    "comexampleextension1" : "value",
    "comexampleothervalue" : 5,
    "datacontenttype" : "application/json",
    "data" : {
        "appinfoA" : "abc",
        "appinfoB" : 123,
        "appinfoC" : true
    }
}"#;

#[test]
fn the_json_example_is_read_and_its_data_are_untouched() {
    let event = from_json(JSON_EXAMPLE.as_bytes()).unwrap();
    assert_eq!(event.id().to_string(), "C234-1234-1234");
    assert_eq!(&**event.source(), "/mycontext");
    assert_eq!(event.event_type().as_str(), "com.example.someevent");
    assert_eq!(event.subject(), None);
    assert_eq!(event.time().unwrap().to_string(), "2018-04-05T17:31:00Z");
    assert_eq!(event.extension_str("comexampleextension1"), Some("value"));
    assert_eq!(
        event.extension("comexampleothervalue"),
        Some(&ExtensionValue::Integer(5))
    );
    let start = JSON_EXAMPLE.rfind('{').unwrap();
    let end = JSON_EXAMPLE.rfind('}').unwrap();
    assert_eq!(
        event.bytes(),
        JSON_EXAMPLE[start..end].trim_end().as_bytes()
    );
}

#[test]
fn the_examples_re_encode_to_http_binary_mode() {
    let (headers, body) = to_binary(&from_json(JSON_EXAMPLE.as_bytes()).unwrap());
    let get = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| &**v);
    assert_eq!(get("ce-specversion"), Some("1.0"));
    assert_eq!(get("ce-time"), Some("2018-04-05T17:31:00Z"));
    assert_eq!(get("ce-comexampleothervalue"), Some("5"));
    assert_eq!(get("content-type"), Some("application/json"));
    assert_eq!(get("ce-subject"), None);
    assert!(body.starts_with(b"{"));

    // A JSON string stays quoted, and the implied media type is spelt out.
    let (headers, body) = to_binary(&read(r#","data":"I'm just a string""#));
    assert!(headers.contains(&("content-type".into(), "application/json".into())));
    assert_eq!(body, br#""I'm just a string""#);

    let xml = r#","datacontenttype":"application/xml","data":"<much wow=\"xml\"/>""#;
    let (_, body) = to_binary(&read(xml));
    assert_eq!(body, br#"<much wow="xml"/>"#);
}

#[test]
fn a_batch_answers_per_event_and_may_be_empty() {
    assert!(from_json_batch(b" [ ] ").unwrap().is_empty());
    let batch = format!("[{},{{}},7]", structured(""));
    let answers = from_json_batch(batch.as_bytes()).unwrap();
    assert!(answers[0].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().violations().len(), 4);
    assert!(answers[2].is_err());
    let event = read("");
    let written = to_json_batch([&event, &event]);
    assert_eq!(from_json_batch(&written).unwrap().len(), 2);
    let many = format!("[{}1]", "1,".repeat(MAX_BATCH_EVENTS));
    let error = from_json_batch(many.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::TooLarge);
    assert!(from_json_batch(b"{}").is_err());
}

#[test]
fn null_data_are_not_absent_data() {
    assert_eq!(read("").data(), None);
    let event = read(r#","data":null"#);
    assert_eq!(event.bytes(), b"null");
    assert_eq!(event.data().unwrap().kind(), DataKind::Json);
    assert_eq!(from_json(&to_json(&event)).unwrap(), event);
    assert_eq!(read(r#","data_base64":null"#).data(), None);
}

#[test]
fn numbers_order_and_spacing_of_data_survive() {
    for data in [
        r#"{"z":1,"a":1.00,"z":2}"#,
        "123456789012345678901234567890.10",
        "[ 1 ,\t2 ]",
        r#""\ud83d\ude00 \u0041""#,
    ] {
        let event = read(&format!(r#","data":{data}"#));
        assert_eq!(event.bytes(), data.as_bytes());
        let written = to_json(&event);
        assert!(String::from_utf8_lossy(&written).contains(data));
    }
}

#[test]
fn binary_data_are_base64_and_never_taken_for_json() {
    let event = read(r#","data_base64":"AAH/""#);
    assert_eq!(event.bytes(), [0, 1, 255]);
    assert_eq!(event.data().unwrap().kind(), DataKind::Binary);
    assert_eq!(from_json(&to_json(&event)).unwrap(), event);
}

#[test]
fn every_violation_has_its_pointer() {
    assert_eq!(
        violations("{}"),
        ["/id", "/source", "/specversion", "/type"]
    );
    let bad = r#"{"specversion":"0.3","id":"","source":7,"type":"a..b","time":"now",
        "user_id":"x","big":2147483648,"half":1.5,"list":[],"dataschema":"x","datacontenttype":"json"}"#;
    assert_eq!(
        violations(bad),
        [
            "/big",
            "/datacontenttype",
            "/dataschema",
            "/half",
            "/id",
            "/list",
            "/source",
            "/specversion",
            "/time",
            "/type",
            "/user_id",
        ]
    );
    assert_eq!(violations(&structured(r#","id":"2""#)), ["/id"]);
    assert_eq!(violations(&structured(r#","data":1,"data":2"#)), ["/data"]);
    assert_eq!(
        violations(&structured(r#","data":1,"data_base64":"AA==""#)),
        ["/data_base64"]
    );
    assert_eq!(
        violations(&structured(r#","data_base64":"?""#)),
        ["/data_base64"]
    );
    assert_eq!(violations(&structured(r#","a~/b":"x""#)), ["/a~0~1b"]);
    assert_eq!(violations(&structured(r#","lone":"\ud800""#)), ["/lone"]);
    assert_eq!(
        violations(&structured(r#","datacontenttype":"text/plain","data":{}"#)),
        ["/data"]
    );
}

#[test]
fn what_is_no_json_is_one_violation_of_the_whole() {
    for bad in [
        &b""[..],
        b"[]",
        b"7",
        b"{\"id\":",
        b"{} {}",
        b"\xEF\xBB\xBF{}",
        b"{\"id\":\"\xFF\"}",
    ] {
        let error = from_json(bad).unwrap_err();
        assert_eq!(error.violations().len(), 1, "{error}");
        assert_eq!(error.violations()[0].pointer, "");
    }
}

#[test]
fn data_nest_to_the_limit_and_no_deeper() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(
        read(&format!(r#","data":{}"#, nested(64))).bytes().len(),
        128
    );
    assert_eq!(
        violations(&structured(&format!(r#","data":{}"#, nested(65)))),
        ["/data"]
    );
    assert_eq!(
        violations(&structured(&format!(r#","data":{}"#, nested(500_000)))),
        ["/data"]
    );
    let brackets = format!(r#","data":"{}\"{}""#, "[".repeat(99), "{".repeat(99));
    assert_eq!(read(&brackets).data().unwrap().kind(), DataKind::Json);
}

#[test]
fn the_plain_form_needs_a_type_only() {
    let builder = from_plain_json(br#"{"type":"a.b","data":{"x":1},"key":"k"}"#).unwrap();
    assert!(!builder.has_id() && !builder.has_source());
    let event = builder.build().unwrap();
    assert_eq!(event.key(), Some("k"));
    assert_eq!(event.bytes(), br#"{"x":1}"#);
    for (bad, pointer) in [
        (r#"{"type":"a","dta":1}"#, "/dta"),
        (r#"{"data":1}"#, "/type"),
        (r#"{"type":"a","specversion":"1.0"}"#, "/specversion"),
        (
            r#"{"type":"a","key":"k","partitionkey":"k"}"#,
            "/partitionkey",
        ),
        (r#"{"type":"a","type":"a"}"#, "/type"),
    ] {
        let error = from_plain_json(bad.as_bytes()).unwrap_err();
        assert_eq!(error.violations().len(), 1, "{error}");
        assert_eq!(error.violations()[0].pointer, pointer);
    }
    let array = br#" [{"type":"a"},{}]"#;
    assert!(is_array(array));
    assert_eq!(from_plain_json_batch(array).unwrap().len(), 2);
}

#[test]
fn the_content_mode_is_chosen_by_content_type_then_headers() {
    for (content_type, attributes, mode) in [
        (
            Some("application/cloudevents+json; charset=UTF-8"),
            false,
            Mode::Structured,
        ),
        (Some("Application/CloudEvents+JSON"), true, Mode::Structured),
        (
            Some("application/cloudevents-batch+json"),
            false,
            Mode::Batch,
        ),
        (Some("application/json"), true, Mode::Binary),
        (Some("application/json"), false, Mode::Plain),
        (None, true, Mode::Binary),
    ] {
        assert_eq!(Mode::of(content_type, attributes).unwrap(), mode);
    }
    for (content_type, attributes) in [
        (Some("application/cloudevents+avro"), true),
        (Some("text/plain"), false),
        (None, false),
    ] {
        let error = Mode::of(content_type, attributes).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
    }
}

const REQUIRED: [(&str, &str); 4] = [
    ("CE-SpecVersion", "1.0"),
    ("ce-id", "1"),
    ("ce-source", "/s"),
    ("ce-type", "a.b"),
];

fn binary(more: &[(&str, &str)], body: &[u8]) -> crate::Result<Event> {
    from_binary(REQUIRED.into_iter().chain(more.iter().copied()), body)
}

#[test]
fn header_values_are_percent_encoded() {
    let text = "Euro € 😀 \"100%\"";
    let event = read("").to_builder().subject(text).build().unwrap();
    let (headers, body) = to_binary(&event);
    let (_, subject) = headers.iter().find(|(n, _)| n == "ce-subject").unwrap();
    assert_eq!(subject, "Euro%20%E2%82%AC%20%F0%9F%98%80%20%22100%25%22");
    assert_eq!(from_binary(headers, &body).unwrap(), event);
}

#[test]
fn header_values_are_unquoted_and_decoded_once() {
    for (value, expected) in [
        (r#""a \"b\" c""#, "a \"b\" c"),
        ("%e2%82%ac", "€"),
        ("%41%2525", "A%25"),
        ("plain", "plain"),
    ] {
        let event = binary(&[("ce-subject", value)], b"").unwrap();
        assert_eq!(event.subject(), Some(expected));
    }
    for bad in ["%C0%A0", "%", "%2", "%zz", "\"open", ""] {
        assert!(binary(&[("ce-subject", bad)], b"").is_err(), "{bad}");
    }
}

#[test]
fn binary_mode_is_strict() {
    let json = ("Content-Type", "application/json");
    let event = binary(&[json, ("host", "x")], b" {\"a\":1}\n").unwrap();
    assert_eq!(event.bytes(), b" {\"a\":1}\n");
    assert_eq!(event.content_type(), Some("application/json"));
    for (headers, body) in [
        (&[json][..], &b"{"[..]),
        (&[("ce-datacontenttype", "application/json")], b""),
        (&[("ce-id", "2")], b""),
        (&[("ce-user_id", "2")], b""),
        (&[("ce-data", "2")], b""),
    ] {
        assert!(binary(headers, body).is_err(), "{headers:?}");
    }
    assert!(from_binary([("ce-id", "1")], b"").is_err());
    let deep = "[".repeat(65) + &"]".repeat(65);
    assert!(binary(&[json], deep.as_bytes()).is_err());
    assert_eq!(binary(&[], b"").unwrap().data(), None);
}
