//! What an ordered subscription needs besides: one process at a time has it, and whoever gets it next
//! learns from the book what was going on. Keys stand in their lanes in the cursor as everywhere.

use fanfare_core::consumer::MemberKind;
use fanfare_core::delivery::Settlement;
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::MemberId;
use hashbrown::HashMap;

use super::{Desk, Exhausted, Item};
use crate::subscription::Story;

/// Of an ordered subscription that outlives this process.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The book says that it is ours, since this line.
    ours: bool,
    /// What came before that was known, and whether it came again. All of it may be ours from the line
    /// before, or somebody had it meanwhile: the book says which.
    coming: Vec<(Item, bool)>,
    /// As in the book.
    stories: HashMap<Position, Story>,
    /// Who had it before died: what comes again may have been running there until its lease ended.
    heir: bool,
    rests_until: Option<Timestamp>,
    spent: Vec<Exhausted>,
}

impl Order {
    pub(super) fn new_line(&mut self) {
        self.ours = false;
        self.coming.clear();
    }

    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Until the book says whose it is.
    pub(super) fn put_aside(&mut self, item: Item, again: bool) {
        self.coming.push((item, again));
    }

    pub(super) fn coming(&self) -> usize {
        self.coming.len()
    }

    pub(super) fn take_spent(&mut self) -> Vec<Exhausted> {
        std::mem::take(&mut self.spent)
    }
}

impl Desk {
    /// Whether order is kept between processes too.
    pub(crate) fn is_ordered(&self) -> bool {
        self.spec.ordered && !self.spec.ephemeral
    }

    /// Whether the broker gave it to us, and the book does not say so yet.
    pub(crate) fn is_new_owner(&self) -> bool {
        !self.order.ours && !self.order.coming.is_empty()
    }

    /// The book says that it is ours; `before` is what it said of an owner before, if that was another:
    /// its stories, and whether it left without a word.
    pub(crate) fn own(&mut self, before: Option<(HashMap<Position, Story>, bool)>, now: Timestamp) {
        self.order.ours = true;
        let coming = std::mem::take(&mut self.order.coming);
        if let Some((stories, died)) = before {
            self.forget_stale();
            // What was given back comes before everything else.
            let again = coming.first().is_some_and(|(_, again)| *again);
            self.order.stories = stories;
            self.order.heir = died && again;
            self.order.rests_until = self.order.heir.then(|| now + self.spec.lease);
        }
        for (item, again) in coming {
            self.come(item, again, now);
        }
    }

    /// In the order of the queue, in which the broker also puts back what it took from the dead.
    pub(super) fn come_in_order(&mut self, mut item: Item, again: bool, now: Timestamp) {
        let story = self.order.stories.get(&item.note.position).copied();
        let wait = story.and_then(|story| story.wait(now));
        if let Some(story) = story {
            // The cursor counts the one that it waits after.
            item.note.attempts = story.attempts - u32::from(wait.is_some());
            item.note.first_failure = story.first_failure();
        }
        // Who waits for a retry was not running; who stands behind its key neither, as the cursor knows.
        let alone = again && self.order.heir && wait.is_none();
        if alone && let Some(spent) = self.spent(&item) {
            self.order.spent.push(spent);
            return;
        }
        let place = self.enter(item, alone, now);
        let Some(after) = wait else { return };
        let granted = self.claim(now);
        for (claimed, _) in granted.deliveries {
            let error = String::new();
            let with = if claimed == place {
                Settlement::Retry { after, error }
            } else {
                Settlement::Release
            };
            let _ = self.cursor.settle(claimed, granted.epoch, with, now);
        }
    }

    /// Whether nobody gets anything now.
    pub(super) fn stands_by(&mut self, now: Timestamp) -> bool {
        self.order.rests_until.take_if(|until| *until <= now);
        self.is_ordered() && (!self.order.ours || self.order.rests_until.is_some())
    }

    /// When that ends, if it does not end with a wake-up.
    pub(super) fn rests_until(&self) -> Option<Timestamp> {
        self.order.rests_until
    }

    /// Whether the book knows that this one runs alone.
    pub(super) fn is_noted(&self, place: u64) -> bool {
        !self.is_ordered() || self.missing_note(place).is_none()
    }

    /// What the book must know of it before it runs alone.
    fn missing_note(&self, place: u64) -> Option<(Position, Story)> {
        let item = self
            .items
            .get(&place)
            .filter(|item| self.is_current(item))?;
        let standing = self.cursor.standing(place)?;
        let attempts = item.note.attempts + standing.attempts + 1;
        let noted = self.order.stories.get(&item.note.position);
        if noted.is_some_and(|story| story.attempts >= attempts) {
            return None;
        }
        let failed = item.note.first_failure.or(standing.first_failure);
        Some((item.note.position, Story::new(attempts, failed)))
    }

    /// The same of the one that this member would run alone next.
    pub(crate) fn next_to_note(
        &mut self,
        (member, kind): (MemberId, MemberKind),
        now: Timestamp,
    ) -> Option<(Position, Story)> {
        if !self.is_ordered() || self.paused || self.stands_by(now) {
            return None;
        }
        let suspect = self.cursor.plan(member, kind, 1, now).suspect?;
        self.missing_note(suspect)
    }

    /// The book was changed so.
    pub(crate) fn noted(&mut self, changes: &[(Position, Option<Story>)]) {
        for (position, story) in changes {
            match story {
                Some(story) => self.order.stories.insert(*position, *story),
                None => self.order.stories.remove(position),
            };
        }
    }

    pub(crate) fn has_story(&self, position: Position) -> bool {
        self.order.stories.contains_key(&position)
    }

    /// Everything that whoever comes next must know; none where it is not ours to say. What is held
    /// then stays with the broker, which gives it back in its order.
    pub(crate) fn leave(&mut self, now: Timestamp) -> Option<HashMap<Position, Story>> {
        if !std::mem::take(&mut self.order.ours) {
            return None;
        }
        let mut stories = std::mem::take(&mut self.order.stories);
        for one in self.clear(now) {
            let (note, position) = (one.item.note, one.item.note.position);
            let story = Story::new(note.attempts, note.first_failure);
            match one.wait {
                Some(wait) => stories.insert(position, story.until(now + wait)),
                None if note.attempts > 0 => stories.insert(position, story),
                None => stories.remove(&position),
            };
        }
        Some(stories)
    }
}
