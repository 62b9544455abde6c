//! Starts a server, talks to it, stops it. Nothing here knows what is being tested.

use std::sync::Arc;
use std::time::Duration;

use fanfare::bus::Bus;
use fanfare::core::backend::Backend;
use fanfare_server::{Server, ServerConfig};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs, and a client that knows where.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) client: Client,
    pub(crate) bus: Bus,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<fanfare::core::Result<()>>,
}

/// A server over memory with the defaults.
pub(crate) async fn start() -> Running {
    start_with(ServerConfig::default()).await
}

/// A server over memory.
pub(crate) async fn start_with(config: ServerConfig) -> Running {
    let backend = fanfare::backend("memory:").await.unwrap();
    start_on(backend, config).await
}

/// A server over any backend.
pub(crate) async fn start_on(backend: Arc<dyn Backend>, config: ServerConfig) -> Running {
    let bus = Bus::builder(backend).build().unwrap();
    let config = ServerConfig {
        listen: "127.0.0.1:0".into(),
        ..config
    };
    let server = Server::bind(config, bus.clone()).await.unwrap();
    let url = format!("http://{}", server.local_addr());
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    let client = Client::builder().timeout(PATIENCE).build().unwrap();
    Running {
        url,
        client,
        bus,
        stop: Some(stop),
        task,
    }
}

impl Running {
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    pub(crate) fn put(&self, path: &str) -> RequestBuilder {
        self.client.put(format!("{}{path}", self.url))
    }

    pub(crate) fn patch(&self, path: &str) -> RequestBuilder {
        self.client.patch(format!("{}{path}", self.url))
    }

    pub(crate) fn delete(&self, path: &str) -> RequestBuilder {
        self.client.delete(format!("{}{path}", self.url))
    }

    /// The body of a `GET` that must succeed.
    pub(crate) async fn read(&self, path: &str) -> Value {
        answer(self.get(path), 200).await
    }

    /// The body of a `POST` that must succeed.
    pub(crate) async fn call(&self, path: &str, body: Value) -> Value {
        answer(self.post(path).json(&body), 200).await
    }

    /// Publishes a plain event; its id and position.
    pub(crate) async fn publish(&self, event: Value) -> Value {
        answer(self.post("/v1/events").json(&event), 201).await
    }

    /// Makes a subscription that starts with the oldest event.
    pub(crate) async fn subscribe(&self, name: &str, pattern: &str) {
        let body = json!({ "pattern": pattern, "start": "earliest" });
        let path = format!("/v1/subscriptions/{name}");
        answer(self.put(&path).json(&body), 201).await;
    }

    /// Pulls at most `max` deliveries without waiting long.
    pub(crate) async fn pull(&self, name: &str, max: usize) -> Vec<Value> {
        let path = format!("/v1/subscriptions/{name}/pull");
        let body = self.call(&path, json!({ "max": max, "wait": "5s" })).await;
        body["deliveries"].as_array().unwrap().clone()
    }

    /// Settles deliveries with one outcome; what the answer says about each.
    pub(crate) async fn settle(&self, name: &str, outcome: &str, deliveries: &[Value]) -> Value {
        let settlements: Vec<Value> = deliveries
            .iter()
            .map(|d| json!({ "delivery": d["delivery"], "outcome": outcome }))
            .collect();
        let path = format!("/v1/subscriptions/{name}/settle");
        let mut body = self
            .call(&path, json!({ "settlements": settlements }))
            .await;
        body["results"].take()
    }

    /// Begins to drain.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server is gone.
    pub(crate) async fn stopped(self) {
        let done = tokio::time::timeout(PATIENCE, self.task).await;
        done.unwrap().unwrap().unwrap();
    }

    /// Stops the server and closes the backend.
    pub(crate) async fn shut_down(mut self) {
        self.stop();
        let bus = self.bus.clone();
        self.stopped().await;
        bus.shutdown(Duration::from_secs(1)).await.unwrap();
    }
}

/// Sends a request that must be answered with `status`; its JSON body.
pub(crate) async fn answer(request: RequestBuilder, status: u16) -> Value {
    let response = request.send().await.unwrap();
    let (given, url) = (response.status(), response.url().to_string());
    let text = response.text().await.unwrap();
    assert_eq!(given.as_u16(), status, "{url}: {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// Sends a request that must fail with this status and code; the pointers of its violations.
pub(crate) async fn refused(request: RequestBuilder, status: u16, code: &str) -> Vec<String> {
    let response = request.send().await.unwrap();
    let problem = problem(response, status, code).await;
    let errors = problem["errors"].as_array().unwrap();
    errors
        .iter()
        .map(|e| e["pointer"].as_str().unwrap().to_owned())
        .collect()
}

/// Checks that an answer is a whole problem of this code.
pub(crate) async fn problem(response: Response, status: u16, code: &str) -> Value {
    let (given, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    assert_eq!(given.as_u16(), status, "{text}");
    assert_eq!(headers["content-type"], "application/problem+json");
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["code"], code, "{text}");
    assert_eq!(body["type"], format!("urn:fanfare:problem:{code}"));
    assert_eq!(body["status"], status);
    assert!(body["title"].is_string() && body["detail"].is_string());
    let waits = matches!(
        given,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(headers.contains_key("retry-after"), waits, "{text}");
    body
}
