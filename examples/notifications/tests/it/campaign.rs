//! B7 under fire: services and Redis are killed at random moments. `NOTIFICATIONS_KILLS` says how
//! often.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanfare::core::clock::Clock;
use notifications::Store;
use notifications::handlers::notification::of_user;
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::stage::{LIMIT, STREAMS, Service, Stage};

const KILLS: usize = 5;
const USERS: [&str; 4] = ["ada", "bob", "eve", "kim"];
/// How long between two commands of a user, also where one is sent again.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is asked how far the handlers are.
const LOOK: Duration = Duration::from_millis(300);

/// Where the services listen now; the last one that was started stands where the killed one did.
type Places = Arc<Mutex<Vec<String>>>;

fn chance(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// Sends a command until somebody accepts it: with the same key it is the same event each time.
async fn insist(http: &reqwest::Client, places: &Places, command: &Command) {
    let clock = Clock::system();
    let end = clock.now() + LIMIT;
    loop {
        let place = {
            let places = places.lock();
            places[usize::try_from(chance(places.len() as u64)).unwrap()].clone()
        };
        let request = http.request(command.method.clone(), format!("{place}{}", command.path));
        let request = request.header("x-user", command.user);
        let request = request.header("idempotency-key", &command.key);
        let answer = request.json(&command.body).send().await;
        if answer.is_ok_and(|answer| answer.status() == StatusCode::ACCEPTED) {
            return;
        }
        assert!(clock.now() < end, "nobody accepts {}", command.key);
        clock.sleep(PAUSE).await;
    }
}

struct Command {
    method: reqwest::Method,
    path: String,
    user: &'static str,
    key: String,
    body: Value,
}

/// Creates a chat of everybody and posts to it until told to stop; answers how many messages were
/// accepted.
async fn post(user: &'static str, places: Places, stop: Arc<AtomicBool>) -> usize {
    let http = reqwest::Client::builder().no_proxy().timeout(LIMIT);
    let http = http.build().unwrap();
    let create = Command {
        method: reqwest::Method::PUT,
        path: format!("/chats/{user}"),
        user,
        key: format!("{user} creates"),
        body: json!({"title": user, "participants": USERS}),
    };
    insist(&http, &places, &create).await;
    let mut posted = 0;
    while !stop.load(Ordering::Relaxed) {
        let say = Command {
            method: reqwest::Method::POST,
            path: format!("/chats/{user}/messages"),
            user,
            key: format!("message {posted}"),
            body: json!({"text": format!("{user} {posted}")}),
        };
        insist(&http, &places, &say).await;
        posted += 1;
        Clock::system().sleep(PAUSE).await;
    }
    posted
}

#[tokio::test(flavor = "multi_thread")]
async fn b07_killed_services_and_a_killed_redis_lose_nothing_and_tell_nothing_twice() {
    let kills = std::env::var("NOTIFICATIONS_KILLS").map_or(KILLS, |n| n.parse().unwrap());
    let stage = Stage::new().await;
    let mut services = [stage.service(STREAMS).await, stage.service(STREAMS).await];
    let places = services.iter().map(|service| service.url.clone());
    let places = Places::new(Mutex::new(places.collect()));
    let stop = Arc::new(AtomicBool::new(false));
    let posting = USERS.map(|user| tokio::spawn(post(user, places.clone(), stop.clone())));

    let clock = Clock::system();
    for kill in 0..kills {
        clock.sleep(Duration::from_millis(chance(500))).await;
        // Each kind at least once, also in a short run.
        let whom = if kill < 3 {
            kill
        } else {
            usize::try_from(chance(10)).unwrap()
        };
        if whom == 2 {
            stage.redis.kill().unwrap();
            clock.sleep(Duration::from_millis(chance(500))).await;
            stage.redis.restart().await.unwrap();
        } else {
            services[whom % 2].kill();
            clock.sleep(Duration::from_millis(chance(200))).await;
            services[whom % 2] = stage.service(STREAMS).await;
            places.lock()[whom % 2].clone_from(&services[whom % 2].url);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut posted = BTreeMap::new();
    for (user, task) in USERS.into_iter().zip(posting) {
        posted.insert(user, task.await.unwrap());
    }
    let redriven = settle(&services[0], &posted).await;
    let messages: usize = posted.values().sum();
    println!("{kills} kills, {messages} messages, {redriven} dead letters redriven");
    check(&stage, &posted);
}

/// Waits until every message is counted and told, as long as there is progress; answers how many
/// deliveries an operator had to redrive.
async fn settle(service: &Service, posted: &BTreeMap<&str, usize>) -> u64 {
    let clock = Clock::system();
    let (mut redriven, mut last, mut since) = (0, (0, 0), clock.now());
    let total: usize = posted.values().sum();
    let expected = (total, (total + USERS.len()) * (USERS.len() - 1));
    loop {
        redriven += redrive(service).await;
        let mut seen = (0, 0);
        for user in USERS {
            let chat = service.get(&format!("/chats/{user}")).await;
            seen.0 += usize::try_from(chat["messages"].as_u64().unwrap_or(0)).unwrap();
            let told = service.get(&format!("/users/{user}/notifications")).await;
            seen.1 += told.as_array().unwrap().len();
        }
        if seen.0 >= expected.0 && seen.1 >= expected.1 {
            return redriven;
        }
        if seen != last {
            (last, since) = (seen, clock.now());
        }
        let stuck = clock.now().since(since) > LIMIT;
        assert!(
            !stuck,
            "messages counted and lines told: {seen:?} of {expected:?}"
        );
        clock.sleep(LOOK).await;
    }
}

async fn redrive(service: &Service) -> u64 {
    let letters = service.get("/dead-letters").await;
    if letters.as_array().is_some_and(Vec::is_empty) {
        return 0;
    }
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let redrive = http.post(format!("{}/dead-letters/redrive", service.url));
    let answer: Value = redrive.send().await.unwrap().json().await.unwrap();
    answer["done"].as_u64().unwrap_or(0)
}

/// Each user has a line for each message of the others, and one for each of their chats; no line
/// twice.
fn check(stage: &Stage, posted: &BTreeMap<&str, usize>) {
    let store = Store::open(&stage.config(STREAMS).store).unwrap();
    for user in USERS {
        let others = posted.iter().filter(|(other, _)| **other != user);
        let mut expected: Vec<String> = others
            .flat_map(|(other, count)| {
                let messages = (0..*count).map(move |n| format!("{other} {n}"));
                messages.chain([(*other).to_owned()])
            })
            .collect();
        expected.sort_unstable();
        let told = of_user(&store, user).unwrap();
        let mut told: Vec<String> = told.into_iter().map(|one| one.text).collect();
        told.sort_unstable();
        assert!(
            told == expected,
            "{user} was told {} lines, not {}",
            told.len(),
            expected.len()
        );
    }
}
