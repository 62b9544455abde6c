//! Events as the parameters of `ff.append`: one list per column, names once each.

use std::borrow::Cow;
use std::collections::HashMap;

use fanfare_core::event::Event;
use fanfare_core::record;

use crate::connect::Param;
use crate::row::id_bytes;

/// Answers positions and, where any was there before, which were.
pub(crate) const APPEND: &str =
    "SELECT positions, duplicates FROM ff.append($1, $2, $3, $4, $5, $6, $7, $8)";

/// One list per parameter of [`APPEND`].
#[derive(Debug, Default)]
pub(crate) struct Rows<'a> {
    pub(crate) sources: Names<'a>,
    pub(crate) types: Names<'a>,
    pub(crate) ids: Vec<Cow<'a, [u8]>>,
    pub(crate) keys: Vec<Option<&'a str>>,
    pub(crate) attributes: Vec<Vec<u8>>,
    pub(crate) bodies: Vec<&'a [u8]>,
}

impl<'a> Rows<'a> {
    pub(crate) fn of(events: &[&'a Event]) -> Self {
        let mut rows = Self::default();
        for event in events {
            rows.sources.push(event.source());
            rows.types.push(event.event_type().as_str());
            rows.ids.push(id_bytes(event.id()));
            rows.keys.push(event.key());
            rows.attributes.push(record::encode_attributes(event));
            rows.bodies.push(event.bytes());
        }
        rows
    }

    pub(crate) fn params(&self) -> [Param<'_>; 8] {
        [
            &self.sources.distinct,
            &self.types.distinct,
            &self.sources.places,
            &self.types.places,
            &self.ids,
            &self.keys,
            &self.attributes,
            &self.bodies,
        ]
    }
}

/// Names once each, and for every event the place of its name, from 1.
#[derive(Debug, Default)]
pub(crate) struct Names<'a> {
    pub(crate) distinct: Vec<&'a str>,
    known: HashMap<&'a str, i32>,
    pub(crate) places: Vec<i32>,
}

impl<'a> Names<'a> {
    fn push(&mut self, name: &'a str) {
        let place = *self.known.entry(name).or_insert_with(|| {
            self.distinct.push(name);
            i32::try_from(self.distinct.len()).unwrap_or(i32::MAX)
        });
        self.places.push(place);
    }
}
