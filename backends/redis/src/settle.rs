//! Settling and extending: receipts become runs of neighbours, so that a batch costs the server
//! little more than one settlement.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare_core::delivery::{Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::subscription::{OnDead, SubscriptionSpec};
use redis::Value;

use crate::connect::{Answer, Arguments, Wire};
use crate::consume::bodies;
use crate::error::{map, unexpected};
use crate::frame::Slot;
use crate::log::Log;
use crate::scripts;
use crate::subscription::unknown;

/// The most settlements in one script, which the server runs without doing anything else.
const CALL: usize = 2_000;
/// The most bytes of an error text that are kept.
const MAX_ERROR_BYTES: usize = 2_048;

/// Settlements of neighbours with the same epoch.
struct Run {
    epoch: u64,
    first: u128,
    count: usize,
    how: How,
    /// Where their answers go.
    at: Vec<usize>,
}

pub(crate) enum How {
    Ack,
    Drop,
    /// Not what the subscription wants.
    Skip,
    Release,
    Retry(Duration, String),
    Dead(String, String),
}

impl From<Settlement> for How {
    fn from(settlement: Settlement) -> Self {
        match settlement {
            Settlement::Ack => Self::Ack,
            Settlement::Drop => Self::Drop,
            Settlement::Release => Self::Release,
            Settlement::Retry { after, error } => Self::Retry(after, cut(error)),
            Settlement::DeadLetter { reason, error } => Self::Dead(reason, cut(error)),
        }
    }
}

impl How {
    fn joins(&self, next: &Self) -> bool {
        matches!(
            (self, next),
            (Self::Ack, Self::Ack) | (Self::Drop, Self::Drop) | (Self::Release, Self::Release)
        )
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_ERROR_BYTES {
        let end = (0..=MAX_ERROR_BYTES)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

/// Settles in order; a receipt that is given twice counts once.
pub(crate) async fn settle(
    wire: &Wire,
    log: &Log,
    spec: &SubscriptionSpec,
    settlements: Vec<(Receipt, How)>,
) -> Result<Vec<Settled>> {
    let mut answers = Vec::with_capacity(settlements.len());
    let mut rest = settlements.into_iter().peekable();
    while rest.peek().is_some() {
        let part: Vec<_> = rest.by_ref().take(CALL).collect();
        answers.extend(settle_part(wire, log, spec, part).await?);
    }
    Ok(answers)
}

async fn settle_part(
    wire: &Wire,
    log: &Log,
    spec: &SubscriptionSpec,
    settlements: Vec<(Receipt, How)>,
) -> Result<Vec<Settled>> {
    let mut answers = vec![Settled::Unknown; settlements.len()];
    let mut firsts: BTreeMap<Receipt, usize> = BTreeMap::new();
    let mut again = Vec::new();
    let mut ops = Vec::with_capacity(settlements.len());
    for (at, (receipt, how)) in settlements.into_iter().enumerate() {
        if let Some(first) = firsts.get(&receipt) {
            again.push((at, *first));
        } else {
            firsts.insert(receipt, at);
            ops.push((receipt, how, at));
        }
    }
    let runs = runs(ops);
    let dead = runs.iter().filter(|run| matches!(run.how, How::Dead(..)));
    let dead: Vec<u128> = dead.map(|run| run.first).collect();
    let bodies = bodies(wire, log, &spec.name, &dead).await?;
    let arguments = arguments(wire, spec, &runs, &bodies);
    let answer = wire.script(&scripts::SETTLE, &arguments).await?;
    let mut answer = Answer::new(answer, "settle")?;
    if answer.next::<String>()? == "gone" {
        return Err(unknown(&spec.name));
    }
    for run in &runs {
        let letters: String = answer.next()?;
        for (at, letter) in run.at.iter().zip(letters.chars()) {
            if let Some(slot) = answers.get_mut(*at) {
                *slot = read(letter);
            }
        }
    }
    for (at, first) in again {
        let settled = answers.get(first).copied().unwrap_or(Settled::Unknown);
        if let Some(slot) = answers.get_mut(at) {
            *slot = if settled == Settled::Done {
                Settled::Already
            } else {
                settled
            };
        }
    }
    Ok(answers)
}

/// Neighbours together; the first of each run tells how.
fn runs(mut ops: Vec<(Receipt, How, usize)>) -> Vec<Run> {
    ops.sort_by_key(|(receipt, _, _)| (receipt.epoch, receipt.position));
    let mut runs: Vec<Run> = Vec::new();
    for (receipt, how, at) in ops {
        let (epoch, position) = (receipt.epoch, receipt.position.0);
        if let Some(run) = runs.last_mut()
            && run.epoch == epoch
            && run.first + run.count as u128 == position
            && crate::place::head_of(run.first) == crate::place::head_of(position)
            && run.how.joins(&how)
        {
            run.count += 1;
            run.at.push(at);
        } else {
            runs.push(Run {
                epoch,
                first: position,
                count: 1,
                how,
                at: vec![at],
            });
        }
    }
    runs
}

fn arguments(
    wire: &Wire,
    spec: &SubscriptionSpec,
    runs: &[Run],
    bodies: &BTreeMap<u128, Slot>,
) -> Arguments {
    let now = wire.config.clock.now().as_nanos();
    let mut all = Arguments::default().text(spec.name.as_str()).number(now);
    all = all.flag(spec.on_dead == OnDead::Park);
    for run in runs {
        let letter = match &run.how {
            How::Ack => "a",
            How::Drop => "d",
            How::Skip => "n",
            How::Release => "v",
            How::Retry(..) => "r",
            How::Dead(..) => "x",
        };
        all = all.number(run.epoch).text(letter);
        all = all.position(run.first).number(run.count);
        all = match &run.how {
            How::Ack | How::Drop | How::Skip | How::Release => all.text("").text("").text(""),
            How::Retry(after, error) => all.number(after.as_micros()).text(error).text(""),
            How::Dead(reason, error) => {
                let body = bodies.get(&run.first).map(Slot::encode).unwrap_or_default();
                all.text(reason).text(error).bytes(body)
            }
        };
    }
    all
}

/// Makes each lease end `lease` from now.
pub(crate) async fn extend(
    wire: &Wire,
    spec: &SubscriptionSpec,
    receipts: &[Receipt],
    lease: Duration,
) -> Result<Vec<Settled>> {
    let mut answers = Vec::with_capacity(receipts.len());
    for part in receipts.chunks(CALL) {
        let mut arguments = Arguments::default().text(spec.name.as_str());
        arguments = arguments.number(lease.as_micros());
        for receipt in part {
            arguments = arguments.number(receipt.epoch).position(receipt.position.0);
        }
        let answer = wire
            .try_script(&scripts::EXTEND, &arguments)
            .await
            .map_err(map)?;
        let Value::BulkString(letters) = answer else {
            return Err(unexpected("extend"));
        };
        if letters.len() != part.len() {
            return Err(unknown(&spec.name));
        }
        answers.extend(letters.into_iter().map(|letter| read(char::from(letter))));
    }
    Ok(answers)
}

fn read(letter: char) -> Settled {
    match letter {
        'D' => Settled::Done,
        'L' => Settled::Late,
        'A' => Settled::Already,
        _ => Settled::Unknown,
    }
}
