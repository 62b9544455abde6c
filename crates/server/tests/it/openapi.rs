//! `/openapi.json` against the router's real routes and the answers of a running server.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Running, start};

/// Fails unless `value` is what `schema` describes.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let target = document.pointer(name.trim_start_matches('#'));
        let target = target.ok_or_else(|| format!("{at}: {name} is not there"))?;
        return check(document, target, value, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let fits = |choice: &Value| check(document, choice, value, at).is_ok();
        return choices
            .iter()
            .any(fits)
            .then_some(())
            .ok_or_else(|| format!("{at}: {value} fits none of anyOf"));
    }
    check_type(schema, value, at)?;
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return Err(format!("{at}: {value} is not one of {allowed:?}"));
    }
    if let Value::Array(items) = value {
        for (index, item) in items.iter().enumerate() {
            check(document, &schema["items"], item, &format!("{at}/{index}"))?;
        }
    }
    if let Value::Object(members) = value {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(name.as_str().unwrap()) {
                return Err(format!("{at}: {name} is missing"));
            }
        }
        for (name, member) in members {
            let described = &schema["properties"][name];
            if described.is_null() && schema["additionalProperties"] == false {
                return Err(format!("{at}: {name} is not described"));
            }
            check(document, described, member, &format!("{at}/{name}"))?;
        }
    }
    Ok(())
}

fn check_type(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{at}: type {other}"),
    };
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(names) => names.iter().any(is),
        name => is(name),
    };
    fits.then_some(())
        .ok_or_else(|| format!("{at}: {value} is no {}", schema["type"]))
}

fn operations(document: &Value) -> Vec<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap();
            methods
                .keys()
                .map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect()
}

async fn send(
    server: &Running,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, String, String) {
    let url = format!("{}{path}", server.url);
    let mut request = server
        .client
        .request(method.parse::<Method>().unwrap(), url);
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let media_type = response.headers().get("content-type");
    let media_type = media_type
        .map_or("", |value| value.to_str().unwrap())
        .to_owned();
    // A stream never ends: its head is enough.
    let text = if media_type.starts_with("text/event-stream") {
        String::new()
    } else {
        response.text().await.unwrap()
    };
    (status, media_type, text)
}

