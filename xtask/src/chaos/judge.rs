//! The verdict: a pure function of the checker's record and of what the server holds in the end.
//! It knows the promises and nothing of how a backend keeps them.

mod blackout;
mod forgotten;
mod order;
mod ruins;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::record::{Entry, Outcome, Said};

pub(super) use forgotten::unsettled;

/// The most sentences about one verdict.
const SENTENCES: usize = 50;
/// Clocks are read in microseconds and sent in milliseconds.
const ROUNDING: u64 = 1_000;

/// What the server holds once nothing is in flight or waiting.
#[derive(Debug, Default, Clone)]
pub(super) struct Held {
    /// Id and position of every event, in the order it lists them.
    pub(super) history: Vec<(String, String)>,
    /// What the audit says of each subscription.
    pub(super) audit: BTreeMap<String, Balance>,
    /// Whether the audit is content.
    pub(super) audit_ok: bool,
    /// How often the server told that events are gone.
    pub(super) losses: u64,
    /// There is neither history nor audit: what is settled is gone.
    pub(super) forgets: bool,
    /// How many deliveries the broker itself may have doubled.
    pub(super) copies: u64,
}

/// One subscription in the audit.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Balance {
    pub(super) published: u64,
    pub(super) acknowledged: u64,
    pub(super) dropped: u64,
    pub(super) dead: u64,
    pub(super) unsettled: u64,
}

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// The first sentences about promises that did not hold.
    pub(super) broken: Vec<String>,
    /// How many there were; 0 when every promise held.
    pub(super) breaches: u64,
    /// Events that were acknowledged and are not there.
    pub(super) lost: u64,
    /// Events that are there or were delivered, and that nobody published.
    pub(super) invented: u64,
    /// Events whose publish was acknowledged.
    pub(super) acknowledged: u64,
    /// Events whose publish stayed in doubt, and that the server holds.
    pub(super) kept_in_doubt: u64,
    /// Publishes answered as duplicates, after doubt.
    pub(super) duplicates: u64,
    /// Deliveries received.
    pub(super) deliveries: u64,
    /// Deliveries again of what a death left in the in-flight window.
    pub(super) redelivered: u64,
    /// Events of a subscription that came as if they were two, where the broker may double them.
    pub(super) copies: u64,
    /// The longest publish, settlement and pull, in microseconds; not from the record.
    pub(super) longest_calls: [u64; 3],
}

/// One delivery and how it stands.
#[derive(Debug, Clone)]
struct Lease {
    token: String,
    attempt: u32,
    /// The line of the delivery.
    line: u64,
    /// The line of the first settlement sent that would end it.
    ending: Option<u64>,
    ends: u64,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// In the client's hands.
    Open,
    /// A settlement is on its way; `again` if one was when the server died, which may have
    /// forgotten the lease then.
    Settling {
        outcome: Outcome,
        at: u64,
        again: bool,
    },
    /// A settlement was on its way when the server died.
    Doubtful { outcome: Outcome },
    /// Accepted at this line of the record.
    Accepted {
        outcome: Outcome,
        at: u64,
        line: u64,
    },
    /// No longer ours: late, or the server died while it was open.
    Lost,
}

#[derive(Debug, Default)]
struct Published {
    acknowledged: bool,
    position: Option<String>,
    stored: u32,
    in_doubt: bool,
}

/// Reads the record line by line.
#[derive(Debug, Default)]
struct Judge {
    lease: u64,
    /// As in [`Held`].
    forgets: bool,
    verdict: Verdict,
    /// By subscription and event, with a sentence about each time.
    copies: BTreeMap<(String, String), Vec<String>>,
    events: BTreeMap<String, Published>,
    /// In the order in which they were acknowledged as stored.
    stored: Vec<String>,
    /// By subscription and event.
    leases: BTreeMap<(String, String), Vec<Lease>>,
    /// Which event a subscription's token is for.
    tokens: BTreeMap<(String, String), String>,
}

