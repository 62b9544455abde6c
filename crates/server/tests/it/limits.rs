//! What is bounded, and what a client hears beyond the bound.

use serde_json::json;

use crate::harness::{refused, start};

#[tokio::test]
async fn a_body_above_its_limit_is_413() {
    let server = start().await;
    let text = "x".repeat(1 << 20);
    let post = server
        .post("/v1/events")
        .json(&json!({ "type": "a", "data": text }));
    refused(post, 413, "too_large").await;
    let put = server
        .put("/v1/subscriptions/s")
        .json(&json!({ "pattern": text }));
    refused(put, 413, "too_large").await;
}
