//! The checker's own account of what it did and saw, one line each, synced to disk. The verdict is
//! taken from this file alone and not from anything the clients remember.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::Result;

/// Stands for a position that was not told.
const NOT_TOLD: &str = "-";

/// How a client ends a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Ack,
    Drop,
    DeadLetter,
    /// Back no sooner than this many microseconds later.
    Retry(u64),
}

impl Outcome {
    /// Whether the delivery is over once this is accepted.
    pub(super) fn is_final(self) -> bool {
        !matches!(self, Self::Retry(_))
    }
}

/// What the server said to a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Done,
    Late,
    Already,
    Unknown,
}

/// One line. Times are microseconds since 1970; `sub` is the subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// Written before the event is published for the first time.
    Intent { id: String },
    /// The durable acknowledgement, read at `at`. A duplicate may come without a position.
    Acked {
        id: String,
        position: Option<String>,
        duplicate: bool,
        at: u64,
    },
    /// Published, outcome not known.
    InDoubt { id: String },
    /// Received. The pull began at `asked`, when the record had `since` lines.
    Delivered {
        sub: String,
        id: String,
        token: String,
        attempt: u32,
        since: u64,
        asked: u64,
        at: u64,
    },
    /// Written before a settlement is sent.
    Settling {
        sub: String,
        token: String,
        outcome: Outcome,
        at: u64,
    },
    /// The answer to it, read at `at`.
    Settled {
        sub: String,
        token: String,
        said: Said,
        at: u64,
    },
    /// No answer to the settlement, or none sent: the server died first.
    Adrift { sub: String, token: String },
    /// The server was killed before this line and is gone.
    Down,
    /// The power was cut not before `moment`, and the server is gone.
    Cut { moment: u64 },
    /// Somebody deleted the stream, or what is kept beside it.
    Deleted { stream: bool },
    /// The servers told of every loss so far.
    Told,
    /// Something that must never be, seen by a client: one sentence.
    Wrong { what: String },
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intent { id } => write!(f, "intent {id}"),
            Self::Acked {
                id,
                position,
                duplicate,
                at,
            } => {
                let position = position.as_deref().unwrap_or(NOT_TOLD);
                write!(f, "acked {id} {position} {duplicate} {at}")
            }
            Self::InDoubt { id } => write!(f, "in-doubt {id}"),
            Self::Delivered {
                sub,
                id,
                token,
                attempt,
                since,
                asked,
                at,
            } => write!(
                f,
                "delivered {sub} {id} {token} {attempt} {since} {asked} {at}"
            ),
            Self::Settling {
                sub,
                token,
                outcome,
                at,
            } => match outcome {
                Outcome::Ack => write!(f, "settling {sub} {token} {at} ack"),
                Outcome::Drop => write!(f, "settling {sub} {token} {at} drop"),
                Outcome::DeadLetter => write!(f, "settling {sub} {token} {at} dead"),
                Outcome::Retry(after) => write!(f, "settling {sub} {token} {at} retry {after}"),
            },
            Self::Settled {
                sub,
                token,
                said,
                at,
            } => {
                let said = match said {
                    Said::Done => "done",
                    Said::Late => "late",
                    Said::Already => "already",
                    Said::Unknown => "unknown",
                };
                write!(f, "settled {sub} {token} {said} {at}")
            }
            Self::Adrift { sub, token } => write!(f, "adrift {sub} {token}"),
            Self::Down => f.write_str("down"),
            Self::Cut { moment } => write!(f, "cut {moment}"),
            Self::Deleted { stream } => write!(f, "deleted {stream}"),
            Self::Told => f.write_str("told"),
            Self::Wrong { what } => write!(f, "wrong {}", what.replace('\n', " ")),
        }
    }
}

