//! A record as bytes. Version 1 is frozen.
//!
//! ```text
//! version 1 | head as JSON | place | epoch | texts | leases | exceptions | blocks | parked
//!           | dead | redriven | trimmed | removed | marks
//! ```
//! Numbers are LEB128; positions are written as the difference to the one before; runs of neighbours
//! as one. Errors and keys stand in `texts` once, however many exceptions have them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use fanfare_core::consumer::MemberKind;
use fanfare_core::error::Result;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::changes::Place;
use fanfare_cursor::image::{Image, LeaseImage};
use fanfare_cursor::{Cursor, Exception, MemberId, Standing, Tally};
use fanfare_fleet::{Interest, corrupt, read_spec, texts, write_spec};
use serde::{Deserialize, Serialize};

use super::{Dead, LetterKey, Record, options};

const VERSION: u8 = 1;

/// What people may want to read.
#[derive(Serialize, Deserialize)]
struct Head {
    spec: serde_json::Value,
    interest: Vec<(u64, Vec<String>)>,
    version: u64,
    created: Timestamp,
    paused: bool,
}

/// The record as it is written.
pub(crate) fn encode(record: &Record) -> Result<Bytes> {
    let name = &record.spec.name;
    let broken = |error: serde_json::Error| corrupt(name).because(error);
    let parts = record.interest.parts();
    let interest = parts.map(|(after, patterns)| {
        let after = u64::try_from(after).unwrap_or(u64::MAX);
        (after, texts(patterns))
    });
    let head = Head {
        spec: serde_json::from_str(&write_spec(&record.spec)?).map_err(broken)?,
        interest: interest.collect(),
        version: record.version,
        created: record.created,
        paused: record.paused,
    };
    let mut out = Writer(vec![VERSION]);
    out.bytes(&serde_json::to_vec(&head).map_err(broken)?);
    out.image(&record.cursor.image());
    out.number(record.dead.len() as u64);
    for (key, dead) in &record.dead {
        out.letter(*key, *dead);
    }
    out.number(record.redriven.len() as u64);
    for (position, (key, dead)) in &record.redriven {
        out.number(*position);
        out.letter(*key, *dead);
    }
    out.number(record.trimmed);
    out.pairs(record.removed.iter().map(|(block, n)| (*block, *n)));
    out.pairs(record.marks.iter().copied());
    Ok(out.0.into())
}

/// What [`encode`] wrote.
pub(crate) fn decode(name: &SubscriptionName, bytes: &[u8]) -> Result<Record> {
    read(name, bytes).ok_or_else(|| corrupt(name))
}

