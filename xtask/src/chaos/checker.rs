//! The checker: a process of its own that is never killed. It runs the clients, keeps the record,
//! and gives the verdict. It is told by lines on stdin when there is a server and when it is gone;
//! it answers each with a line on stdout.
//!
//! ```text
//! up ADDRESS..    -> ready                       the first good answer came; clients run
//! down MOMENT     -> landed PUBLISHES SETTLEMENTS   in flight at MOMENT and never answered
//! cut MOMENT      -> the same, after a power cut
//! brace           -> ready                       clients take no breath until the fault
//! aim             -> ready                       a publish and a settlement are on their way
//! fault MOMENT    -> landed PUBLISHES SETTLEMENTS   in flight at MOMENT; clients go on trying
//! healed MOMENT   -> recovered PUBLISHING DELIVERING   after so many microseconds, for all
//! deleted stream|groups -> ready                 somebody deleted that
//! told NUMBER     -> ready                       so many losses were told by now
//! judge COPIES ADDRESS.. -> {verdict}            everything settled, compared; the broker may have doubled so many
//! ```

use std::collections::BTreeMap;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::chance;
use super::http::{Answer, Http};
use super::judge::{self, Balance, Held, Verdict, judge};
use super::load::{InFlight, Load, ORDERED, SUBSCRIPTIONS};
use super::record::{self, Entry, Record};
use crate::Result;
use crate::command::Watchdog;
use crate::json::At;

/// How long a delivery is ours; what a death leaves leased comes back after that.
const LEASE: Duration = Duration::from_millis(500);
/// How long settling everything may stand still: how long it takes is the machine's affair.
const STANDSTILL: Duration = Duration::from_secs(30);
/// How long after a fault's end everything may take to go on.
const RECOVERY: Duration = Duration::from_mins(1);
/// How long a fault waits for work that it can hit; after a kill of RabbitMQ next to nothing is settled
/// for a while.
const AIM: Duration = Duration::from_secs(5);
/// The least time between two looks at the audit while draining.
const LOOK: Duration = Duration::from_millis(200);
/// How long an audit may take.
const AUDIT: Duration = Duration::from_mins(5);
/// Events in one page of history.
const PAGE: usize = 1_000;

/// Serves the commands on stdin until it ends. `path` is the record's.
pub(crate) fn serve(path: &Path, seed: u64) -> Result {
    let load = Load::new(Record::create(path)?);
    std::thread::scope(|scope| {
        load.start(scope, seed);
        let done = commands(&load, path);
        load.end();
        done
    })
}