/// Compares the record with what the server holds. `lease` is in microseconds.
pub(super) fn judge(record: &[Entry], held: &Held, lease: u64) -> Verdict {
    if let Some(verdict) = ruins::judge(record, held) {
        return verdict;
    }
    let mut judge = Judge {
        lease,
        forgets: held.forgets,
        ..Judge::default()
    };
    for (line, entry) in (1..).zip(blackout::apply(record)) {
        judge.read(line, &entry);
    }
    if held.forgets {
        judge.conclude();
    } else {
        judge.compare(held);
    }
    judge.told(held);
    judge.weigh_copies(held);
    let mut verdict = judge.verdict;
    verdict.breaches = verdict.broken.len() as u64;
    verdict.broken.truncate(SENTENCES);
    verdict
}

impl Judge {
    fn broken(&mut self, what: String) {
        self.verdict.broken.push(what);
    }

    fn read(&mut self, line: u64, entry: &Entry) {
        match entry {
            Entry::Intent { id } => {
                self.events.entry(id.clone()).or_default();
            }
            Entry::Acked {
                id,
                position,
                duplicate,
                ..
            } => self.acked(id, position.as_deref(), *duplicate),
            Entry::InDoubt { id } => {
                self.events.entry(id.clone()).or_default().in_doubt = true;
            }
            Entry::Delivered { .. } => self.delivered(line, entry),
            Entry::Settling {
                sub,
                token,
                outcome,
                at,
            } => {
                let (outcome, at) = (*outcome, *at);
                if let Some(lease) = self.lease_of(sub, token) {
                    let again = matches!(lease.standing, Standing::Doubtful { .. });
                    if outcome.is_final() {
                        lease.ending.get_or_insert(line);
                    }
                    lease.standing = Standing::Settling { outcome, at, again };
                }
            }
            Entry::Settled {
                sub, token, said, ..
            } => self.settled(line, sub, token, *said),
            Entry::Adrift { sub, token } => {
                if let Some(lease) = self.lease_of(sub, token) {
                    lease.standing = match lease.standing {
                        Standing::Settling { outcome, .. } => Standing::Doubtful { outcome },
                        Standing::Open => Standing::Lost,
                        standing => standing,
                    };
                }
            }
            Entry::Down | Entry::Cut { .. } | Entry::Deleted { .. } | Entry::Told => {}
            Entry::Wrong { what } => self.broken(what.clone()),
        }
    }

    fn acked(&mut self, id: &str, position: Option<&str>, duplicate: bool) {
        let event = self.events.entry(id.to_owned()).or_default();
        event.acknowledged = true;
        let mut wrong = None;
        let may_be_another = self.forgets && event.in_doubt;
        if let Some(position) = position.filter(|_| !may_be_another) {
            let first = event.position.get_or_insert_with(|| position.to_owned());
            if *first != position {
                wrong = Some(format!("{id}: acknowledged at {first} and at {position}"));
            }
        }
        if duplicate {
            self.verdict.duplicates += 1;
            if event.stored == 0 && !event.in_doubt {
                wrong = Some(format!("{id}: a duplicate of nothing"));
            }
        } else {
            event.stored += 1;
            self.stored.push(id.to_owned());
            if event.stored > 1 && !may_be_another {
                wrong = Some(format!("{id}: stored again"));
            }
        }
        self.verdict.broken.extend(wrong);
    }