fn read(name: &SubscriptionName, bytes: &[u8]) -> Option<Record> {
    let mut rest = Reader(bytes);
    if rest.byte()? != VERSION {
        return None;
    }
    let head: Head = serde_json::from_slice(rest.bytes()?).ok()?;
    let spec = read_spec(name, &head.spec.to_string())?;
    let interest = head.interest.into_iter();
    let interest = interest.map(|(after, patterns)| (u128::from(after), patterns));
    let interest = Interest::parse(interest)?;
    let image = rest.image()?;
    let mut dead = BTreeMap::new();
    for _ in 0..rest.number()? {
        let (key, letter) = rest.letter()?;
        dead.insert(key, letter);
    }
    let mut redriven = BTreeMap::new();
    for _ in 0..rest.number()? {
        redriven.insert(rest.number()?, rest.letter()?);
    }
    let record = Record {
        cursor: Cursor::from_image(options(&spec), image),
        spec,
        version: head.version,
        interest,
        created: head.created,
        paused: head.paused,
        dead,
        redriven,
        trimmed: rest.number()?,
        removed: rest.pairs()?.into_iter().collect(),
        marks: rest.pairs()?,
    };
    rest.0.is_empty().then_some(record)
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn time(&mut self, time: Timestamp) {
        self.number(u64::try_from(time.as_nanos()).unwrap_or(0));
    }

    fn letter(&mut self, (position, generation): LetterKey, dead: Dead) {
        for number in [position, generation, dead.at, dead.tag.into()] {
            self.number(number);
        }
    }

    fn pairs(&mut self, pairs: impl ExactSizeIterator<Item = (u64, u64)>) {
        self.number(pairs.len() as u64);
        for (one, other) in pairs {
            self.number(one);
            self.number(other);
        }
    }

    fn tally(&mut self, tally: Tally) {
        for number in [tally.acknowledged, tally.dropped, tally.dead, tally.extra] {
            self.number(number);
        }
    }

    fn image(&mut self, image: &Image) {
        let place = image.place;
        for number in [place.base, place.frontier, place.generation, image.epoch] {
            self.number(number);
        }
        self.tally(place.closed);
        let mut known = Texts::default();
        let told = image.exceptions.iter().flat_map(|(_, e)| {
            let key = e.key.as_deref();
            key.into_iter()
                .chain((!e.error.is_empty()).then_some(e.error.as_str()))
        });
        let parked = image.parked.iter().map(|(_, key)| &**key);
        for text in told.chain(parked) {
            known.add(text);
        }
        self.number(known.order.len() as u64);
        for text in &known.order {
            self.bytes(text.as_bytes());
        }
        self.number(image.leases.len() as u64);
        for lease in &image.leases {
            self.lease(lease);
        }
        self.number(image.exceptions.len() as u64);
        let mut before = 0;
        for (position, exception) in &image.exceptions {
            self.number(position - before);
            before = *position;
            self.exception(exception, &known);
        }
        self.number(image.blocks.len() as u64);
        for (block, tally) in &image.blocks {
            self.number(*block);
            self.tally(*tally);
        }
        let parked = image.parked.iter();
        self.pairs(parked.map(|(position, key)| (*position, known.number(key))));
    }

    fn lease(&mut self, lease: &LeaseImage) {
        self.number(lease.epoch);
        self.number(lease.member.0);
        self.number(u64::from(lease.kind == MemberKind::External));
        self.time(lease.until);
        let runs: Vec<_> = lease.positions.chunk_by(|a, b| a + 1 == *b).collect();
        self.number(runs.len() as u64);
        let mut before = 0;
        for run in runs {
            let first = run.first().copied().unwrap_or(before);
            self.number(first - before);
            self.number(run.len() as u64);
            before = first + run.len() as u64;
        }
        // Bits that are not there are not set.
        let words = lease.done.iter().rposition(|word| *word != 0);
        let words = words.map_or(0, |last| last + 1);
        self.number(words as u64);
        for word in lease.done.iter().take(words) {
            self.number(*word);
        }
        self.number(lease.later.len() as u64);
        for (position, until) in &lease.later {
            self.number(*position);
            self.time(*until);
        }
    }

    fn exception(&mut self, exception: &Exception, known: &Texts<'_>) {
        let (kind, of) = match exception.standing {
            Standing::Ready => (0, 0),
            Standing::Blocked => (1, 0),
            Standing::Suspect => (2, 0),
            Standing::Leased(epoch) => (3, epoch),
            Standing::Waiting(due) => (4, u64::try_from(due.as_nanos()).unwrap_or(0)),
        };
        let failed = exception.first_failure.map_or(0, Timestamp::as_nanos);
        for number in [
            kind | u64::from(exception.charged) << 3,
            of,
            exception.attempts.into(),
            u64::try_from(failed).unwrap_or(0),
            known.number(&exception.error),
            exception.key.as_deref().map_or(0, |key| known.number(key)),
        ] {
            self.number(number);
        }
    }
}

/// Texts, each once, numbered from 1.
#[derive(Default)]
struct Texts<'a> {
    order: Vec<&'a str>,
    numbers: HashMap<&'a str, u64>,
}

impl<'a> Texts<'a> {
    fn add(&mut self, text: &'a str) {
        let next = self.order.len() as u64 + 1;
        if *self.numbers.entry(text).or_insert(next) == next {
            self.order.push(text);
        }
    }

    fn number(&self, text: &str) -> u64 {
        self.numbers.get(text).copied().unwrap_or(0)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.number().map(|n| Timestamp::from_nanos(n.into()))
    }