fn commands(load: &Load, path: &Path) -> Result {
    let mut created = false;
    let mut servers = String::new();
    for line in stdin().lock().lines() {
        let line = line?;
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match command {
            "up" => {
                rest.clone_into(&mut servers);
                subscribe(load, first(rest), &mut created)?;
                load.run(&words(rest));
                "ready".to_owned()
            }
            "down" | "cut" => {
                let moment = rest.parse()?;
                let landed = load.park(moment)?;
                load.record.add(&[if command == "cut" {
                    Entry::Cut { moment }
                } else {
                    Entry::Down
                }])?;
                load.record.sync()?;
                landed_with(landed)
            }
            "brace" => {
                load.in_flight(0);
                load.hurry(true);
                "ready".to_owned()
            }
            "aim" => {
                load.busy(AIM);
                "ready".to_owned()
            }
            "fault" => {
                load.hurry(false);
                landed_with(load.in_flight(rest.parse()?))
            }
            "healed" => healed(load, rest.parse()?, &servers, &mut created)?,
            "deleted" => {
                let stream = rest == "stream";
                load.record.add(&[Entry::Deleted { stream }])?;
                "ready".to_owned()
            }
            "told" => {
                told(load, first(&servers), rest.parse()?)?;
                load.record.add(&[Entry::Told])?;
                "ready".to_owned()
            }
            "judge" => {
                let (copies, servers) = rest.split_once(' ').unwrap_or((rest, ""));
                serde_json::to_string(&conclude(load, path, copies.parse()?, servers)?)?
            }
            _ => return Err(format!("not a command: {line}").into()),
        };
        let mut stdout = stdout().lock();
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn first(servers: &str) -> &str {
    words(servers).first().copied().unwrap_or_default()
}

fn landed_with(landed: InFlight) -> String {
    format!("landed {} {}", landed.publishes, landed.settlements)
}

/// Waits until everybody is served again after a fault that ended at `moment`, and looks whether the
/// subscriptions are still there.
fn healed(load: &Load, moment: u64, servers: &str, created: &mut bool) -> Result<String> {
    let limit = u64::try_from(RECOVERY.as_micros())?;
    let publishing = load.publishing_since(moment, RECOVERY);
    let delivering = load.delivering(RECOVERY);
    for (again, who) in [
        (publishing, "a publisher was not acknowledged"),
        (delivering, "a subscription had no delivery"),
    ] {
        if again.is_none() {
            load.wrong(&format!("{who} again within {RECOVERY:?}"));
        }
    }
    still_subscribed(load, servers, created)?;
    let (publishing, delivering) = (publishing.unwrap_or(limit), delivering.unwrap_or(limit));
    Ok(format!("recovered {publishing} {delivering}"))
}

/// Waits until the server has told of so many losses.
fn told(load: &Load, server: &str, number: u64) -> Result {
    let watch = Watchdog::over(RECOVERY);
    while losses(server)? < number {
        if watch.left().is_zero() {
            load.wrong(&format!("the loss was not told within {RECOVERY:?}"));
            break;
        }
        chance::pause(LOOK);
    }
    Ok(())
}

/// How often the server told that events are gone.
fn losses(server: &str) -> Result<u64> {
    let answer = stats(server)?;
    Ok(answer.body.at("stream/losses").as_u64().unwrap_or(0))
}

/// What a server says of itself. Where its broker takes too long to answer, it is asked again.
fn stats(server: &str) -> Result<Answer> {
    let watch = Watchdog::over(RECOVERY);
    loop {
        let asked = match Http::connect(server) {
            Ok(mut http) => good(http.get("/v1/stats"), "/v1/stats"),
            Err(error) => Err(error.into()),
        };
        if asked.is_ok() || watch.left().is_zero() {
            return asked;
        }
        chance::pause(LOOK);
    }
}

/// Asks one server after the other: one may be the victim, and have more to notice than publishers met.
fn still_subscribed(load: &Load, servers: &str, created: &mut bool) -> Result {
    let watch = Watchdog::over(RECOVERY);
    let mut asked = Ok(());
    for server in words(servers).into_iter().cycle() {
        asked = subscribe(load, server, created);
        if asked.is_ok() || watch.left().is_zero() {
            break;
        }
        chance::pause(LOOK);
    }
    asked
}

/// Makes sure that the subscriptions are there; once made they must never be new again.
fn subscribe(load: &Load, address: &str, created: &mut bool) -> Result {
    let mut http = Http::connect(address)?;
    for sub in SUBSCRIPTIONS {
        let body = json!({
            "pattern": "chaos.**",
            "start": "earliest",
            "ordered": sub == ORDERED,
            "lease": format!("{}ms", LEASE.as_millis()),
            "retry": { "max_attempts": 1_000 },
        });
        let path = format!("/v1/subscriptions/{sub}");
        let kind = "application/json";
        let answer = http.call("PUT", &path, kind, &body.to_string());
        let answer = good(answer, &path)?;
        if *created && answer.status == 201 {
            load.wrong(&format!("the subscription {sub} was lost"));
        }
    }
    *created = true;
    Ok(())
}

/// Settles everything, then compares the synced record with what the servers hold.
fn conclude(load: &Load, path: &Path, copies: u64, servers: &str) -> Result<Verdict> {
    // A publish that is still on its way would be missed where all before it is settled.
    load.park(chance::now())?;
    load.drain(&words(servers));
    let mut http = Http::connect_for(first(servers), AUDIT)?;
    let forgets = forgets(first(servers))?;
    let (mut left, mut watch) = (u64::MAX, Watchdog::over(STANDSTILL));
    while left > 0 && !watch.left().is_zero() {
        let looking = Watchdog::over(AUDIT);
        let now = if forgets {
            open(load, path)?
        } else {
            let (_, audit) = audit(&mut http)?;
            audit.values().map(|balance| balance.unsettled).sum()
        };
        if now != left {
            (left, watch) = (now, Watchdog::over(STANDSTILL));
        }
        if left > 0 {
            // Looking costs the broker what draining needs.
            chance::pause((looking.spent() * 4).clamp(LOOK, STANDSTILL / 4));
        }
    }
    load.park(chance::now())?;
    load.record.sync()?;
    // Waiting may have taken longer than a server keeps an idle connection.
    http = Http::connect_for(first(servers), AUDIT)?;
    let mut held = Held {
        losses: losses(first(servers))?,
        audit_ok: true,
        forgets,
        copies,
        ..Held::default()
    };
    if !forgets {
        (held.audit_ok, held.audit) = audit(&mut http)?;
        held.history = history(&mut http)?;
    }
    let lease = u64::try_from(LEASE.as_micros())?;
    let mut verdict = judge(&record::read(path)?, &held, lease);
    verdict.longest_calls = load.longest_calls();
    Ok(verdict)
}

/// Whether the broker behind it keeps nothing of what was settled.
fn forgets(server: &str) -> Result<bool> {
    let answer = stats(server)?;
    Ok(*answer.body.at("capabilities/history") == "none")
}

/// How many deliveries of acknowledged events nobody has settled yet, by our own record: what lies on a
/// line that broke is in nobody's figures.
fn open(load: &Load, path: &Path) -> Result<u64> {
    let record = load.record.so_far(path)?;
    Ok(judge::unsettled(&record))
}

fn audit(http: &mut Http) -> Result<(bool, BTreeMap<String, Balance>)> {
    let answer = good(http.get("/v1/audit"), "/v1/audit")?;
    // One that the audit does not know counts as empty, so that its events are missed.
    let mut audit: BTreeMap<String, Balance> = SUBSCRIPTIONS
        .into_iter()
        .map(|sub| (sub.to_owned(), Balance::default()))
        .collect();
    for item in answer
        .body
        .at("subscriptions")
        .as_array()
        .into_iter()
        .flatten()
    {
        let count = |name: &str| item.at(name).as_u64().unwrap_or(u64::MAX);
        let name = item.at("name").as_str().unwrap_or_default().to_owned();
        let balance = Balance {
            published: count("published"),
            acknowledged: count("acknowledged"),
            dropped: count("dropped"),
            dead: count("dead"),
            unsettled: count("in_flight").saturating_add(count("waiting")),
        };
        audit.insert(name, balance);
    }
    Ok((*answer.body.at("ok") == true, audit))
}

fn history(http: &mut Http) -> Result<Vec<(String, String)>> {
    let mut history = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/events?limit={PAGE}{cursor}");
        let page = good(http.get(&path), &path)?.body;
        for item in page.at("events").as_array().into_iter().flatten() {
            let id = item.at("event/id").as_str().unwrap_or_default();
            let position = item.at("position").as_str().unwrap_or_default();
            history.push((id.to_owned(), position.to_owned()));
        }
        match page.at("next").as_str() {
            Some(next) => cursor = format!("&cursor={}", escaped(next)),
            None => return Ok(history),
        }
    }
}

fn good(answer: std::result::Result<Answer, super::http::Failure>, path: &str) -> Result<Answer> {
    match answer {
        Ok(answer) if answer.is_good() => Ok(answer),
        Ok(answer) => Err(format!("{path} was answered {} {}", answer.status, answer.body).into()),
        Err(failure) => Err(format!("{path} was not answered: {failure:?}").into()),
    }
}

/// Percent-encoded for a query.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
