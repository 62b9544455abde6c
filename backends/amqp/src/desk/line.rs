//! What becomes of what an old line brought: it may come again, to us or to others.

use super::{Desk, REMEMBERED};

impl Desk {
    /// A new channel: what the old one brought is no longer ours to settle, unless it comes again.
    pub(crate) fn new_line(&mut self) -> u64 {
        self.line += 1;
        self.resting.clear();
        self.order.new_line();
        if !self.is_ordered() {
            self.let_go_unbegun();
        }
        self.line
    }

    pub(crate) fn is_line(&self, line: u64) -> bool {
        self.line == line
    }

    /// What nobody had begun would stand before what comes now. Where it comes again to us, we know that
    /// nobody died of it; of very many, where lines break again and again, we do not.
    fn let_go_unbegun(&mut self) {
        if self.unbegun.len() > REMEMBERED {
            self.unbegun.clear();
        }
        let unbegun = self.items.split_off(&(self.cursor.frontier() + 1));
        for item in unbegun.into_values() {
            self.places.remove(&item.note.position);
            self.unbegun.insert(item.note.position);
        }
    }

    /// Whether this one, which is to run alone next, was let go because it is not here: others would wait
    /// for it that are. If it comes again, it does so as from somebody who died.
    pub(super) fn give_up(&mut self, place: u64) -> bool {
        let is_here = |item: &super::Item| item.line == self.line;
        let held = self.items.get(&place);
        if self.is_ordered() || held.is_some_and(is_here) || !self.items.values().any(is_here) {
            return false;
        }
        if let Some(item) = self.items.remove(&place) {
            self.places.remove(&item.note.position);
        }
        self.cursor.forget(place);
        true
    }

    /// Nothing more of the old channel will come again here: it was settled when the line broke, or
    /// somebody else has it.
    pub(crate) fn forget_stale(&mut self) {
        let (line, cursor) = (self.line, &mut self.cursor);
        self.items.retain(|place, item| {
            let stale = item.line != line;
            if stale && *place <= cursor.frontier() {
                cursor.forget(*place);
            }
            !stale
        });
        self.unbegun.clear();
    }
}