/// None where the line is none of ours.
pub(super) fn parse(line: &str) -> Option<Entry> {
    if let Some(what) = line.strip_prefix("wrong ") {
        return Some(Entry::Wrong { what: what.into() });
    }
    let mut words = line.split(' ');
    let mut word = || words.next().map(str::to_owned);
    Some(match word()?.as_str() {
        "intent" => Entry::Intent { id: word()? },
        "acked" => Entry::Acked {
            id: word()?,
            position: Some(word()?).filter(|position| position != NOT_TOLD),
            duplicate: word()? == "true",
            at: word()?.parse().ok()?,
        },
        "in-doubt" => Entry::InDoubt { id: word()? },
        "delivered" => Entry::Delivered {
            sub: word()?,
            id: word()?,
            token: word()?,
            attempt: word()?.parse().ok()?,
            since: word()?.parse().ok()?,
            asked: word()?.parse().ok()?,
            at: word()?.parse().ok()?,
        },
        "settling" => Entry::Settling {
            sub: word()?,
            token: word()?,
            at: word()?.parse().ok()?,
            outcome: match word()?.as_str() {
                "ack" => Outcome::Ack,
                "drop" => Outcome::Drop,
                "dead" => Outcome::DeadLetter,
                "retry" => Outcome::Retry(word()?.parse().ok()?),
                _ => return None,
            },
        },
        "settled" => Entry::Settled {
            sub: word()?,
            token: word()?,
            said: match word()?.as_str() {
                "done" => Said::Done,
                "late" => Said::Late,
                "already" => Said::Already,
                "unknown" => Said::Unknown,
                _ => return None,
            },
            at: word()?.parse().ok()?,
        },
        "adrift" => Entry::Adrift {
            sub: word()?,
            token: word()?,
        },
        "down" => Entry::Down,
        "told" => Entry::Told,
        "deleted" => Entry::Deleted {
            stream: word()? == "true",
        },
        "cut" => Entry::Cut {
            moment: word()?.parse().ok()?,
        },
        _ => return None,
    })
}

/// Every line of a record.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines.map(|line| must_be(&line?)).collect()
}

fn must_be(line: &str) -> Result<Entry> {
    parse(line).ok_or_else(|| format!("not a line of a record: {line}").into())
}

/// The file while it is written.
#[derive(Debug)]
pub(super) struct Record(Mutex<(BufWriter<File>, u64)>);

impl Record {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Self(Mutex::new((file, 0))))
    }

    /// How many lines there are.
    pub(super) fn len(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Adds lines, in one piece.
    pub(super) fn add(&self, entries: &[Entry]) -> Result {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            writeln!(inner.0, "{entry}")?;
            inner.1 += 1;
        }
        Ok(())
    }

    /// Every line so far; `path` is the file's.
    pub(super) fn so_far(&self, path: &Path) -> Result<Vec<Entry>> {
        let text = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            inner.0.flush()?;
            std::fs::read_to_string(path)?
        };
        text.lines().map(must_be).collect()
    }

    /// Everything added so far is on the disk when this returns.
    pub(super) fn sync(&self) -> Result {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0.flush()?;
        Ok(inner.0.get_ref().sync_data()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_comes_back() {
        let (sub, id, token) = ("s".to_owned(), "i".to_owned(), "t".to_owned());
        let settling = |outcome| Entry::Settling {
            sub: sub.clone(),
            token: token.clone(),
            outcome,
            at: 9,
        };
        let settled = |said| Entry::Settled {
            sub: sub.clone(),
            token: token.clone(),
            said,
            at: 8,
        };
        let entries = [
            Entry::Intent { id: id.clone() },
            Entry::Acked {
                id: id.clone(),
                position: Some("7".into()),
                duplicate: false,
                at: 6,
            },
            Entry::Acked {
                id: id.clone(),
                position: None,
                duplicate: true,
                at: 6,
            },
            Entry::InDoubt { id: id.clone() },
            Entry::Delivered {
                sub: sub.clone(),
                id,
                token: token.clone(),
                attempt: 2,
                since: 3,
                asked: 4,
                at: 5,
            },
            settling(Outcome::Ack),
            settling(Outcome::Drop),
            settling(Outcome::DeadLetter),
            settling(Outcome::Retry(15)),
            settled(Said::Done),
            settled(Said::Late),
            settled(Said::Already),
            settled(Said::Unknown),
            Entry::Adrift { sub, token },
            Entry::Down,
            Entry::Cut { moment: 10 },
            Entry::Deleted { stream: true },
            Entry::Told,
            Entry::Wrong {
                what: "two words".into(),
            },
        ];
        for entry in entries {
            assert_eq!(parse(&entry.to_string()), Some(entry));
        }
    }
}