    fn delivered(&mut self, line: u64, entry: &Entry) {
        let Entry::Delivered {
            sub,
            id,
            token,
            attempt,
            since,
            asked,
            at,
        } = entry
        else {
            return;
        };
        self.verdict.deliveries += 1;
        if !self.events.contains_key(id) {
            self.verdict.invented += 1;
            self.broken(format!("{sub}: {id} was delivered but never published"));
        }
        let leases = self.leases.entry((sub.clone(), id.clone())).or_default();
        // A client that read its answer later than its lease cannot say who was first.
        let stale = *at >= asked + self.lease;
        let unsure = self.forgets && self.events.get(id).is_some_and(|event| event.in_doubt);
        if !stale && !unsure {
            let counted = if self.forgets { u32::MAX } else { *attempt };
            let said = |what| format!("{sub}: {id} (attempt {attempt}) {what}");
            let mut earlier = leases.iter();
            let clashes = earlier.find_map(|earlier| clash(earlier, counted, *since, *at));
            if let Some(what) = clashes {
                // Two copies know nothing of each other.
                let copies = self.copies.entry((sub.clone(), id.clone()));
                copies.or_default().push(said(what));
            } else {
                self.verdict
                    .broken
                    .extend(fallen(leases, counted).map(said));
            }
        }
        let again = |lease: &Lease| !matches!(lease.standing, Standing::Accepted { .. });
        if leases.last().is_some_and(again) {
            self.verdict.redelivered += 1;
        }
        leases.push(Lease {
            token: token.clone(),
            attempt: *attempt,
            line,
            ending: None,
            ends: asked + self.lease,
            standing: Standing::Open,
        });
        self.tokens.insert((sub.clone(), token.clone()), id.clone());
    }

    fn settled(&mut self, line: u64, sub: &str, token: &str, said: Said) {
        let Some(lease) = self.lease_of(sub, token) else {
            return;
        };
        let Standing::Settling { outcome, at, again } = lease.standing else {
            return;
        };
        lease.standing = match said {
            Said::Done => Standing::Accepted { outcome, at, line },
            // Sent once before the server died: it may have counted then.
            _ if again => Standing::Doubtful { outcome },
            _ => Standing::Lost,
        };
    }

    fn lease_of(&mut self, sub: &str, token: &str) -> Option<&mut Lease> {
        let key = (sub.to_owned(), token.to_owned());
        let id = self.tokens.get(&key)?;
        let leases = self.leases.get_mut(&(key.0, id.clone()))?;
        leases.iter_mut().rev().find(|lease| lease.token == token)
    }

    fn compare(&mut self, held: &Held) {
        let mut ids = BTreeSet::new();
        let mut wrong = Vec::new();
        for (id, position) in &held.history {
            if !ids.insert(id.as_str()) {
                wrong.push(format!("{id}: twice in the history"));
            }
            match self.events.get(id) {
                None => {
                    self.verdict.invented += 1;
                    wrong.push(format!("{id}: in the history but never published"));
                }
                Some(event) => {
                    self.verdict.kept_in_doubt += u64::from(!event.acknowledged);
                    if let Some(acked) = event.position.as_ref().filter(|acked| *acked != position)
                    {
                        wrong.push(format!("{id}: acknowledged at {acked}, kept at {position}"));
                    }
                }
            }
        }
        for (id, event) in &self.events {
            if event.acknowledged {
                self.verdict.acknowledged += 1;
                if !ids.contains(id.as_str()) {
                    self.verdict.lost += 1;
                    wrong.push(format!("{id}: acknowledged and LOST"));
                }
            }
        }
        for (sub, balance) in &held.audit {
            self.balance(sub, balance, &ids, &mut wrong);
        }
        wrong.extend(order::check(&held.history, &self.leases));
        self.verdict.broken.extend(wrong);
    }

    /// What the servers say of themselves.
    fn told(&mut self, held: &Held) {
        if held.losses != 0 {
            let losses = held.losses;
            self.broken(format!("{losses} losses told, and nobody deleted anything"));
        }
        if !held.audit_ok {
            self.broken("the audit finds a breach".into());
        }
    }

    /// Deliveries that may not follow each other are a breach, but for what the broker may double.
    fn weigh_copies(&mut self, held: &Held) {
        let number = self.copies.len() as u64;
        if number <= held.copies {
            self.verdict.copies = number;
        } else {
            let sentences = std::mem::take(&mut self.copies).into_values().flatten();
            self.verdict.broken.extend(sentences);
        }
    }

