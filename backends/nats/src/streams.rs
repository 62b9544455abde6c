//! The two JetStream streams of a stream of ours: made where they are missing, checked where they are
//! there. On another service's stream only the second is ours.

use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::connect::{Failed, Wire};
use crate::form::{Form, MessageForm};

/// Before a stream that somebody deleted is made again: nats-server 2.9 forgets a stream first and removes
/// its files then, which would be those of the new one.
const GONE: Duration = Duration::from_millis(500);

/// What a stream holds.
#[derive(Debug, Deserialize)]
pub(crate) struct Holds {
    /// When the server made it.
    pub(crate) created: String,
    pub(crate) config: Settings,
    pub(crate) state: Extent,
}

/// The settings that matter here.
#[derive(Debug, Deserialize)]
pub(crate) struct Settings {
    #[serde(default)]
    subjects: Vec<String>,
    retention: String,
    #[serde(default)]
    max_age: u64,
    #[serde(default)]
    max_msgs: i64,
    #[serde(default)]
    max_bytes: i64,
    #[serde(default)]
    max_msgs_per_subject: i64,
    discard: String,
    #[serde(default)]
    no_ack: bool,
    #[serde(default)]
    storage: String,
    #[serde(default)]
    num_replicas: u64,
}

/// How both streams are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Keeping {
    /// One of them is in the server's memory.
    pub(crate) in_memory: bool,
    /// On how many servers, the one that has fewer.
    pub(crate) replicas: u64,
}

/// How much a stream holds, and from where to where.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Extent {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
}

impl Wire {
    /// Makes what is missing, and refuses what would lose events. `again`: it was there before.
    pub(crate) async fn make_streams(&self, again: bool) -> Result<Holds> {
        let log = match &self.config.form {
            Form::Frames => self.own_log(again).await?,
            Form::Messages(form) => self.foreign_log(form, again).await?,
        };
        let kept = self.make_state(again).await?;
        let both = [&log.config, &kept.config];
        let replicas = both.map(|settings| settings.num_replicas.max(1));
        self.set_keeping(Keeping {
            in_memory: both.iter().any(|settings| settings.storage == "memory"),
            replicas: replicas.into_iter().min().unwrap_or(1),
        });
        Ok(log)
    }

    /// Makes the stream of what stands beside the log, where it is missing.
    pub(crate) async fn make_state(&self, again: bool) -> Result<Holds> {
        let state = json!({
            "name": self.names.state(),
            "subjects": [self.names.states()],
            "retention": "limits",
            "discard": "new",
            "storage": "file",
            "max_msgs_per_subject": 1,
            "duplicate_window": nanos(Duration::from_secs(1)),
            "num_replicas": self.config.replicas,
        });
        let kept = self.make(&state, again).await?;
        check(&kept, 1)?;
        self.set_life(&kept.created);
        Ok(kept)
    }

    async fn own_log(&self, again: bool) -> Result<Holds> {
        let config = &self.config;
        let most = i64::try_from(config.max_bytes).unwrap_or(i64::MAX);
        let log = json!({
            "name": self.names.log(),
            "subjects": [self.names.events()],
            "retention": "limits",
            "discard": "new",
            "storage": "file",
            "max_bytes": if most == 0 { -1 } else { most },
            "duplicate_window": nanos(config.dedup_window),
            "num_replicas": config.replicas,
        });
        let made = self.make(&log, again).await?;
        check(&made, -1)?;
        Ok(made)
    }

    /// As its service made it; without bounds where there is none yet.
    async fn foreign_log(&self, form: &MessageForm, again: bool) -> Result<Holds> {
        let name = self.names.log();
        let call = format!("STREAM.INFO.{name}");
        let found = self.api(&call, &json!({}), self.patience()).await;
        let found: Holds = match found.map_err(Failed::harmless)? {
            Err(refusal) if refusal.is_no_stream() => {
                let log = json!({
                    "name": name,
                    "subjects": [form.subjects()],
                    "retention": "limits",
                    "discard": "old",
                    "storage": "file",
                    "num_replicas": self.config.replicas,
                });
                self.make(&log, again).await?
            }
            found => found.map_err(|refusal| refusal.error())?,
        };
        check_foreign(&found.config, form)?;
        Ok(found)
    }

    async fn make(&self, wanted: &Value, again: bool) -> Result<Holds> {
        let name = wanted
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if again {
            let call = format!("STREAM.INFO.{name}");
            let there = self.api(&call, &json!({}), self.patience()).await;
            match there.map_err(Failed::harmless)? {
                Err(refusal) if refusal.is_no_stream() => self.config.clock.sleep(GONE).await,
                there => return there.map_err(|refusal| refusal.error()),
            }
        }
        let created = self
            .api(&format!("STREAM.CREATE.{name}"), wanted, self.patience())
            .await;
        match created.map_err(Failed::harmless)? {
            Err(refusal) if refusal.is_other_stream() => self.extent_of(name).await,
            made => made.map_err(|refusal| refusal.error()),
        }
    }

    /// What the log holds now, in positions.
    pub(crate) async fn extent(&self) -> Result<Extent> {
        let held = self.extent_of(&self.names.log()).await?.state;
        Ok(Extent {
            first_seq: self.base() + held.first_seq.max(1),
            last_seq: self.base() + held.last_seq,
            ..held
        })
    }

    async fn extent_of(&self, name: &str) -> Result<Holds> {
        self.call(&format!("STREAM.INFO.{name}"), &json!({})).await
    }

    /// The subjects of the state that match, in order.
    pub(crate) async fn subjects(&self, filter: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Listed {
            state: Subjects,
        }
        #[derive(Deserialize)]
        struct Subjects {
            #[serde(default)]
            subjects: std::collections::BTreeMap<String, u64>,
        }
        let call = format!("STREAM.INFO.{}", self.names.state());
        let body = json!({ "subjects_filter": filter });
        let listed: Listed = self.call(&call, &body).await?;
        Ok(listed.state.subjects.into_keys().collect())
    }
}

/// A stream that forgets by itself cannot keep what we promise.
fn check(found: &Holds, per_subject: i64) -> Result<()> {
    let settings = &found.config;
    let bounded = settings.max_msgs > 0 || settings.max_bytes > 0;
    let forgets = [
        (settings.retention != "limits", "retention"),
        (settings.discard != "new" && bounded, "discard"),
        (settings.max_age > 0, "max_age"),
        (
            settings.max_msgs_per_subject > 0 && settings.max_msgs_per_subject != per_subject,
            "max_msgs_per_subject",
        ),
        (settings.subjects.len() != 1, "subjects"),
    ];
    let forgets = forgets.iter().filter(|(forgets, _)| *forgets);
    let named: Vec<_> = forgets.map(|(_, name)| *name).collect();
    if named.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the nats stream was made by somebody else, with settings that forget events: {}",
        named.join(", ")
    );
    Err(Error::new(ErrorKind::Conflict, message))
}

/// Others may bound their stream as they like, as long as it is a log.
fn check_foreign(settings: &Settings, form: &MessageForm) -> Result<()> {
    let mut subjects = settings.subjects.iter();
    let message = if settings.retention != "limits" {
        "the nats stream drops what one reader took: it needs the retention `limits`"
    } else if settings.max_msgs_per_subject > 0 {
        "the nats stream keeps the newest of each subject only (max_msgs_per_subject)"
    } else if settings.no_ack {
        "the nats stream acknowledges nothing (no_ack)"
    } else if !subjects.any(|filter| form.may_stand_in(filter)) {
        "the nats stream has other subjects: `subjects` in the URL says how they begin"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Conflict, message))
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
