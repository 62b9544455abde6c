//! `GET /openapi.json`: OpenAPI 3.1, made from the same routes as the router. The schemas of bodies
//! stand in `openapi/schemas.json`; a test checks them against answers of a running server.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::http::problem::{Code, Problem};
use crate::http::render;
use crate::http::route::{Answer, Content, Parameter, Route};

const SCHEMAS: &str = include_str!("openapi/schemas.json");

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/openapi.json", show)
            .about("This description")
            .answer(200, "OpenAPI 3.1", "OpenApi"),
    ]
}

async fn show(State(app): State<App>) -> Result<Response, Problem> {
    Ok(render::json(StatusCode::OK, app.openapi()))
}

/// The description of the server's API, as `/openapi.json` answers it.
pub fn document() -> Value {
    render(&super::routes())
}

pub(crate) fn render(routes: &[Route]) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Value::Object(path) = path {
            path.insert(route.method.into(), operation(route));
        }
    }
    let mut schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
    if let Some(codes) = schemas.pointer_mut("/Problem/properties/code/enum") {
        *codes = Code::ALL.iter().map(|code| code.as_str()).collect();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Fanfare",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Domain events that never get lost.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "operationId": operation_id(route),
        "parameters": route.parameters.iter().map(parameter).collect::<Vec<_>>(),
        "responses": responses(&route.answers),
    });
    if let Value::Object(operation) = &mut operation
        && !route.bodies.is_empty()
    {
        let content: Map<String, Value> = route.bodies.iter().map(content).collect();
        operation.insert("requestBody".into(), json!({ "content": content }));
    }
    operation
}

/// `get_v1_events_id` and so on: unique because method and path are.
fn operation_id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let path = if words.is_empty() {
        "root".into()
    } else {
        words.join("_")
    };
    format!("{}_{path}", route.method)
}

fn parameter(parameter: &Parameter) -> Value {
    let Parameter {
        place,
        name,
        detail,
    } = parameter;
    let schema = if *name == "type" {
        json!({ "type": "array", "items": { "type": "string" } })
    } else {
        json!({ "type": "string" })
    };
    json!({
        "in": place,
        "name": name,
        "description": detail,
        "required": *place == "path",
        "schema": schema,
    })
}

fn responses(answers: &[Answer]) -> Value {
    let mut responses: BTreeMap<u16, (&str, Map<String, Value>)> = BTreeMap::new();
    for answer in answers {
        // One status may come with several media types, each described by its own answer.
        let (_, contents) = responses
            .entry(answer.status)
            .or_insert((answer.detail, Map::new()));
        contents.extend(answer.content.as_ref().map(content));
    }
    responses
        .into_iter()
        .map(|(status, (detail, contents))| {
            let response = if contents.is_empty() {
                json!({ "description": detail })
            } else {
                json!({ "description": detail, "content": contents })
            };
            (status.to_string(), response)
        })
        .collect()
}

fn content(content: &Content) -> (String, Value) {
    let body = match content.schema {
        Some(name) => {
            json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } })
        }
        None => json!({}),
    };
    (content.media_type.into(), body)
}