    /// Every event that is kept was settled once on this subscription, as far as we can know.
    fn balance(&self, sub: &str, balance: &Balance, ids: &BTreeSet<&str>, wrong: &mut Vec<String>) {
        let mut certain = Balance::default();
        let mut doubtful = 0;
        for id in ids {
            let leases = self.leases.get(&(sub.to_owned(), (*id).to_owned()));
            match leases.map(|leases| ending(leases)) {
                Some(Ending::Certain(Outcome::Ack)) => certain.acknowledged += 1,
                Some(Ending::Certain(Outcome::Drop)) => certain.dropped += 1,
                Some(Ending::Certain(_)) => certain.dead += 1,
                Some(Ending::Doubtful) => doubtful += 1,
                Some(Ending::None) => wrong.push(format!("{sub}: {id} was never settled")),
                None => wrong.push(format!("{sub}: {id} was never delivered")),
            }
        }
        let kept = ids.len() as u64;
        if balance.published != kept {
            let published = balance.published;
            wrong.push(format!(
                "{sub}: {published} in the audit, {kept} in the history"
            ));
        }
        if balance.unsettled != 0 {
            let unsettled = balance.unsettled;
            wrong.push(format!(
                "{sub}: {unsettled} unsettled after all was settled"
            ));
        }
        for (what, counted, certain) in [
            ("acknowledged", balance.acknowledged, certain.acknowledged),
            ("dropped", balance.dropped, certain.dropped),
            ("dead", balance.dead, certain.dead),
        ] {
            if counted < certain || counted > certain + doubtful {
                wrong.push(format!(
                    "{sub}: {counted} {what} in the audit, {certain} by our record \
                     and {doubtful} in doubt"
                ));
            }
        }
    }
}

/// Whether the attempt number went back although no retry was in doubt when the server died.
fn fallen(earlier: &[Lease], attempt: u32) -> Option<String> {
    let doubt = |lease: &Lease| match lease.standing {
        Standing::Doubtful { outcome } | Standing::Settling { outcome, .. } => !outcome.is_final(),
        _ => false,
    };
    let highest = earlier.iter().map(|lease| lease.attempt).max()?;
    (attempt < highest && !earlier.iter().any(doubt))
        .then(|| format!("came after attempt {highest}"))
}

/// Why a delivery may not follow an earlier one of the same event on the same subscription.
fn clash(earlier: &Lease, attempt: u32, since: u64, at: u64) -> Option<String> {
    match earlier.standing {
        Standing::Accepted {
            outcome,
            at: sent,
            line,
        } => match outcome {
            Outcome::Retry(after) => retried(earlier, attempt, sent + after, at),
            _ if since >= line => Some("came again after it was settled".into()),
            _ => None,
        },
        Standing::Settling {
            outcome: Outcome::Retry(after),
            at: sent,
            again: false,
        } if at < earlier.ends => retried(earlier, attempt, sent + after, at),
        Standing::Settling { again: false, .. } | Standing::Open if at < earlier.ends => {
            Some("came while another delivery of it was leased".into())
        }
        _ => None,
    }
}

fn retried(earlier: &Lease, attempt: u32, due: u64, at: u64) -> Option<String> {
    if at + ROUNDING < due {
        Some(format!("came back {} us too early", due - at))
    } else if attempt <= earlier.attempt {
        Some("came back from a retry with the same attempt number".into())
    } else {
        None
    }
}

enum Ending {
    Certain(Outcome),
    Doubtful,
    None,
}

fn ending(leases: &[Lease]) -> Ending {
    let mut ending = Ending::None;
    for lease in leases {
        match lease.standing {
            Standing::Accepted { outcome, .. } if outcome.is_final() => {
                return Ending::Certain(outcome);
            }
            Standing::Doubtful { outcome, .. } if outcome.is_final() => ending = Ending::Doubtful,
            _ => {}
        }
    }
    ending
}

#[cfg(test)]
mod tests;
