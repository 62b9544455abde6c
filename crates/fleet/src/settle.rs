//! Settling and extending: receipts become runs of neighbours, so that a batch costs the server
//! little more than one settlement.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare_core::delivery::{Receipt, Settled, Settlement};
use fanfare_core::error::Result;

use crate::engine::{Engine, How, Run};
use crate::slot::Slot;
use crate::subscription::{Stored, unknown};

/// The most settlements in one step of the server.
const CALL: usize = 2_000;
/// The most bytes of an error text that are kept.
const MAX_ERROR_BYTES: usize = 2_048;

impl How {
    fn of(settlement: Settlement) -> Self {
        match settlement {
            Settlement::Ack => Self::Ack,
            Settlement::Drop => Self::Drop,
            Settlement::Release => Self::Release,
            Settlement::Retry { after, error } => Self::Retry(after, cut(error)),
            Settlement::DeadLetter { reason, error } => Self::Dead {
                reason,
                error: cut(error),
                body: Vec::new(),
            },
        }
    }

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
pub(crate) async fn settle<E: Engine>(
    engine: &E,
    stored: &Stored,
    settlements: Vec<(Receipt, Settlement)>,
) -> Result<Vec<Settled>> {
    let mut answers = Vec::with_capacity(settlements.len());
    let mut rest = settlements.into_iter().peekable();
    while rest.peek().is_some() {
        let part: Vec<_> = rest.by_ref().take(CALL).collect();
        answers.extend(settle_part(engine, stored, part).await?);
    }
    Ok(answers)
}

async fn settle_part<E: Engine>(
    engine: &E,
    stored: &Stored,
    settlements: Vec<(Receipt, Settlement)>,
) -> Result<Vec<Settled>> {
    let mut firsts: BTreeMap<Receipt, usize> = BTreeMap::new();
    let mut again = Vec::new();
    let mut ops = Vec::with_capacity(settlements.len());
    for (at, (receipt, settlement)) in settlements.into_iter().enumerate() {
        if let Some(first) = firsts.get(&receipt) {
            again.push((at, *first));
        } else {
            firsts.insert(receipt, at);
            ops.push((receipt, How::of(settlement), at));
        }
    }
    let (mut runs, places) = runs(ops);
    attach_bodies(engine, stored, &mut runs).await?;
    let mut letters = engine.settle(&stored.spec, &runs).await?;
    if letters.is_none() {
        // Made again, it knows nothing of these: they are late, and come again.
        engine.restore(stored).await?;
        letters = engine.settle(&stored.spec, &runs).await?;
    }
    let letters = letters.ok_or_else(|| unknown(&stored.spec.name))?;
    let mut answers = read(&places, &letters, firsts.len() + again.len());
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

/// Makes each lease end `lease` from now.
pub(crate) async fn extend<E: Engine>(
    engine: &E,
    stored: &Stored,
    receipts: &[Receipt],
    lease: Duration,
) -> Result<Vec<Settled>> {
    let mut answers = Vec::with_capacity(receipts.len());
    for part in receipts.chunks(CALL) {
        let ops = part.iter().enumerate();
        let (runs, places) = runs(ops.map(|(at, receipt)| (*receipt, How::Ack, at)).collect());
        let letters = engine.extend(&stored.spec.name, &runs, lease).await?;
        let letters = letters.ok_or_else(|| unknown(&stored.spec.name))?;
        answers.extend(read(&places, &letters, part.len()));
    }
    Ok(answers)
}

/// Neighbours together, and where the answers of each run go.
fn runs(mut ops: Vec<(Receipt, How, usize)>) -> (Vec<Run>, Vec<Vec<usize>>) {
    ops.sort_by_key(|(receipt, _, _)| (receipt.epoch, receipt.position));
    let mut runs: Vec<Run> = Vec::new();
    let mut places: Vec<Vec<usize>> = Vec::new();
    for (receipt, how, at) in ops {
        let (epoch, position) = (receipt.epoch, receipt.position.0);
        if let (Some(run), Some(place)) = (runs.last_mut(), places.last_mut())
            && run.epoch == epoch
            && run.first.checked_add(run.count as u128) == Some(position)
            && run.how.joins(&how)
        {
            run.count += 1;
            place.push(at);
        } else {
            runs.push(Run {
                epoch,
                first: position,
                count: 1,
                how,
            });
            places.push(vec![at]);
        }
    }
    (runs, places)
}

/// A dead letter keeps its event.
async fn attach_bodies<E: Engine>(engine: &E, stored: &Stored, runs: &mut [Run]) -> Result<()> {
    let dead = runs
        .iter()
        .filter(|run| matches!(run.how, How::Dead { .. }));
    let dead: Vec<u128> = dead.map(|run| run.first).collect();
    if dead.is_empty() {
        return Ok(());
    }
    let bodies = engine.bodies(&stored.spec.name, &dead).await?;
    for run in runs {
        if let How::Dead { body, .. } = &mut run.how {
            *body = bodies.get(&run.first).map(Slot::encode).unwrap_or_default();
        }
    }
    Ok(())
}

fn read(places: &[Vec<usize>], letters: &[String], count: usize) -> Vec<Settled> {
    let mut answers = vec![Settled::Unknown; count];
    for (place, letters) in places.iter().zip(letters) {
        // One letter stands for all of the run.
        for (at, letter) in place.iter().zip(letters.chars().cycle()) {
            if let Some(slot) = answers.get_mut(*at) {
                *slot = settled(letter);
            }
        }
    }
    answers
}

fn settled(letter: char) -> Settled {
    match letter {
        'D' => Settled::Done,
        'L' => Settled::Late,
        'A' => Settled::Already,
        _ => Settled::Unknown,
    }
}
