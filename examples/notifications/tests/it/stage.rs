//! What the tests stand on: a Redis and a directory of their own, the program as a process or in
//! this one, and short ways to talk to it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use fanfare::core::clock::Clock;
use fanfare_conformance::broker::{Broker, Durability, redis as engine};
use notifications::{App, Config};
use redis::aio::MultiplexedConnection;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take before the test has failed.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
/// How often what has no signal is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// A Redis and a directory.
pub(crate) struct Stage {
    pub(crate) redis: Broker,
    dir: TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let redis = Broker::start(engine(), Durability::Always).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self { redis, dir }
    }

    /// What the shipped files read from the environment.
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "REDIS" => Some(self.redis.address().to_string()),
            "STORE" => Some(self.dir.path().join("store.db").display().to_string()),
            "LISTEN" => Some("127.0.0.1:0".into()),
            _ => None,
        }
    }

    /// The program in this process, configured by a file's text.
    pub(crate) async fn app(&self, file: &str) -> App {
        App::start(&self.config(file)).await.unwrap()
    }

    pub(crate) fn config(&self, file: &str) -> Config {
        let environment = |name: &str| self.variable(name);
        fanfare::config::parse(file, "test.toml", &environment).unwrap()
    }

    /// The program as a process.
    pub(crate) async fn service(&self, file: &str) -> Service {
        let path: PathBuf = self.dir.path().join("service.toml");
        std::fs::write(&path, file).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_notifications"));
        for name in ["REDIS", "STORE", "LISTEN"] {
            command.env(name, self.variable(name).unwrap());
        }
        Service::start(command.arg(path)).await
    }

    /// A command to Redis, by a client that knows nothing of us.
    pub(crate) async fn redis(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let mut client = self.client().await;
        command.query_async(&mut client).await.unwrap()
    }

    async fn client(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.redis.url()).unwrap();
        let settings = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LIMIT))
            .set_response_timeout(Some(LIMIT));
        let connection = client.get_multiplexed_async_connection_with_config(&settings);
        connection.await.unwrap()
    }
}

/// A process of the program. It dies with this value.
pub(crate) struct Service {
    child: Child,
    pub(crate) url: String,
    http: reqwest::Client,
}

impl Service {
    /// Starts it and waits until it says where it listens.
    pub(crate) async fn start(command: &mut Command) -> Self {
        let log = std::env::var_os("NOTIFICATIONS_LOG").is_some();
        let stderr = if log { Stdio::inherit() } else { Stdio::null() };
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(stderr).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = sync_channel(1);
        std::thread::spawn(move || {
            let mut lines = stdout.lines().map_while(Result::ok);
            let _ = tell
                .send(lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned)));
            lines.for_each(drop);
        });
        let said = tokio::task::spawn_blocking(move || told.recv_timeout(LIMIT));
        let url = said
            .await
            .unwrap()
            .unwrap()
            .expect("it says where it listens");
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT);
        let http = http.build().unwrap();
        Self { child, url, http }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and answers whether it ended well.
    pub(crate) async fn stop(mut self) -> bool {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(asked.unwrap().success());
        let mut status = None;
        until("it ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().success()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// A command of `user`, which is accepted.
    pub(crate) async fn put(&self, path: &str, user: &str, body: Value) {
        let request = self.http.put(format!("{}{path}", self.url));
        let answer = request.header("x-user", user).json(&body).send().await;
        assert_eq!(answer.unwrap().status(), StatusCode::ACCEPTED);
    }

    /// The same; answers the event's id.
    pub(crate) async fn post(&self, path: &str, user: &str, body: Value) -> String {
        let request = self.http.post(format!("{}{path}", self.url));
        let answer = request.header("x-user", user).json(&body).send().await;
        let answer: Value = answer.unwrap().json().await.unwrap();
        answer["event"].as_str().unwrap().to_owned()
    }

    /// A chat of ada, bob and eve, created by ada.
    pub(crate) async fn create(&self, chat: &str) {
        let body = json!({"title": "Roof", "participants": ["bob", "eve"]});
        self.put(&format!("/chats/{chat}"), "ada", body).await;
    }

    /// Waits until `path` answers what `expected` wants.
    pub(crate) async fn until(&self, path: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Value::Null;
        until(path, async || {
            seen = self.get(path).await;
            expected(&seen)
        })
        .await;
        seen
    }

    /// Waits until the list at `path` has so many items.
    pub(crate) async fn list(&self, path: &str, items: usize) -> Vec<Value> {
        let there = |list: &Value| list.as_array().is_some_and(|list| list.len() >= items);
        let list = self.until(path, there).await;
        list.as_array().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something that comes by itself.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    let limited = tokio::time::timeout(LIMIT, work);
    limited.await.expect("in time")
}

/// Asks again until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let clock = Clock::system();
    let end = clock.now() + LIMIT;
    while !is_so().await {
        assert!(clock.now() < end, "not in time: {what}");
        clock.sleep(PAUSE).await;
    }
}

/// The shipped files.
pub(crate) const PUBSUB: &str = include_str!("../../pubsub.toml");
pub(crate) const STREAMS: &str = include_str!("../../streams.toml");
