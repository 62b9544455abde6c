//! Both services as processes on servers of their own, and a plain client of everything.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use fanfare::core::clock::Clock;
use fanfare::core::timestamp::Timestamp;
use fanfare_conformance::broker::{Broker, Durability, postgres, redis};
use redis::aio::MultiplexedConnection;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// How long anything may take before the test has failed.
pub(super) const LIMIT: Duration = Duration::from_mins(1);
/// How often something without a signal is looked at.
const LOOK: Duration = Duration::from_millis(25);
/// The lease of tests, in place of 30 s.
pub(super) const LEASE: Duration = Duration::from_secs(2);

/// A service as a process.
#[derive(Debug)]
pub(super) struct Service {
    program: &'static str,
    port: u16,
    environment: BTreeMap<String, String>,
    child: Option<Child>,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Service {
    fn new(program: &'static str, port: u16, environment: BTreeMap<String, String>) -> Self {
        let (child, log) = (None, Arc::default());
        Self {
            program,
            port,
            environment,
            child,
            log,
        }
    }

    /// Starts it with these variables besides, and waits until it listens.
    pub(super) fn start_with(&mut self, more: &[(&str, &str)]) {
        self.spawn(more);
        self.heard("listening on");
    }

    /// Starts it.
    pub(super) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it without waiting.
    pub(super) fn spawn(&mut self, more: &[(&str, &str)]) {
        self.kill();
        self.log.0.lock().unwrap().clear();
        let mut command = Command::new(self.program);
        command.envs(&self.environment).envs(more.iter().copied());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = self.log.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.0.lock().unwrap().push(line);
                log.1.notify_all();
            }
        });
        self.child = Some(child);
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for a good end.
    pub(super) fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.unwrap().success());
        let ended = child.wait().unwrap();
        assert!(ended.success(), "{ended}: {:?}", self.log.0.lock().unwrap());
    }

    /// Whether it ended by itself.
    pub(super) fn is_gone(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits for a line with these words in its log, and answers it.
    #[track_caller]
    pub(super) fn heard(&self, words: &str) -> String {
        let (log, more) = &*self.log;
        let silent = |log: &mut Vec<String>| !log.iter().any(|line| line.contains(words));
        let log = log.lock().unwrap();
        let (log, _) = more.wait_timeout_while(log, LIMIT, silent).unwrap();
        let line = log.iter().find(|line| line.contains(words));
        line.unwrap_or_else(|| panic!("no `{words}` in {log:#?}"))
            .clone()
    }

    /// Every line with these words so far.
    pub(super) fn lines(&self, words: &str) -> Vec<String> {
        let log = self.log.0.lock().unwrap();
        log.iter()
            .filter(|line| line.contains(words))
            .cloned()
            .collect()
    }

    /// Where it listens.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A request that is answered at all.
    pub(super) async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(StatusCode, Value)> {
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT);
        let http = http.build().unwrap();
        let mut request = http.request(method, format!("{}{path}", self.url()));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status();
        let text = answer.text().await.ok()?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Some((status, body))
    }

    /// A request that is answered well.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let (status, body) = self.try_ask(method, path, body).await.unwrap();
        assert!(status.is_success(), "{path}: {status} {body}");
        body
    }

    /// GET.
    pub(super) async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, None).await
    }

    /// POST.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Value {
        self.ask(Method::POST, path, Some(body)).await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Everything.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) sources: Service,
    pub(super) crawler: Service,
    pub(super) redis: Broker,
    pub(super) postgres: Broker,
}

impl Stage {
    /// Servers, with services that do not run yet.
    pub(super) async fn set() -> Self {
        let redis = Broker::start(redis(), Durability::Always);
        let postgres = Broker::start(postgres(), Durability::Always);
        let (redis, postgres) = tokio::join!(redis, postgres);
        let (redis, postgres) = (redis.unwrap(), postgres.unwrap());
        let admin = client(&postgres.url()).await;
        for name in ["source_manager", "crawler"] {
            admin
                .batch_execute(&format!("CREATE DATABASE {name}"))
                .await
                .unwrap();
        }
        let (sources, crawler) = (free_port(), free_port());
        let environment = [
            ("REDIS_EVENTS_ENABLED", "true".to_owned()),
            ("REDIS_ADDRESS", redis.address().to_string()),
            ("EVENTS_LEASE", format!("{}ms", LEASE.as_millis())),
            ("EVENTS_RETRY_DELAY", "200ms".to_owned()),
            ("SOURCE_MANAGER_LISTEN", format!("127.0.0.1:{sources}")),
            ("SOURCE_MANAGER_URL", format!("http://127.0.0.1:{sources}")),
            (
                "SOURCE_MANAGER_DATABASE_URL",
                database(&postgres, "source_manager"),
            ),
            ("CRAWLER_LISTEN", format!("127.0.0.1:{crawler}")),
            ("CRAWLER_DATABASE_URL", database(&postgres, "crawler")),
            ("RECONCILE_GRACE", "100ms".to_owned()),
        ];
        let environment: BTreeMap<_, _> = environment
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let sm = env!("CARGO_BIN_EXE_source-manager");
        Self {
            sources: Service::new(sm, sources, environment.clone()),
            crawler: Service::new(env!("CARGO_BIN_EXE_crawler"), crawler, environment),
            redis,
            postgres,
        }
    }

    /// With both services at work.
    pub(super) async fn running() -> Self {
        let mut stage = Self::set().await;
        stage.sources.start();
        stage.crawler.start();
        stage
    }