    fn letter(&mut self) -> Option<(LetterKey, Dead)> {
        let key = (self.number()?, self.number()?);
        let at = self.number()?;
        let tag = u32::try_from(self.number()?).ok()?;
        Some((key, Dead { at, tag }))
    }

    fn pairs(&mut self) -> Option<Vec<(u64, u64)>> {
        let count = self.number()?;
        (0..count)
            .map(|_| Some((self.number()?, self.number()?)))
            .collect()
    }

    fn tally(&mut self) -> Option<Tally> {
        Some(Tally {
            acknowledged: self.number()?,
            dropped: self.number()?,
            dead: self.number()?,
            extra: self.number()?,
        })
    }

    fn image(&mut self) -> Option<Image> {
        let (base, frontier, generation) = (self.number()?, self.number()?, self.number()?);
        let epoch = self.number()?;
        let place = Place {
            base,
            frontier,
            generation,
            closed: self.tally()?,
        };
        let texts = (0..self.number()?).map(|_| {
            let text = std::str::from_utf8(self.bytes()?).ok()?;
            Some(Arc::from(text))
        });
        let texts: Vec<Arc<str>> = texts.collect::<Option<_>>()?;
        let leases = (0..self.number()?).map(|_| self.lease());
        let leases = leases.collect::<Option<_>>()?;
        let mut before = 0_u64;
        let exceptions = (0..self.number()?).map(|_| {
            before = before.checked_add(self.number()?)?;
            Some((before, self.exception(&texts)?))
        });
        let exceptions = exceptions.collect::<Option<_>>()?;
        let blocks = (0..self.number()?).map(|_| Some((self.number()?, self.tally()?)));
        let blocks = blocks.collect::<Option<_>>()?;
        let parked = self.pairs()?.into_iter();
        let parked = parked.map(|(position, key)| Some((position, text(&texts, key)?.clone())));
        Some(Image {
            place,
            epoch,
            leases,
            exceptions,
            blocks,
            parked: parked.collect::<Option<_>>()?,
        })
    }

    fn lease(&mut self) -> Option<LeaseImage> {
        let (epoch, member) = (self.number()?, MemberId(self.number()?));
        let kind = match self.number()? {
            0 => MemberKind::Embedded,
            _ => MemberKind::External,
        };
        let until = self.time()?;
        let (mut positions, mut before) = (Vec::new(), 0_u64);
        for _ in 0..self.number()? {
            let first = before.checked_add(self.number()?)?;
            before = first.checked_add(self.number()?)?;
            positions.extend(first..before);
        }
        let words = (0..self.number()?).map(|_| self.number());
        let mut done: Vec<u64> = words.collect::<Option<_>>()?;
        done.resize(positions.len().div_ceil(64), 0);
        let later = (0..self.number()?).map(|_| Some((self.number()?, self.time()?)));
        Some(LeaseImage {
            epoch,
            member,
            kind,
            until,
            later: later.collect::<Option<_>>()?,
            positions,
            done,
        })
    }

    fn exception(&mut self, texts: &[Arc<str>]) -> Option<Exception> {
        let (kind, of) = (self.number()?, self.number()?);
        let standing = match kind & 7 {
            0 => Standing::Ready,
            1 => Standing::Blocked,
            2 => Standing::Suspect,
            3 => Standing::Leased(of),
            4 => Standing::Waiting(Timestamp::from_nanos(of.into())),
            _ => return None,
        };
        let attempts = u32::try_from(self.number()?).ok()?;
        let failed = self.number()?;
        let (error, key) = (self.number()?, self.number()?);
        Some(Exception {
            standing,
            attempts,
            charged: kind & 8 != 0,
            first_failure: (failed > 0).then(|| Timestamp::from_nanos(failed.into())),
            error: text(texts, error).map_or_else(String::new, ToString::to_string),
            key: text(texts, key).cloned(),
        })
    }
}

fn text(texts: &[Arc<str>], number: u64) -> Option<&Arc<str>> {
    texts.get(usize::try_from(number).ok()?.checked_sub(1)?)
}