#[tokio::test]
async fn the_document_is_served_and_the_one_in_the_crate() {
    let server = start().await;
    let document = server.read("/openapi.json").await;
    assert_eq!(document, fanfare_server::openapi());
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids: Vec<_> = operations(&document)
        .iter()
        .map(|(method, path)| {
            document["paths"][path][method.to_lowercase()]["operationId"].to_string()
        })
        .collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

#[tokio::test]
async fn every_described_operation_exists_and_no_other() {
    let server = start().await;
    let document = fanfare_server::openapi();
    let described = operations(&document);
    for path in document["paths"].as_object().unwrap().keys() {
        let concrete = path
            .replace("{name}", "s")
            .replace("{id}", "x")
            .replace("{component}", "bus");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let (status, _, text) = send(&server, method, &concrete, None).await;
            let known = described.contains(&(method.to_owned(), path.clone()));
            assert_eq!(status != 405, known, "{method} {path}: {status}");
            assert!(!text.contains(r#""code":"no_route""#), "{method} {path}");
            if known {
                let responses = &document["paths"][path][method.to_lowercase()]["responses"];
                let documented = &responses[status.to_string()];
                assert!(
                    documented.is_object(),
                    "{method} {path} answered {status}: {text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_route_of_the_product_is_described() {
    let document = fanfare_server::openapi();
    for (method, path) in [
        ("post", "/v1/events"),
        ("get", "/v1/events"),
        ("get", "/v1/events/{id}"),
        ("get", "/v1/tail"),
        ("put", "/v1/subscriptions/{name}"),
        ("patch", "/v1/subscriptions/{name}"),
        ("get", "/v1/subscriptions/{name}"),
        ("delete", "/v1/subscriptions/{name}"),
        ("get", "/v1/subscriptions"),
        ("post", "/v1/subscriptions/{name}/pull"),
        ("post", "/v1/subscriptions/{name}/settle"),
        ("post", "/v1/subscriptions/{name}/extend"),
        ("post", "/v1/subscriptions/{name}/pause"),
        ("post", "/v1/subscriptions/{name}/resume"),
        ("post", "/v1/subscriptions/{name}/seek"),
        ("get", "/v1/dead-letters"),
        ("get", "/v1/dead-letters/{id}"),
        ("put", "/v1/dead-letters/{id}"),
        ("post", "/v1/dead-letters/redrive"),
        ("post", "/v1/dead-letters/discard"),
        ("get", "/v1/stats"),
        ("get", "/v1/audit"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/readyz/{component}"),
        ("get", "/health/redis"),
        ("get", "/metrics"),
        ("get", "/openapi.json"),
        ("get", "/"),
    ] {
        let operation = &document["paths"][path][method];
        assert!(
            operation["summary"].as_str().is_some_and(|s| !s.is_empty()),
            "{method} {path}"
        );
    }
}

/// Described operation, path, body. `$TOKEN` is a delivery, `$LETTER` a dead letter.
const CASES: &str = r#"
POST   /v1/events                          /v1/events                      {"type":"a","id":"4"}
POST   /v1/events                          /v1/events                      {"type":"a","id":"4"}
POST   /v1/events                          /v1/events                      [{"type":"a"},{}]
POST   /v1/events                          /v1/events                      [{}]
POST   /v1/events                          /v1/events                      {"typ":"a"}
GET    /v1/events                          /v1/events?limit=2
GET    /v1/events                          /v1/events?x=2
GET    /v1/events/{id}                     /v1/events/1
GET    /v1/events/{id}                     /v1/events/none
GET    /v1/tail                            /v1/tail
GET    /v1/subscriptions                   /v1/subscriptions
GET    /v1/subscriptions/{name}            /v1/subscriptions/s
PUT    /v1/subscriptions/{name}            /v1/subscriptions/s             {"pattern":"a"}
PUT    /v1/subscriptions/{name}            /v1/subscriptions/s             {"pattern":"b"}
PUT    /v1/subscriptions/{name}            /v1/subscriptions/t             {"pattern":"b","start":"1h"}
PATCH  /v1/subscriptions/{name}            /v1/subscriptions/t             {"patterns":["c"]}
DELETE /v1/subscriptions/{name}            /v1/subscriptions/t
DELETE /v1/subscriptions/{name}            /v1/subscriptions/s
POST   /v1/subscriptions/{name}/extend     /v1/subscriptions/s/extend      {"deliveries":["$TOKEN","x"]}
POST   /v1/subscriptions/{name}/settle     /v1/subscriptions/s/settle      {"settlements":[{"delivery":"$TOKEN","outcome":"ack"},{"delivery":"x","outcome":"ack"}]}
POST   /v1/subscriptions/{name}/pause      /v1/subscriptions/s/pause
POST   /v1/subscriptions/{name}/resume     /v1/subscriptions/s/resume
POST   /v1/subscriptions/{name}/pull       /v1/subscriptions/s/pull        {"max":2}
POST   /v1/subscriptions/{name}/seek       /v1/subscriptions/s/seek        {"to":"latest"}
GET    /v1/dead-letters                    /v1/dead-letters
GET    /v1/dead-letters/{id}               /v1/dead-letters/$LETTER
PUT    /v1/dead-letters/{id}               /v1/dead-letters/$LETTER        {"data":2}
POST   /v1/dead-letters/redrive            /v1/dead-letters/redrive        {"filter":{}}
POST   /v1/dead-letters/discard            /v1/dead-letters/discard        {"ids":["x"]}
GET    /v1/stats                           /v1/stats
GET    /v1/audit                           /v1/audit
GET    /livez                              /livez
GET    /readyz                             /readyz
GET    /readyz/{component}                 /readyz/backend
GET    /health/redis                       /health/redis
GET    /metrics                            /metrics
GET    /openapi.json                       /openapi.json
GET    /                                   /
GET    /assets/style.css                   /assets/style.css
"#;

/// A server with one of each, so that no answer is empty, and the cases for it.
async fn furnished() -> (Running, String) {
    let server = start().await;
    server.subscribe("s", "a").await;
    for id in ["1", "2", "3"] {
        server
            .publish(json!({ "type": "a", "id": id, "data": [1] }))
            .await;
    }
    let pulled = server.pull("s", 2).await;
    server.settle("s", "dead_letter", &pulled[..1]).await;
    let letters = server.read("/v1/dead-letters").await;
    let letter = letters["dead_letters"][0]["id"].as_str().unwrap();
    let token = pulled[1]["delivery"].as_str().unwrap();
    let cases = CASES.replace("$TOKEN", token).replace("$LETTER", letter);
    (server, cases)
}

#[tokio::test]
async fn answers_are_what_the_document_says() {
    let (server, cases) = furnished().await;
    let document = server.read("/openapi.json").await;
    let mut covered: Vec<(String, String)> = Vec::new();
    for case in cases.trim().lines() {
        let words: Vec<&str> = case.split_whitespace().collect();
        let (method, template, path) = (words[0], words[1], words[2]);
        let body = words.get(3).map(|body| serde_json::from_str(body).unwrap());
        let (status, media_type, text) = send(&server, method, path, body.as_ref()).await;
        let responses = &document["paths"][template][method.to_lowercase()]["responses"];
        let response = &responses[status.to_string()];
        assert!(response.is_object(), "{case}: {status} {text}");
        covered.push((method.into(), template.into()));
        let media_type = media_type.split(';').next().unwrap();
        if media_type.is_empty() {
            assert!(response["content"].is_null(), "{case}: {status}, no body");
            continue;
        }
        let content = &response["content"][media_type];
        assert!(content.is_object(), "{case}: {status} as {media_type}");
        if !content["schema"].is_null() {
            let value: Value = serde_json::from_str(&text).unwrap();
            check(&document, &content["schema"], &value, case).unwrap();
        }
    }
    for operation in operations(&document) {
        assert!(
            covered.contains(&operation),
            "no answer of {operation:?} was looked at"
        );
    }
}