    /// With the crawler alone: who publishes is a plain client.
    pub(super) async fn crawling() -> Self {
        let mut stage = Self::set().await;
        stage.crawler.start();
        stage
    }

    /// A client of one of the databases.
    pub(super) async fn sql(&self, name: &str) -> Client {
        client(&database(&self.postgres, name)).await
    }

    /// A plain client of Redis.
    pub(super) async fn plain(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.redis.url()).unwrap();
        let settings = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
        client
            .get_multiplexed_async_connection_with_config(&settings)
            .await
            .unwrap()
    }

    /// A command of a plain client.
    pub(super) async fn command(&self, words: &[&str]) -> redis::Value {
        self.try_command(words).await.unwrap()
    }

    async fn try_command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.plain().await).await
    }

    /// What existing publishers do.
    pub(super) async fn they_publish(&self, event: &Value) -> String {
        let id = self
            .command(&["XADD", "source-events", "*", "event", &event.to_string()])
            .await;
        redis::from_redis_value(id).unwrap()
    }

    /// The events in the stream, with their entries' ids.
    pub(super) async fn stream(&self) -> Vec<(String, Value)> {
        let entries = self.command(&["XRANGE", "source-events", "-", "+"]).await;
        let entries: Vec<(String, BTreeMap<String, String>)> =
            redis::from_redis_value(entries).unwrap();
        let read = |(id, fields): (String, BTreeMap<String, String>)| {
            assert_eq!(fields.keys().collect::<Vec<_>>(), ["event"]);
            (id, serde_json::from_str(&fields["event"]).unwrap())
        };
        entries.into_iter().map(read).collect()
    }

    /// The events of a source, once there are so many.
    pub(super) async fn events_of(&self, source: &str, count: usize) -> Vec<Value> {
        let found = async || {
            let stream = self.stream().await.into_iter();
            let events: Vec<_> = stream
                .map(|(_, event)| event)
                .filter(|event| event["source_id"] == source)
                .collect();
            (events.len() >= count).then_some(events)
        };
        eventually(found).await
    }

    /// Waits until the group has one entry in its hands.
    pub(super) async fn one_pending(&self) {
        eventually(async || {
            let pending = self
                .try_command(&["XPENDING", "source-events", "crawler-workers"])
                .await;
            let pending: Vec<redis::Value> = redis::from_redis_value(pending.ok()?).ok()?;
            let count: u64 = redis::from_redis_value(pending.into_iter().next()?).ok()?;
            (count == 1).then_some(())
        })
        .await;
    }

    /// Waits until the group has settled everything.
    pub(super) async fn settled(&self) {
        eventually(async || {
            let groups = self
                .try_command(&["XINFO", "GROUPS", "source-events"])
                .await
                .ok()?;
            let groups: Vec<BTreeMap<String, redis::Value>> =
                redis::from_redis_value(groups).ok()?;
            let named = |group: &&BTreeMap<String, redis::Value>| {
                group["name"] == redis::Value::BulkString(b"crawler-workers".to_vec())
            };
            let group = groups.iter().find(named)?;
            let number = |name: &str| redis::from_redis_value::<u64>(group[name].clone()).ok();
            let done = number("lag") == Some(0) && number("pending") == Some(0);
            done.then_some(())
        })
        .await;
    }

    /// The jobs that follow a source.
    pub(super) async fn jobs_of(&self, source: &str) -> Vec<Value> {
        let jobs = self
            .crawler
            .get(&format!("/api/v1/jobs/by-source/{source}"))
            .await;
        let Value::Array(jobs) = jobs else {
            panic!("{jobs}")
        };
        jobs.into_iter()
            .filter(|job| job["auto_managed"] == true)
            .collect()
    }

    /// The job that follows a source, once it is as wanted.
    pub(super) async fn job(&self, source: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(async || {
            let mut jobs = self.jobs_of(source).await;
            assert!(jobs.len() < 2, "{jobs:?}");
            jobs.pop().filter(|job| wanted(job))
        })
        .await
    }

    /// Waits until no job follows a source.
    pub(super) async fn no_job(&self, source: &str) {
        eventually(async || self.jobs_of(source).await.is_empty().then_some(())).await;
    }
}

/// What happened to a source, as existing publishers say it.
#[expect(clippy::needless_pass_by_value, reason = "for json!")]
pub(super) fn event(kind: &str, source: &str, second: u32, payload: Value) -> Value {
    json!({
        "event_id": Uuid::new_v4(),
        "event_type": kind,
        "source_id": source,
        "timestamp": format!("2026-11-20T10:00:{second:02}Z"),
        "payload": payload,
    })
}

/// A new source, as existing publishers say it.
pub(super) fn created(source: &str, second: u32) -> Value {
    let payload = json!({"name": "Example", "url": "http://127.0.0.1:9/", "rate_limit": 10,
        "max_depth": 2, "enabled": true, "priority": "low"});
    event("SOURCE_CREATED", source, second, payload)
}

/// Some source's id.
pub(super) fn some_id() -> String {
    Uuid::new_v4().to_string()
}

/// Between two times of a job.
pub(super) fn seconds_between(job: &Value, from: &str, to: &str) -> f64 {
    let at = |name: &str| job[name].as_str().unwrap().parse::<Timestamp>().unwrap();
    at(to).since(at(from)).as_secs_f64()
}

/// Looks until there is something.
pub(super) async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let clock = Clock::system();
    let until = clock.now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(clock.now() < until, "not in time");
        clock.sleep(LOOK).await;
    }
}

pub(super) async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(super) fn database(postgres: &Broker, name: &str) -> String {
    let url = postgres.url();
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
